// What the tracer notes in memory that outlives it, for whoever takes its tasks over: nothing else tells
// that a thread is in the middle of a call that was injected, nor who stopped a process. Pure data; zeros
// are an empty one.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <atomic>
#include <cstdint>

namespace supervise {

struct TracerNotes {
  enum State : int {
    Free,
    Claimed,
    AtEntry,  // at the entry of its call, which is either made, or lies before it as `regs` say
    Active,   // these are its registers, whatever it has now
    Starting, // the same, and its code at their rip may be ours (tracer/stub/start.h)
  };
  struct Injection {
    std::atomic<int> state;
    pid_t tid;
    user_regs_struct regs;
    std::uint64_t sigmask;
    std::atomic<std::uint64_t> scratch;  // a mapping of ours in the process, 0: none
  };
  static constexpr int kInjections = 24, kStopped = 256;
  Injection injections[kInjections];
  // Nothing: all are taken.
  Injection* claim(pid_t tid, const user_regs_struct& regs, std::uint64_t sigmask) {
    for (auto& at : injections) {
      int free = Free;
      if (!at.state.compare_exchange_strong(free, Claimed)) continue;
      at.tid = tid;
      at.regs = regs;
      at.sigmask = sigmask;
      at.scratch = 0;
      return &at;
    }
    return nullptr;
  }
  std::atomic<pid_t> stopped[kStopped];  // processes that the application itself has stopped

  void note_stopped(pid_t pid) {
    for (auto& at : stopped)
      if (at == pid) return;
    for (auto& at : stopped) {
      pid_t none = 0;
      if (at.compare_exchange_strong(none, pid)) return;
    }
  }
  void forget_stopped(pid_t pid) {
    for (auto& at : stopped)
      if (at == pid) at = 0;
  }
};

}  // namespace supervise
