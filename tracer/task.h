// One thread under trace, and what the tracer knows of it. Pure data.
#pragma once

#include <sys/types.h>

#include <optional>

#include "seccomp/syscall_table.h"
#include "supervisor/base/clock.h"
#include "tracer/abi_x86_64.h"
#include "tracer/stop.h"

namespace supervise {

enum class RunState {
  Running,
  Stopped,    // in a ptrace stop: registers and memory can be reached
  Listening,  // PTRACE_LISTEN: in the application's own group stop
};

struct Call {
  int nr = -1;
  Args args{};
  bool foreign = false;              // int 0x80 or x32
  const SyscallRow* row = nullptr;   // nothing when the table has none
};

struct Task {
  pid_t tid = 0;
  pid_t tgid = 0;
  RunState state = RunState::Running;
  Stop stop;                 // the last one
  bool announced = false;    // the parent's birth event came, or we seized it ourselves
  bool vfork_child = false;  // runs on its parent's memory until exec or exit
  pid_t vfork_parent = 0;
  bool vfork_waiting = false;  // in uninterruptible sleep until its vfork child lets go
  std::optional<Call> call;  // between entry stop and exit stop
  bool clean = false;        // stopped at a user-mode boundary with no call half done
  bool interrupted = false;  // PTRACE_INTERRUPT sent, its stop not yet seen
  bool app_stopped = false;  // the application itself stopped it (job control)
  bool injected = false;     // a call was injected since the stop
  bool held = false;         // the policy keeps it from running until Tracer::release
  bool detained = false;     // held at its next clean stop, whatever the others do
  bool exempt = false;       // runs although everything else is held
  bool call_done = false;    // a watched call of an exempt task has ended
  bool drop_sigcont = false; // our own SIGCONT is still to be delivered
  bool drop_sigtrap = false; // left by a dumper that died
  Clock::time_point unparked{};
};

}  // namespace supervise
