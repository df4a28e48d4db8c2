// Stops that are not of a call: signals, interrupts of ours, group stops; and what a thread that stands then must
// not show of it.
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "supervisor/base/errno_class.h"
#include "tracer/abi_x86_64.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"
#include "tracer/stub/start.h"
#include "tracer/stub/stub.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;

namespace {

// Only a handler that is about to run makes an interrupted call the application's own affair; a
// signal without one leaves it untouched when nobody traces.
bool handler_due(const TaskStatus& status) {
  return ((status.pending | status.shared_pending) & ~status.blocked & status.caught) != 0;
}

// A signal of the process that this thread would take, and that no handler waits for.
bool nobody_handles(const TaskStatus& status) { return (status.shared_pending & ~status.blocked & ~status.caught) != 0; }

// Which call restart_syscall continues, from the code that made it (mov $NR,%eax; syscall).
std::optional<int> restarted_call(pid_t tid, const Regs& regs) {
  std::array<std::byte, 7> code{};
  if (read_some(tid, regs.rip - code.size(), code) != code.size() || code[0] != std::byte{0xb8} ||
      code[5] != std::byte{0x0f} || code[6] != std::byte{0x05})
    return std::nullopt;
  int nr = 0;
  memcpy(&nr, &code[1], sizeof nr);
  for (int known : {SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex})
    if (nr == known) return nr;
  return std::nullopt;
}

}  // namespace

// A signal that nobody handles (SIGCHLD in a burst), and that comes while this thread stands, wakes another one of the
// process. Resumed first, this thread takes the signal away, and the other one's call returns EINTR (epoll_wait...)
// without any stop at which it could be rewound. So those that may have been woken get such a stop. Kernels: all; shown
// by integration/guest_blocking (its part with threads of the idle class).
void Tracer::stop_woken(const Task& self) {
  for (const auto& [tid, task] : tasks_)
    if (task.tgid == self.tgid && tid != self.tid && task.state == RunState::Running && task.announced && !task.reported &&
        !task.interrupted && task_state(tid) == 'R')
      ptrace_raw::interrupt(tid).ignore();
}

// The same at any other stop: a signal has come meanwhile, and the task is about to take it.
void Tracer::leave_signals(const Task& task) {
  if (is_alone(task) || !ptrace_raw::has_shared_signal(task.tid).value_or(false)) return;
  auto status = task_status(task.tid);
  if (status && nobody_handles(*status)) stop_woken(task);
}

void Tracer::handle_signal(Task& task) {
  ++figures_.signals;
  auto info = ptrace_raw::get_siginfo(task.tid);
  if (!info) return;
  int sig = task.stop.signal;
  SignalAction action = SignalAction::Deliver;
  if (const auto again = std::ranges::find(task.sent_again, sig, &siginfo_t::si_signo); again != task.sent_again.end()) {
    info = *again;
    task.sent_again.erase(again);
    ptrace_raw::set_siginfo(task.tid, *info).ignore();
  }
  if (sig == SIGCONT && task.drop_sigcont && info->si_pid == 0) {
    action = SignalAction::Drop;  // ours: a sender outside the PID namespace shows as 0
    for (auto& [tid, t] : tasks_)
      if (t.tgid == task.tgid) t.drop_sigcont = false;
  } else if (sig == SIGTRAP && task.drop_sigtrap && info->si_code > 0) {
    action = SignalAction::Drop;
    task.drop_sigtrap = false;
  } else if (sig == SIGCHLD && (info->si_code == CLD_STOPPED || info->si_code == CLD_CONTINUED) &&
             Clock::now() - task.unparked < std::chrono::seconds(2)) {
    action = SignalAction::Drop;  // tells of our own stop and continue of a child
  } else {
    action = policy_.on_signal(task, *info);
  }
  if (action == SignalAction::Stop) sig = SIGSTOP;
  else if (action != SignalAction::Deliver) sig = 0;
  auto regs = ptrace_raw::get_regs(task.tid);
  if (stub_) {
    const std::uint64_t was = regs ? regs->rip : 0;
    if (regs && leave_stub(task, *regs)) {
      // A fault of the stub's own, in memory that the application took away meanwhile.
      if ((sig == SIGSEGV || sig == SIGBUS) && info->si_code > 0 && stub_->is_code(task, was)) sig = 0;
      ptrace_raw::set_regs(task.tid, *regs).ignore();
      if (task.held) {
        task.deferred_signal = sig;
        if (must_hold(task)) go_on(task);
        return;
      }
    }
  }

  // Of a lone thread only an interrupted call needs what follows; nor was another one woken for what was sent to this
  // thread alone (tgkill: a runtime's own signals, which come by the thousand).
  const bool plain = regs && !(in_call(*regs) && static_cast<long>(regs->rax) == -EINTR) &&
                     (is_alone(task) || (info->si_code == SI_TKILL && !ptrace_raw::has_shared_signal(task.tid).value_or(true)));
  auto status = plain ? Result<TaskStatus>(plain_error("")) : task_status(task.tid);
  if (status) {
    // A traced task is woken even by signals that it ignores; a call that then returns -EINTR
    // (epoll_wait...) would show it. Rewind unless a handler will run.
    const bool handler = sig && ((status->caught >> (sig - 1)) & 1);
    const bool stops = sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
    if (!handler && !stops && !handler_due(*status)) {
      if (regs && in_call(*regs) && static_cast<long>(regs->rax) == -EINTR) rewind(task, *regs);
    }
    if ((!handler && !stops) || nobody_handles(*status)) stop_woken(task);
  }
  if (action == SignalAction::DropHeld) {
    task.held = true;
    if (!must_hold(task)) return;
  }
  go_on(task, sig);
}

