#include "tracer/stop.h"

#include <linux/ptrace.h>
#include <signal.h>
#include <sys/wait.h>

namespace supervise {

Stop classify(int status) {
  if (WIFEXITED(status)) return {StopKind::Exited, 0, WEXITSTATUS(status)};
  if (WIFSIGNALED(status)) return {StopKind::Killed, WTERMSIG(status), 0};
  if (!WIFSTOPPED(status)) return {StopKind::Other, 0, status};
  const int sig = WSTOPSIG(status);
  switch (status >> 16) {
    case 0:
      if (sig == (SIGTRAP | 0x80)) return {StopKind::CallStop, 0, 0};
      return {StopKind::Signal, sig, 0};
    case PTRACE_EVENT_SECCOMP: return {StopKind::Seccomp, 0, 0};
    case PTRACE_EVENT_FORK: return {StopKind::Fork, 0, 0};
    case PTRACE_EVENT_VFORK: return {StopKind::Vfork, 0, 0};
    case PTRACE_EVENT_CLONE: return {StopKind::Clone, 0, 0};
    case PTRACE_EVENT_VFORK_DONE: return {StopKind::VforkDone, 0, 0};
    case PTRACE_EVENT_EXEC: return {StopKind::Exec, 0, 0};
    case PTRACE_EVENT_STOP:
      if (sig == SIGTRAP) return {StopKind::Interrupted, 0, 0};
      return {StopKind::GroupStop, sig, 0};
    default: return {StopKind::Other, sig, status >> 16};
  }
}

const char* name_of(StopKind kind) {
  switch (kind) {
    case StopKind::None: return "none";
    case StopKind::Exited: return "exited";
    case StopKind::Killed: return "killed";
    case StopKind::Seccomp: return "seccomp";
    case StopKind::CallStop: return "call";
    case StopKind::Fork: return "fork";
    case StopKind::Vfork: return "vfork";
    case StopKind::Clone: return "clone";
    case StopKind::VforkDone: return "vfork-done";
    case StopKind::Exec: return "exec";
    case StopKind::GroupStop: return "group-stop";
    case StopKind::Interrupted: return "interrupted";
    case StopKind::Signal: return "signal";
    case StopKind::Other: return "other";
  }
  return "?";
}

}  // namespace supervise
