#include "supervisor/warm/planner.h"

#include <fmt/format.h>

#include <algorithm>

#include "seccomp/syscall_table.h"

namespace supervise {
namespace {

// A poll loop may use this share of the time that it is watched.
constexpr std::uint64_t kPollShare = 10;  // per cent
constexpr int kLoops = 2;                 // returns to the same place that make a loop

bool same_place(const WaitSample& a, const WaitSample& b) {
  return a.nr == b.nr && a.sp == b.sp && a.pc == b.pc && a.kind == b.kind;
}

std::string in_words(const WaitSample& s) {
  if (!s.detail.empty()) return s.detail;
  return std::string(syscall_name(s.nr));
}

}  // namespace

ThreadVerdict judge(const ThreadView& t, Clock::time_point now, Millis settle) {
  ThreadVerdict v{t.tid, false, ""};
  if (t.held) {
    v.done = true;
    v.reason = fmt::format("stopped before {}: {}", t.held->call, t.held->peer);
    return v;
  }
  if (t.samples.empty()) {
    v.reason = "not seen yet";
    return v;
  }
  const WaitSample& last = t.samples.back();
  switch (last.kind) {
    case WaitKind::Stopped:
      v.done = true;
      v.reason = last.detail;
      return v;
    case WaitKind::Running: v.reason = "runs"; return v;
    case WaitKind::Disk: v.reason = "waits for storage in " + in_words(last); return v;
    default: break;
  }
  // Back to where it began to be seen in this place; a sleeper's whole stay there counts.
  auto first = t.samples.rbegin();
  int returns = 0;
  for (auto it = t.samples.rbegin(); it != t.samples.rend() && same_place(*it, last); first = it++) {
    if (it != t.samples.rbegin() && it->switches != first->switches) ++returns;
    if (last.kind != WaitKind::Sleep && last.at - first->at >= settle) break;
  }
  const auto watched = last.at - first->at;
  const auto watched_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(watched).count());
  const bool loop = returns >= kLoops;
  const bool quiet = watched >= settle && now - last.at < settle;
  const bool cheap = (last.cpu_ns - first->cpu_ns) * 100 <= watched_ns * kPollShare;
  switch (last.kind) {
    case WaitKind::Event:
      v.done = quiet && returns == 0;
      v.reason = v.done ? "waits: " + in_words(last) : "is woken again and again in " + in_words(last);
      if (!quiet && returns == 0) v.reason = "waits only since now: " + in_words(last);
      return v;
    case WaitKind::Timed:
      v.done = quiet && (returns == 0 || (loop && cheap));
      v.reason = (returns > 0 ? "polls: " : "waits, with a time-out: ") + in_words(last);
      return v;
    default:  // Sleep
      v.done = quiet && loop && cheap;
      v.reason = (v.done ? "polls: " : "sleeps: ") + in_words(last);
      return v;
  }
}

WarmPlan plan_warm(const std::vector<ThreadView>& threads, const WarmRules& rules, const WarmClock& clock,
                   bool listening) {
  WarmPlan plan;
  bool all = !threads.empty();
  bool held = false;
  for (const ThreadView& t : threads) {
    plan.threads.push_back(judge(t, clock.now, rules.settle));
    all &= plan.threads.back().done;
    held |= t.held.has_value();
  }
  // Without a thread at a reference the whole must be idle for longer, and only where that is a
  // warm point at all: an application that waits to be spoken to.
  if (!held) {
    if (rules.mode == WarmRules::Accept) {
      all &= listening;
    } else if (rules.mode == WarmRules::Auto) {
      for (const ThreadView& t : threads) all &= judge(t, clock.now, rules.settle * 3).done;
    } else {
      all = false;
    }
  }
  if (all) plan.answer = WarmPlan::Take;
  else if (held && clock.first_held && clock.now - *clock.first_held >= rules.deadline)
    plan.answer = WarmPlan::TakeLate;
  return plan;
}

}  // namespace supervise
