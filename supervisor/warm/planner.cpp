#include "supervisor/warm/planner.h"

#include <fmt/format.h>

#include <algorithm>

#include "seccomp/syscall_table.h"

namespace supervise {
namespace {

// A poll loop may use this share of the time that it is watched.
constexpr std::uint64_t kPollShare = 10;  // per cent
constexpr int kLoops = 2;                 // returns to the same place that make a loop
constexpr int kLoopSettles = 3;           // a loop must be watched for so many settle times
constexpr int kHomeShare = 60;            // per cent of its own time that a loop spends in its wait

bool same_place(const WaitSample& a, const WaitSample& b) {
  return a.nr == b.nr && a.sp == b.sp && a.pc == b.pc && a.kind == b.kind;
}

std::string in_words(const WaitSample& s) {
  if (!s.detail.empty()) return s.detail;
  return std::string(syscall_name(s.nr));
}

// The first sample of the last stay: the same place, and no wake-up since.
const WaitSample& begin_of_stay(const std::deque<WaitSample>& samples) {
  const WaitSample& last = samples.back();
  const WaitSample* first = &last;
  if (last.kind == WaitKind::Running || last.kind == WaitKind::Disk) return last;
  for (auto it = samples.rbegin(); it != samples.rend() && same_place(*it, last) && it->switches == last.switches; ++it)
    first = &*it;
  return *first;
}

struct Loop {
  const WaitSample* home = nullptr;  // the wait in which most of the time is spent
  Clock::duration watched{};         // since it was first seen there
  int returns = 0;
  bool cheap = false, keeps_home = false;
};

Loop find_loop(const std::deque<WaitSample>& samples) {
  Loop loop;
  Clock::duration most{};
  for (auto home = samples.begin(); home != samples.end(); ++home) {
    if (home->kind != WaitKind::Event && home->kind != WaitKind::Timed && home->kind != WaitKind::Sleep) continue;
    if (std::any_of(samples.begin(), home, [&](const WaitSample& s) { return same_place(s, *home); })) continue;
    // Its own time is what it spends in its wait, or else uses. Not what others make it wait for: another
    // thread (which is judged by itself), a CPU, the supervisor that serves its calls. A look often comes
    // right when one was served, and would count for all the time until the next.
    Clock::duration there{}, others{};
    int returns = 0;
    const WaitSample* before = nullptr;
    for (auto it = home; it != samples.end(); ++it) {
      const auto next = std::next(it);
      const bool at_home = same_place(*it, *home);
      if (next != samples.end()) {
        const Clock::duration stay = next->at - it->at;
        const Clock::duration used = std::chrono::nanoseconds(next->cpu_ns - std::min(it->cpu_ns, next->cpu_ns));
        if (at_home) there += stay;
        else if (it->kind == WaitKind::Event) others += stay;
        else if (it->kind == WaitKind::Running) others += stay - std::min(stay, used);
      }
      if (!at_home) continue;
      if (before && before->switches != it->switches) ++returns;
      before = &*it;
    }
    if (loop.home && there <= most) continue;
    most = there;
    const auto watched = samples.back().at - home->at;
    const auto own_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(watched - others).count());
    loop = {&*home, watched, returns, (samples.back().cpu_ns - home->cpu_ns) * 100 <= own_ns * kPollShare,
            there * 100 >= (watched - others) * kHomeShare};
  }
  return loop;
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
  if (last.kind == WaitKind::Stopped) {
    v.done = true;
    v.reason = last.detail;
    return v;
  }
  const bool fresh = now - last.at < settle;
  if (last.kind != WaitKind::Sleep && fresh && last.at - begin_of_stay(t.samples).at >= settle) {
    v.done = true;
    v.reason = (last.kind == WaitKind::Timed ? "waits, with a time-out: " : "waits: ") + in_words(last);
    return v;
  }
  const Loop loop = find_loop(t.samples);
  v.done = fresh && loop.home && loop.watched >= settle * kLoopSettles && loop.returns >= kLoops && loop.cheap &&
           loop.keeps_home;
  v.reason = (v.done ? loop.home->kind == WaitKind::Event ? "waits: " : "polls: "
              : last.kind == WaitKind::Running ? "runs"
              : last.kind == WaitKind::Disk ? "waits for storage: "
              : last.kind == WaitKind::Sleep ? "sleeps: " : "has begun to wait, or is woken: ");
  if (v.done || last.kind != WaitKind::Running) v.reason += in_words(v.done ? *loop.home : last);
  return v;
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
