// The copies of the standby: what their keepers tell, how they end, which is prepared next.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "restore/host_identity.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/standby.h"

namespace supervise {
void Standby::serve_copies() {
  for (auto& [id, held] : copies_)
    while (readable_.contains(held.copy->fd())) {
      const auto news = held.copy->read_news();
      if (!news) break;
      on_news(held, *news);
      if (news->kind == CopyNews::Lost) break;
    }
}

void Standby::on_news(Held& held, const CopyNews& news) {
  plan_due_ = true;
  const auto image_of = [&] {
    for (const auto& image : images_)
      if (image.stamp == held.stamp) return image;
    SeenImage gone;
    gone.generation = held.view.generation;
    gone.dir = held.copy->plan().image;
    gone.stamp = held.stamp;
    return gone;
  };
  switch (news.kind) {
    case CopyNews::Progress:
      events_.info("standby.progress", fmt::format("image {}: {}", held.copy->plan().image, news.text));
      held.ready.text = news.text;
      return;
    case CopyNews::Ready: {
      held.ready = news;
      held.view.state = CopyState::Ready;
      held.copy->since = Clock::now();
      verified_.insert(held.stamp);
      claims_.prepare(claim_order(held));
      if (!news.clash.empty() && options_.instances > 1 && !most_.contains(held.view.generation)) {
        most_[held.view.generation] = 1;
        events_.warn("standby.one_instance",
                     fmt::format("image {}: only one instance of it can be on this host: {}",
                                 held.copy->plan().image, news.clash));
      }
      if (!news.text.empty())
        events_.warn("standby.limited", fmt::format("image {} is {}: {}", held.copy->plan().image, news.level, news.text));
      const std::uint64_t kept = news.level == "cached" ? news.pinned_bytes : held.copy->resident_bytes();
      events_.info("standby." + (news.level == "image" ? "verified" : news.level),
                   fmt::format("image {} is {}: verified in {:.1f} ms, restored in {:.1f} ms, {:.1f} MiB kept",
                               held.copy->plan().image, news.level, news.verify_ms, news.restore_ms,
                               static_cast<double>(kept) / (1 << 20)),
                   {{"image", held.copy->plan().image},
                    {"generation", static_cast<std::int64_t>(held.view.generation)},
                    {"verify_ms", news.verify_ms},
                    {"restore_ms", news.restore_ms},
                    {"memory", static_cast<std::int64_t>(kept)}});
      tell_level();
      return;
    }
    case CopyNews::Refused: refuse(image_of(), news.text); return;
    case CopyNews::Failed:
      if (held.view.state == CopyState::Waking) {
        claims_.update(held.copy->plan().image, held.slot, held.copy->identity(), "claimed");
        fail_activation("the image could not be resumed: " + news.text);
      }
      if (++failures_[held.stamp] >= kTries) {
        refuse(image_of(), news.text);
      } else {
        events_.warn("standby.retry", fmt::format("image {}: {}", held.copy->plan().image, news.text));
      }
      return;
    case CopyNews::Awake: finish_activation(held, news); return;
    case CopyNews::TakenOver: follow(held, news); return;
    case CopyNews::Over:
      if (!held.over) held.over = news.status;
      return;
    case CopyNews::Lost: reap_due_ = true; return;  // its end tells more
  }
}

void Standby::refuse(const SeenImage& image, const std::string& reason) {
  if (!refused_.insert(image.stamp).second) return;
  last_refusal_ = fmt::format("image {} is refused: {}", image.dir, reason);
  const auto ready = std::find_if(copies_.begin(), copies_.end(),
                                  [](const auto& c) { return c.second.view.state == CopyState::Ready; });
  events_.error("standby.refused",
                last_refusal_ + (ready == copies_.end() ? "" : fmt::format("; generation {} stays ready",
                                                                           ready->second.view.generation)),
                {{"image", image.dir}, {"generation", static_cast<std::int64_t>(image.generation)}});
}

int Standby::exit_status_of(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

// Its supervisor has died, and that one's keeper goes on.
void Standby::follow(Held& held, const CopyNews& news) {
  const HostIdentity former = held.copy->identity();
  held.copy->follow(news.pid, news.init);
  if (held.unarbitrated.empty())
    claims_.update(held.copy->plan().image, held.slot, held.copy->identity(), "running", &former);
  if (!held.settle_at) held.copy->serve();  // else it comes
  for (const int sig : std::exchange(held.signals, {})) held.copy->signal(sig);
  events_.warn("standby.taken_over", fmt::format("the supervisor of instance {} of image {} (process {}) died; process {} goes on",
                                                 held.slot, held.copy->plan().image, former.pid, news.pid),
               {{"image", held.copy->plan().image}, {"instance", std::int64_t{held.slot}}, {"pid", std::int64_t{news.pid}}});
}

void Standby::reap() {
  if (!reap_due_) return;
  reap_due_ = false;
  plan_due_ = true;
  for (auto it = copies_.begin(); it != copies_.end();) {
    auto next = std::next(it);
    Held& held = it->second;
    int status = 0;
    const pid_t pid = held.copy->pid();
    if (pid > 0 && waitpid(pid, &status, WNOHANG) == pid) {
      while (auto news = held.copy->read_news()) {  // its last words
        on_news(held, *news);
        if (news->kind == CopyNews::Lost) break;
      }
      if (held.copy->pid() == pid) held.copy->ended();
      held.status = exit_status_of(status);
    }
    // Dead, and a keeper has its line still: it goes on, or brings to an end what there is, and tells.
    const bool kept = held.view.state == CopyState::Running && !held.over && held.copy->fd() >= 0 && held.status >= 125;
    if (held.copy->pid() == 0 && !kept) on_copy_end(it, held.over.value_or(held.status));
    it = next;
  }
  std::erase_if(hooks_, [](pid_t pid) { return waitpid(pid, nullptr, WNOHANG) != 0; });
}

void Standby::on_copy_end(std::map<int, Held>::iterator it, int status) {
  Held& held = it->second;
  const std::string image = held.copy->plan().image;
  if (held.view.state == CopyState::Running) {
    if (held.settle_at) after_activation(held);
    claims_.update(image, held.slot, held.copy->identity(), "ended");
    if (!application_status_ || *application_status_ == 0) application_status_ = status;
    events_.info("standby.ended", fmt::format("instance {} of image {} ended with {}", held.slot, image, status),
                 {{"image", image}, {"instance", std::int64_t{held.slot}}, {"status", std::int64_t{status}}});
  } else {
    if (activation_ && activation_->id == it->first) {
      if (held.slot > 0) claims_.update(image, held.slot, held.copy->identity(), "claimed");
      fail_activation("the copy ended before it was awake");
    }
    if (!refused_.contains(held.stamp) && failures_[held.stamp] == 0)
      events_.warn("standby.lost", fmt::format("a copy of image {} ended ({})", image, status));
    if (held.view.state == CopyState::Preparing && !refused_.contains(held.stamp) && ++failures_[held.stamp] >= kTries) {
      SeenImage lost;
      lost.dir = image;
      lost.stamp = held.stamp;
      lost.generation = held.view.generation;
      refuse(lost, fmt::format("its preparation ended {} times, last with {}", kTries, status));
    }
  }
  copies_.erase(it);
  tell_level();
}

void Standby::plan() {
  // Not between a request and its answer.
  if (!plan_due_ || activation_) return;
  plan_due_ = false;
  StandbyView view;
  view.images = images_;
  view.refused = refused_;
  view.most = most_;
  view.instances = options_.instances;
  for (const auto& [id, held] : copies_) view.copies.push_back(held.view);
  const StandbyStep step = plan_standby(view);
  for (const auto& r : step.refuse) refuse(r.image, r.reason);
  for (const int id : step.end) {
    Held& old = copies_.at(id);
    if (activation_ && activation_->id == id) continue;
    const auto newest = copy_to_wake(view.copies);
    const std::uint64_t generation = newest ? copies_.at(*newest).view.generation : 0;
    const std::uint64_t freed = old.copy->resident_bytes();
    const auto began = Clock::now();
    const std::uint64_t was = old.view.generation;
    fault_point("standby.swap").ignore();
    copies_.erase(id);
    events_.info("standby.swapped",
                 fmt::format("generation {} is ready in place of {}, which was ended in {:.1f} ms ({:.1f} MiB freed)",
                             generation, was, ms_between(began, Clock::now()), static_cast<double>(freed) / (1 << 20)),
                 {{"generation", static_cast<std::int64_t>(generation)},
                  {"former", static_cast<std::int64_t>(was)},
                  {"end_ms", ms_between(began, Clock::now())}});
    tell_level();
  }
  // A hand-over that is about to be resumed has the memory and the storage paths for itself.
  if (step.prepare && (committed_.empty() || not_ours_.contains(committed_))) start_copy(*step.prepare);
}

void Standby::start_copy(const SeenImage& image) {
  CopyPlan plan;
  plan.id = next_id_++;
  plan.image = image.dir;
  plan.generation = image.generation;
  plan.level = options_.ready;
  plan.verified = verified_.contains(image.stamp);
  auto copy = Copy::start(options_, events_, plan, [this] { outlive_in_child(); });
  if (!copy) {
    events_.warn("standby.retry", copy.error().message());
    if (++failures_[image.stamp] >= kTries) refuse(image, copy.error().message());
    return;
  }
  Held held;
  held.copy = copy.take();
  held.view = {plan.id, image.generation, image.origin, image.created_unix_ns, CopyState::Preparing};
  held.stamp = image.stamp;
  copies_.emplace(plan.id, std::move(held));
  tell_level();
}

void Standby::tell_level() {
  std::string level = "image";
  for (const auto& [id, held] : copies_)
    if (held.view.state == CopyState::Ready && held.ready.level != "image") level = held.ready.level;
  std::set<std::string> holds;
  for (const auto& [id, held] : copies_)
    holds.insert(held.copy->plan().image.substr(held.copy->plan().image.rfind('/') + 1));
  // Where the application runs there is no standby for its hand-over.
  watch_.tell(level, !was_activated_, {holds.begin(), holds.end()});
}

}  // namespace supervise
