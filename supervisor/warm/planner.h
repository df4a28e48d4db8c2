// Is it time for the warm image? Pure: from what was seen of each thread to one answer. A thread is
// done initializing when it is stopped at a reference, or idle: in a wait that only another thread,
// a stopped one in the end, or the outside can end. The waits are judged from samples of /proc:
//  - an event wait (futex, epoll, pipe, accept, child...) without a wake-up for the settle time;
//    The servant of a poll loop is woken with it: then it must keep to its place for longer.
//  - the same with a time-out, or a sleep, that comes back to the same instruction and stack depth
//    again and again without using the CPU: a poll loop. One long sleep is no loop: it ends, and
//    who knows what comes then, so it counts as idle only at the deadline.
// When all threads are idle or stopped at once, and none was woken for the settle time, nothing
// inside can make progress any more.
#pragma once

#include <sys/types.h>

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "supervisor/warm/reference.h"

namespace supervise {

enum class WaitKind : std::uint8_t {
  Running,  // on a CPU or runnable
  Event,    // ends by another's doing
  Timed,    // the same, or when its time is over
  Sleep,    // ends when its time is over
  Disk,     // uninterruptible, or a call on a regular file: ends by itself
  Stopped,  // by job control, or a zombie
};

struct WaitSample {
  Clock::time_point at{};
  WaitKind kind = WaitKind::Running;
  int nr = -1;
  std::uint64_t sp = 0, pc = 0;
  std::uint64_t switches = 0;  // voluntary and involuntary context switches
  std::uint64_t cpu_ns = 0;
  std::string detail;          // what it waits for, in words
};

struct ThreadView {
  pid_t pid = 0, tid = 0;
  std::string name;
  std::optional<Reference> held;   // stopped at it
  std::deque<WaitSample> samples;  // oldest first
};

struct ThreadVerdict {
  pid_t tid = 0;
  bool done = false;
  std::string reason;  // for people
};

struct WarmPlan {
  enum Answer : std::uint8_t { Wait, Take, TakeLate };
  Answer answer = Wait;
  std::vector<ThreadVerdict> threads;
};

struct WarmClock {
  Clock::time_point now{};
  std::optional<Clock::time_point> first_held{};  // when the first thread stopped at a reference
};

ThreadVerdict judge(const ThreadView& thread, Clock::time_point now, Millis settle);
// `listening`: the application holds a listening socket (for --warm-point accept).
WarmPlan plan_warm(const std::vector<ThreadView>& threads, const WarmRules& rules, const WarmClock& clock,
                   bool listening);

}  // namespace supervise
