// The warm image: threads that stop before their first external reference, the moment at which all
// are done, and the application that goes on afterwards as if nothing had been.
#include <fmt/format.h>

#include <algorithm>

#include "restore/host_identity.h"
#include "supervisor/session.h"
#include "supervisor/warm/sampler.h"
#include "supervisor/warm/stack.h"

namespace supervise {
namespace {

constexpr Millis kReportEvery{5000};

std::string not_done(const WarmPlan& plan) {
  std::string text;
  for (const ThreadVerdict& v : plan.threads)
    if (!v.done)
      text += fmt::format("{}thread {} ({}) {}", text.empty() ? "" : "; ", v.tid, task_name(v.tid), v.reason);
  return text;
}

}  // namespace

void Session::watch_warm_point() {
  if (config_.warm.mode == WarmRules::Off) return;
  ReferenceFinder::Surroundings around;
  around.processes = [this] { return tracer_.processes(); };
  around.storage_path = [this](std::uint64_t mnt_id) { return paths_.of_mount(mnt_id) != nullptr; };
  around.own_terminal = [this] {
    auto link = proc_link(app_pid_, "fd/0");
    return link && link->starts_with("/dev/pts/") ? *link : std::string();
  };
  around.started_unix_ns = unix_now_ns();
  warm_ = std::make_unique<WarmPoint>(config_.warm, std::move(around));
}

bool Session::holds_for_warm_point(const Task& task) {
  if (!warm_ || !warm_->watching()) return false;
  const bool known = warm_->held().contains(task.tid);
  const Reference* reference = warm_->stops(task);
  if (!reference) return false;
  if (!known)
    events_.info("warm.stopped", fmt::format("thread {} ({}) stopped before {}: {}", task.tid, task_name(task.tid),
                                             reference->call, reference->peer),
                 {{"tid", std::int64_t{task.tid}},
                  {"class", std::string(to_string(reference->cls))},
                  {"peer", reference->peer}});
  return true;
}

// Before everything is held: a thread that was stopped tells no longer what it waited for, and
// nobody waits for the looking around.
void Session::note_threads() {
  image_facts_.clear();
  if (warm_) {
    std::vector<std::string> declared;
    for (const auto& path : paths_.all()) declared.push_back(path->place);
    for (PortabilityFact& f : warm_->portability().report(tracer_.processes(), declared))
      image_facts_.push_back({std::move(f.what), std::move(f.severity), std::move(f.text)});
  }
  thread_notes_.clear();
  for (const auto& [tid, task] : tracer_.all()) {
    ThreadNote& note = thread_notes_[tid];
    if (warm_ && warm_->watching()) {
      if (auto held = warm_->held().find(tid); held != warm_->held().end()) {
        note.ref_class = to_string(held->second.cls);
        note.peer = held->second.peer;
        note.stack = stack_of(task.tgid, tid);
      }
      note.reason = warm_->why(tid);
    }
    if (note.reason.empty()) {
      const WaitSample sample = sample_thread(tid);
      note.reason = sample.kind == WaitKind::Running ? "runs" : sample.detail;
    }
  }
}

void Session::end_warm_point() {
  std::vector<pid_t> held;
  for (const auto& [tid, reference] : warm_->held()) held.push_back(tid);
  warm_->finish();
  for (pid_t tid : held)
    if (Task* task = tracer_.find(tid); task && task->held) tracer_.release(*task);
}

void Session::serve_warm_point() {
  if (!warm_ || tracer_.holding() || !tracer_.has_tasks() || handed_over_) return;
  if (!warm_->watching()) {
    if (config_.refresh.count() > 0 && Clock::now() >= next_refresh_) {
      next_refresh_ = Clock::now() + config_.refresh;
      if (auto image = run_checkpoint(false, "warm"); !image)
        events_.error("warm.refresh_failed", image.error().message());
    }
    return;
  }
  if (Clock::now() < warm_->next_tick()) return;
  const auto tick = warm_->tick(tracer_.all());
  for (pid_t tid : tick.release)
    if (Task* task = tracer_.find(tid); task && task->held) tracer_.release(*task);
  if (tick.plan.answer == WarmPlan::Wait) {
    // Progress, for who wonders why nothing happens.
    if (warm_->held().empty() || Clock::now() < next_warm_report_) return;
    if (next_warm_report_ != Clock::time_point{})
      events_.info("warm.waiting", fmt::format("{} of {} threads are stopped or idle; {}",
                                               std::count_if(tick.plan.threads.begin(), tick.plan.threads.end(),
                                                             [](const auto& v) { return v.done; }),
                                               tick.plan.threads.size(), not_done(tick.plan)));
    next_warm_report_ = Clock::now() + kReportEvery;
    return;
  }
  if (tick.plan.answer == WarmPlan::TakeLate) {
    const std::string late = not_done(tick.plan);
    events_.warn("warm.late", fmt::format("the image is made although not all threads have stopped or are idle {} s "
                                          "after the first: {} (--warm-deadline)",
                                          config_.warm.deadline.count() / 1000, late));
  }
  auto image = run_checkpoint(false, "warm");
  if (!image) events_.error("warm.failed", fmt::format("no warm image: {}; the application goes on", image.error().message()));
  next_refresh_ = Clock::now() + config_.refresh;  // also after a failure: the next one may succeed
  end_warm_point();
}

}  // namespace supervise
