// A wait status as a typed stop. Pure. ptrace(2): with PTRACE_SEIZE a group stop is an EVENT_STOP
// that carries the stopping signal, an interruption or a new tracee's first stop one that carries
// SIGTRAP; everything else with an event number in bits 16 to 23 is that event; a plain stop is a
// signal about to be delivered.
#pragma once

#include <string>

namespace supervise {

enum class StopKind {
  None,
  Exited,       // code
  Killed,       // signal
  Seccomp,      // before a call that the filter traces
  CallStop,     // PTRACE_SYSCALL stop (the exit stop, as we use it)
  Fork, Vfork, Clone, VforkDone, Exec,
  GroupStop,    // signal
  Interrupted,  // PTRACE_INTERRUPT, or the first stop of a new tracee
  Signal,       // signal
  Other,
};

struct Stop {
  StopKind kind = StopKind::None;
  int signal = 0;
  int code = 0;
  bool is_end() const { return kind == StopKind::Exited || kind == StopKind::Killed; }
  bool is_birth() const {
    return kind == StopKind::Fork || kind == StopKind::Vfork || kind == StopKind::Clone;
  }
};

Stop classify(int wait_status);
const char* name_of(StopKind kind);

}  // namespace supervise
