#include "supervisor/warm/warm_point.h"

#include <random>

#include "supervisor/warm/sampler.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

constexpr Millis kLeastPause{20};
constexpr int kPauseShare = 20;  // looking takes at most a twentieth of the time

}  // namespace

WarmPoint::WarmPoint(WarmRules rules, ReferenceFinder::Surroundings surroundings)
    : rules_(std::move(rules)), processes_(surroundings.processes), finder_(std::move(surroundings)),
      watching_(rules_.watches()) {}

void WarmPoint::finish() {
  watching_ = false;
  held_.clear();
  samples_.clear();
}

bool WarmPoint::still_stops(const Task& task) {
  auto found = rules_.mode == WarmRules::Call && task.call->row && task.call->row->name == rules_.call
                   ? std::optional(Reference{RefClass::Call, rules_.call, "asked for", OtherEnd::Outside})
                   : finder_.find(task);
  if (!found || !stops_at(rules_, *found)) return false;
  held_[task.tid] = std::move(*found);
  return true;
}

const Reference* WarmPoint::stops(const Task& task) {
  // The parent of a vfork child can't be stopped, and is not in an image: the child goes on to exec.
  if (!watching_ || task.vfork_child || !task.call || !task.call->row) return nullptr;
  if (!still_stops(task)) return nullptr;
  if (!first_held_) first_held_ = Clock::now();
  return &held_[task.tid];
}

void WarmPoint::forget(pid_t tid) {
  held_.erase(tid);
  samples_.erase(tid);
}

WarmPoint::Tick WarmPoint::tick(const std::map<pid_t, Task>& tasks) {
  const auto began = Clock::now();
  Tick tick;
  std::vector<ThreadView> views;
  std::map<pid_t, std::deque<WaitSample>> samples;
  for (const auto& [tid, task] : tasks) {
    ThreadView view;
    view.pid = task.tgid;
    view.tid = tid;
    if (auto held = held_.find(tid); held != held_.end() && task.held && task.call) {
      if (still_stops(task)) {
        view.held = held->second;
      } else {
        held_.erase(tid);
        tick.release.push_back(tid);
      }
    }
    auto& own = samples[tid] = std::move(samples_[tid]);
    if (!view.held) {
      // A stop that the supervisor is about to serve is no wait.
      WaitSample sample = sample_thread(tid);
      if (task.state != RunState::Running) sample.kind = WaitKind::Running;
      if (task.state == RunState::Listening) {
        sample.kind = WaitKind::Stopped;
        sample.detail = "stopped by job control";
      }
      add_sample(own, std::move(sample));
      view.samples = own;
    }
    views.push_back(std::move(view));
  }
  samples_ = std::move(samples);
  const bool listening =
      rules_.mode == WarmRules::Accept && held_.empty() && ReferenceFinder::any_listens(processes_());
  const auto now = Clock::now();
  tick.plan = plan_warm(views, rules_, {now, first_held_}, listening);
  if (!tick.release.empty()) tick.plan.answer = WarmPlan::Wait;
  last_ = tick.plan;
  // Uneven pauses: even ones can keep step with a loop of the application, and always see the same of it.
  static std::minstd_rand random;
  next_ = now + std::max<Clock::duration>(kLeastPause, (now - began) * kPauseShare) * (100 + random() % 60) / 100;
  return tick;
}

std::string WarmPoint::why(pid_t tid) const {
  for (const ThreadVerdict& v : last_.threads)
    if (v.tid == tid) return v.reason;
  return {};
}

}  // namespace supervise
