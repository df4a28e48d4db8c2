#include "tracer/stop_tracees.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tracer/proc_info.h"

namespace supervise {
namespace {

void pause_us(long us) {
  const timespec pause{0, us * 1000};
  nanosleep(&pause, nullptr);
}

constexpr int kFilterMode = 2;  // SECCOMP_MODE_FILTER

}  // namespace

std::set<pid_t> stop_tracees(pid_t root, pid_t tracer, Deadline deadline) {
  std::set<pid_t> processes, told;
  do {
    bool fresh = false, runs = false;
    for (pid_t pid : process_tree_of(root)) {
      if (pid == root) continue;
      for (pid_t tid : threads_of(pid)) {
        auto status = task_status(tid);
        if (!status || status->state == 'Z' || status->state == 'X' || status->tracer != tracer) continue;
        if (tracer == 0 && status->seccomp_mode != kFilterMode) continue;
        if (told.insert(tid).second) {
          fresh = true;
          processes.insert(pid);
          syscall(SYS_tgkill, pid, tid, SIGSTOP);
        } else {
          runs |= status->state == 'R';
        }
      }
    }
    if (!fresh && !runs) break;
    if (!fresh) pause_us(50);
  } while (!deadline.passed());
  return processes;
}

void await_stopped(const std::set<pid_t>& processes, Deadline deadline) {
  for (pid_t pid : processes) {
    for (pid_t tid : threads_of(pid)) {
      for (char state = task_state(tid); state == 'R' || state == 'S' || state == 't'; state = task_state(tid)) {
        if (deadline.passed()) return;
        pause_us(100);
      }
    }
  }
}

}  // namespace supervise