void Tracer::handle_interrupted(Task& task) {
  if (task.start) {  // it stands only behind its start
    task.interrupted = false;
    task.state = RunState::Running;
    ptrace_raw::cont(task.tid).ignore();
    return;
  }
  if (task.begin != Task::Begun) {
    begin(task);
    if (!must_hold(task) && !task.held && !task.interrupted && !(task.no_area && task.area)) {
      go_on(task);
      return;
    }
  }
  task.interrupted = false;
  task.app_stopped = false;
  if (task.no_area && task.area) drop_area(task);
  if (must_hold(task)) {
    settle(task);
    return;
  }
  if (task.held) {
    settle(task);
    return;
  }
  // A stray one (its hold was called off): the call it interrupted must not show.
  settle(task);
  go_on(task);
}

void Tracer::handle_group_stop(Task& task) {
  if (task.start) {
    task.start->group_stopped = true;
    task.interrupted = false;
    task.state = RunState::Running;
    ptrace_raw::cont(task.tid).ignore();
    return;
  }
  if (task.begin != Task::Begun) begin(task);
  if (must_hold(task)) {
    task.interrupted = false;
    task.app_stopped = true;
    settle(task);
    return;
  }
  task.app_stopped = false;
  if (auto regs = ptrace_raw::get_regs(task.tid); regs && leave_stub(task, *regs))
    ptrace_raw::set_regs(task.tid, *regs).ignore();
  task.injected = false;
  stay_stopped(task);
}

// In the application's own group stop.
void Tracer::stay_stopped(Task& task) {
  task.state = RunState::Listening;
  if (notes_) notes_->note_stopped(task.tgid);
  ptrace_raw::listen(task.tid).ignore();
}

void Tracer::settle(Task& task) {
  task.clean = true;
  auto regs = ptrace_raw::get_regs(task.tid);
  if (!regs) return;
  if (leave_stub(task, *regs)) ptrace_raw::set_regs(task.tid, *regs).ignore();
  if (!in_call(*regs)) return;
  const long result = static_cast<long>(regs->rax);
  if (!is_restart_code(result) && result != -EINTR) return;
  // Nobody holds it: the kernel goes on with the time that is left.
  if (is_restart_code(result) && !must_hold(task) && !task.held) return;
  auto status = task_status(task.tid);
  if (status && handler_due(*status)) return;  // the application's own interruption
  if (task.call) {
    policy_.on_call_dropped(task);
    task.call.reset();
  }
  // The kernel's note of how to go on may not outlive this stop (a dumper's sigreturn wipes it, an
  // image has none): the call itself is made again.
  if (is_restart_syscall(*regs)) {
    if (auto nr = restarted_call(task.tid, *regs)) regs->orig_rax = static_cast<unsigned long long>(*nr);
  }
  rewind(task, *regs);
}

}  // namespace supervise
