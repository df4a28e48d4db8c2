// What the control socket asks of a standby: status, and the way of an activation. Its critical path is
// claim, wake, answer; everything else comes after the answer.
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "restore/host_identity.h"
#include "supervisor/host_command.h"
#include "supervisor/standby.h"

namespace supervise {
namespace {

using nlohmann::json;

// A store that does not answer for so long is lost.
constexpr Millis kClaimTime{5000};
constexpr Millis kSettle{3};

std::string dumped(const json& j) { return j.dump(-1, ' ', false, json::error_handler_t::replace); }

std::string utc_now() {
  const time_t now = time(nullptr);
  tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

constexpr const char* kStates[] = {"preparing", "ready", "waking", "running"};

}  // namespace

void Standby::serve_control() {
  control_->on_readable([this](const ControlRequest& request, ControlReply reply) {
    if (request.command == "status") reply.ok(status_json());
    else if (request.command == "activate") activate(std::move(reply));
    else reply.fail(fmt::format("`{}` is not for a standby", request.command));
  });
}

std::string Standby::status_json() const {
  json copies = json::array();
  for (const auto& [id, held] : copies_) {
    json c{{"image", held.copy->plan().image},
           {"generation", held.view.generation},
           {"state", kStates[static_cast<int>(held.view.state)]},
           {"pid", held.copy->pid()},
           {"since_s", std::chrono::duration<double>(Clock::now() - held.copy->since).count()}};
    if (held.view.state == CopyState::Preparing) {
      if (!held.ready.text.empty()) c["progress"] = held.ready.text;
    } else {
      c["level"] = held.ready.level;
      c["verify_ms"] = held.ready.verify_ms;
      c["restore_ms"] = held.ready.restore_ms;
      c["memory"] = held.copy->resident_bytes();
      c["locked"] = held.ready.pinned_bytes;
      if (!held.ready.text.empty()) c["limited"] = held.ready.text;
    }
    if (held.slot > 0) c["instance"] = held.slot;
    copies.push_back(std::move(c));
  }
  static constexpr const char* kLevels[] = {"image", "cached", "parked"};
  const std::string newest = images_.empty() ? "" : images_.back().dir;
  return dumped({{"name", options_.name},
                 {"pid", getpid()},
                 {"standby", app_dir_},
                 {"ready", kLevels[static_cast<int>(options_.ready)]},
                 {"instances", options_.instances},
                 {"copies", copies},
                 {"last_image", newest},
                 {"committed", committed_},
                 {"refused", last_refusal_},
                 {"store", trouble_.empty() ? "reachable" : trouble_},
                 {"activated", commanded_ || was_activated_}});
}

std::string Standby::nothing_ready() const {
  for (const auto& [id, held] : copies_)
    if (held.view.state == CopyState::Running)
      return fmt::format("image {} was activated here, by {}, as instance {} at {}", held.copy->plan().image,
                         describe(held.copy->identity()), held.slot, held.activated_at);
  for (const auto& [id, held] : copies_)
    if (held.view.state == CopyState::Preparing)
      return fmt::format("image {} is being prepared{}", held.copy->plan().image,
                         held.ready.text.empty() ? "" : " (" + held.ready.text + ")");
  // Those that were activated before, here or elsewhere.
  for (auto image = images_.rbegin(); image != images_.rend(); ++image) {
    if (image->handover || !image->broken.empty() || refused_.contains(image->stamp)) continue;
    if (image->free_slots > 0) break;
    if (!image->taken_by.empty()) return image->taken_by;
    break;
  }
  if (!last_refusal_.empty()) return last_refusal_;
  if (!images_.empty() && images_.back().handover)
    return fmt::format("there is no committed image to activate: {} belongs to its origin", images_.back().dir);
  return fmt::format("there is no committed image to activate, and no warm one, in {}", app_dir_);
}

void Standby::activate(ControlReply reply) {
  if (!committed_.empty() && !not_ours_.contains(committed_) && !was_activated_) {
    commanded_ = true;
    reply.ok(dumped({{"image", committed_}}));
    return;
  }
  waiting_.push_back({std::move(reply), Clock::now()});
}

void Standby::begin_next_activation() {
  while (!activation_ && !waiting_.empty()) {
    Activation next = std::move(waiting_.front());
    waiting_.pop_front();
    if (!next.reply.waiting()) continue;  // it has given up: nobody wants the copy
    std::vector<CopyView> views;
    for (const auto& [id, held] : copies_) views.push_back(held.view);
    const auto id = copy_to_wake(views);
    if (!id) {
      next.reply.fail(nothing_ready());
      continue;
    }
    Held& held = copies_.at(*id);
    next.id = *id;
    activation_ = std::move(next);
    held.view.state = CopyState::Waking;
    if (held.ready.level == "parked") gather(held);
    if (!claims_.claim(claim_order(held))) {
      wake("the process that takes claims is gone");
      continue;
    }
    activation_->claim_pending = true;
    activation_->claim_until = Clock::now() + kClaimTime;
  }
}

// One after the other they work for an activation: on the processor that is awake already, since to wake
// another one takes longer than their work, on virtual machines many times as long.
void Standby::gather(const Held& held) const {
  cpu_set_t here;
  CPU_ZERO(&here);
  const int cpu = sched_getcpu();
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  CPU_SET(cpu, &here);
  for (const pid_t pid : {claims_.process().pid(), held.copy->pid()})
    if (pid > 0) sched_setaffinity(pid, sizeof here, &here);
}

void Standby::scatter(const Held& held) const {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;
  for (const pid_t pid : {claims_.process().pid(), held.copy->pid()})
    if (pid > 0) sched_setaffinity(pid, sizeof all, &all);
}

ClaimOrder Standby::claim_order(const Held& held) const {
  ClaimOrder order;
  order.image = held.copy->plan().image;
  order.slots = options_.instances;
  order.owner = held.copy->identity();
  order.files = held.ready.files;
  for (const auto& [id, other] : copies_)
    if (other.view.generation == held.view.generation) order.from = std::max(order.from, other.slot + 1);
  if (order.from > order.slots) order.from = 1;
  return order;
}

void Standby::serve_claims() {
  while (auto answer = claims_.read_answer()) {
    if (!activation_ || !activation_->claim_pending) continue;
    activation_->claim_pending = false;
    Held& held = copies_.at(activation_->id);
    activation_->claim_ms = ms_between(activation_->asked, Clock::now());
    held.slot = answer->slot;
    if (answer->slot > 0) {
      wake("");
    } else if (answer->taken) {
      held.view.state = CopyState::Ready;
      fail_activation(answer->why);
    } else {
      wake(answer->why);
    }
  }
  const bool gone = claims_.process().ended().has_value();
  if (gone) claims_.start(events_, app_dir_, [this] { let_go_in_child(); }).ignore();
  if (!activation_ || !activation_->claim_pending) return;
  Held& held = copies_.at(activation_->id);
  if (gone && !activation_->retried) {
    activation_->retried = true;
    claims_.claim(claim_order(held));
  } else if (Clock::now() >= activation_->claim_until) {
    activation_->claim_pending = false;
    wake(fmt::format("the store did not answer within {} s", kClaimTime.count() / 1000));
  }
}

// Without a claim when the store is gone, perhaps together with its host: then the command itself, of the
// operator or of the resource manager, is what decides.
void Standby::wake(const std::string& unarbitrated) {
  Held& held = copies_.at(activation_->id);
  if (!unarbitrated.empty() && held.slot == 0) {
    activation_->unarbitrated = unarbitrated;
    held.slot = 1;
    for (const auto& [id, other] : copies_)
      if (&other != &held) held.slot = std::max(held.slot, other.slot + 1);
  }
  held.activated_at = utc_now();
  WakeOrder order;
  order.slot = held.slot;
  if (options_.instances > 1) order.control_name = fmt::format("{}-{}", options_.name, held.slot);
  order.activated = fmt::format("image {} was activated here already, by {}, as instance {} at {}",
                                held.copy->plan().image, describe(held.copy->identity()), held.slot,
                                held.activated_at);
  if (auto s = held.copy->wake(order); !s) fail_activation(s.error().message());
}

void Standby::finish_activation(Held& held, const CopyNews& news) {
  if (held.view.state != CopyState::Waking || !activation_) return;
  held.view.state = CopyState::Running;
  Activation done = std::move(*activation_);
  activation_.reset();
  was_activated_ = true;
  const double total_ms = ms_between(done.asked, Clock::now());
  json body{{"image", held.copy->plan().image},   {"generation", held.view.generation},
            {"instance", held.slot},              {"level", held.ready.level},
            {"pid", held.copy->pid()},            {"claim_ms", done.claim_ms},
            {"wake_ms", news.wake_ms},            {"ms", total_ms},
            {"woken_unix_ns", news.woken_unix_ns}};
  if (!done.unarbitrated.empty())
    body["warning"] = "no claim could be made, so that no other host is kept from the same image: " + done.unarbitrated;
  done.reply.ok(dumped(body));

  // The application runs, and whoever asked knows. The claim was visible to every host before the wake;
  // this makes it durable. Were this host to crash before that, the application would be gone with the claim.
  if (done.unarbitrated.empty()) claims_.update(held.copy->plan().image, held.slot, held.copy->identity(), "running");
  held.wake_ms = news.wake_ms;
  held.claim_ms = done.claim_ms;
  held.total_ms = total_ms;
  held.unarbitrated = done.unarbitrated;
  // The rest leaves the processors to the application and to the client's end for a moment.
  held.settle_at = Clock::now() + kSettle;
}

void Standby::settle_activated() {
  for (auto& [id, held] : copies_) {
    if (!held.settle_at || Clock::now() < *held.settle_at) continue;
    held.settle_at.reset();
    after_activation(held);
  }
}

void Standby::after_activation(Held& held) {
  scatter(held);
  if (options_.instances == 1) control_.reset();  // the session answers from now on
  held.copy->serve();
  run_on_activate(held);
  events_.info("standby.activated",
               fmt::format("image {} was activated as instance {}: claimed after {:.3f} ms, awake after {:.3f} ms "
                           "(the wake itself {:.3f} ms)", held.copy->plan().image, held.slot, held.claim_ms,
                           held.total_ms, held.wake_ms),
               {{"image", held.copy->plan().image},
                {"generation", static_cast<std::int64_t>(held.view.generation)},
                {"instance", std::int64_t{held.slot}},
                {"level", held.ready.level},
                {"claim_ms", held.claim_ms},
                {"wake_ms", held.wake_ms},
                {"ms", held.total_ms},
                {"memory", static_cast<std::int64_t>(held.copy->resident_bytes())}});
  if (!held.unarbitrated.empty())
    events_.warn("standby.unarbitrated", "no other host is kept from the same image: " + held.unarbitrated);
  tell_level();
}

void Standby::fail_activation(const std::string& why) {
  if (!activation_) return;
  Activation failed = std::move(*activation_);
  activation_.reset();
  if (auto held = copies_.find(failed.id); held != copies_.end()) scatter(held->second);
  events_.warn("standby.not_activated", why);
  failed.reply.fail(why);
}

// In a process of its own that ends neither with us nor with the application, but with the command: what it
// does for the application (an address, a registration) must not stay half done.
void Standby::run_on_activate(const Held& held) {
  if (options_.on_activate.empty()) return;
  const pid_t pid = fork();
  if (pid < 0) events_.warn("standby.on_activate", errno_error("fork").message());
  if (pid > 0) hooks_.insert(pid);
  if (pid != 0) return;
  outlive_in_child();
  setsid();
  auto end = run_host_command(options_.on_activate,
                              {"SUPERVISE_NAME=" + options_.name, "SUPERVISE_IMAGE=" + held.copy->plan().image,
                               fmt::format("SUPERVISE_GENERATION={}", held.view.generation),
                               fmt::format("SUPERVISE_INSTANCE={}", held.slot),
                               fmt::format("SUPERVISE_PID={}", held.copy->identity().pid)},
                              Deadline::in(options_.on_activate_deadline));
  if (!end && end.error().err == ETIMEDOUT)
    events_.warn("standby.on_activate", fmt::format("--on-activate was killed after {} s (--on-activate-deadline)",
                                                    static_cast<double>(options_.on_activate_deadline.count()) / 1000));
  else if (!end) events_.warn("standby.on_activate", end.error().message());
  else if (!end->success()) events_.warn("standby.on_activate", "--on-activate ended with " + end->describe());
  _exit(0);
}

}  // namespace supervise
