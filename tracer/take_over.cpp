// After another tracer's death (tracer.h, take_over): what only its notes tell, vforks that were open, and
// results that nobody has looked at.
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "supervisor/base/errno_class.h"
#include "tracer/inject.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"
#include "tracer/signal_frame.h"
#include "tracer/stub/start.h"
#include "tracer/stub/stub.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;

namespace {

constexpr std::size_t kScratchSize = 64 << 10;  // Injector's

// The call that a sleeping thread is in; -1: none, or it can't be told.
long sleeps_in(pid_t tid) {
  auto text = read_proc_file(fmt::format("/proc/{}/syscall", tid));
  if (!text) return -1;
  char* end = nullptr;
  const long nr = strtol(text->c_str(), &end, 10);
  return end == text->c_str() ? -1 : nr;
}

}  // namespace

// A parent that sleeps until its vfork child lets go of its memory can't be stopped, and runs nothing.
bool Tracer::finds_vfork(Task& task) {
  if (task_state(task.tid) != 'D') return false;
  const long nr = sleeps_in(task.tid);
  if (nr != SYS_vfork && nr != SYS_clone && nr != SYS_clone3) return false;
  auto text = read_proc_file(fmt::format("/proc/{0}/task/{1}/children", task.tgid, task.tid));
  if (!text) return false;
  std::istringstream children(*text);
  for (pid_t pid; children >> pid;) {
    Task* child = find(pid);
    // kcmp(2): 0 is "the same".
    if (!child || child->state != RunState::Stopped || syscall(SYS_kcmp, task.tid, pid, KCMP_VM, 0, 0) != 0) continue;
    child->vfork_child = true;
    child->vfork_parent = task.tid;
    task.vfork_waiting = true;
    return true;
  }
  return false;
}

// The children run on under us until their exec or end.
Status Tracer::finish_vforks(Deadline deadline) {
  std::vector<pid_t> children;
  for (auto& [tid, task] : tasks_)
    if (task.vfork_child) children.push_back(tid);
  if (children.empty()) return {};
  for (pid_t tid : children) {
    Task& child = tasks_.at(tid);
    child.app_stopped = false;
    kill(tid, SIGCONT);
    go_on(child);
  }
  for (;;) {
    bool open = false;
    for (auto& [tid, task] : tasks_)
      open |= task.vfork_child || task.vfork_waiting || task.state != RunState::Stopped || !task.clean;
    if (!open) return {};
    if (!wait_and_handle(deadline) && deadline.passed()) return errno_error(ETIMEDOUT, describe_stuck());
  }
}

void Tracer::put_injected_back(const TracerNotes& notes) {
  for (const auto& note : notes.injections) {
    const int state = note.state;
    Task* task = find(note.tid);
    if ((state != TracerNotes::AtEntry && state != TracerNotes::Active && state != TracerNotes::Starting) || !task) continue;
    if (state == TracerNotes::Starting) stub::Start::undo(note.tid, note.regs);
    if (state == TracerNotes::AtEntry) {
      // Nothing was changed yet: its own call was made.
      auto regs = ptrace_raw::get_regs(note.tid);
      if (!regs || in_call(*regs)) continue;
    }
    ptrace_raw::set_regs(note.tid, note.regs).ignore();
    ptrace_raw::set_sigmask(note.tid, note.sigmask).ignore();
    task->injected = true;
  }
}

// A signal that came while nobody took the thread out of the stub interrupts it there, on the stub's stack. The
// thread entered state T before the handler's first instruction: back to where it was, and the signal comes again.
void Tracer::leave_handlers(Task& task) {
  auto status = task_status(task.tid);
  for (int depth = 0; status && depth < 64; ++depth) {
    auto regs = ptrace_raw::get_regs(task.tid);
    if (!regs) return;
    auto frame = signal_frame(task.tid, *regs);
    // SA_RESETHAND: it has no handler any more.
    if (!frame || !((status->caught >> (frame->signal - 1)) & 1) || !leave_handler(task.tid, *frame)) return;
    const int sig = frame->signal;
    const bool fault = frame->info.si_code > 0 && (sig == SIGSEGV || sig == SIGBUS || sig == SIGFPE || sig == SIGILL || sig == SIGTRAP);
    if (fault) continue;  // comes again by itself
    task.sent_again.push_back(frame->info);
  }
}

Status Tracer::take_over(const std::vector<pid_t>& roots, TracerNotes& notes, Deadline deadline) {
  std::set<pid_t> stopped;
  for (const auto& pid : notes.stopped)
    if (pid != 0) stopped.insert(pid);
  RETURN_IF_ERROR(adopt(roots, stopped, deadline, [&] {
    for (auto& [tid, task] : tasks_) leave_handlers(task);
    put_injected_back(notes);
    share_stub(deadline, true);
    const bool vforks = std::ranges::any_of(tasks_, [](const auto& t) { return t.second.vfork_child; });
    if (!vforks) return;
    finish_vforks(deadline).ignore();  // one that goes on longer is held at its exec
    share_stub(deadline, true);
  }));
  for (auto& [tid, task] : tasks_)
    for (const siginfo_t& info : task.sent_again) syscall(SYS_tgkill, task.tgid, tid, info.si_signo);
  for (auto& note : notes.injections) {
    const int state = note.state.exchange(TracerNotes::Free);  // put back; from now on they are ours
    const std::uint64_t scratch = note.scratch;
    Task* task = find(note.tid);
    if ((state != TracerNotes::AtEntry && state != TracerNotes::Active) || !scratch || !task) continue;
    auto in = Injector::open(*this, *task, deadline);
    if (in) in->call(SYS_munmap, {scratch, kScratchSize, 0, 0, 0, 0}).value_or(0);
  }
  return {};
}

// Each thread stands behind the call that it was in, which was made without anybody looking at what came.
// ENOSYS: the filter wanted a tracer, and there was none; no kernel that has our filter lacks these calls.
void Tracer::tell_results() {
  std::vector<pid_t> ids;
  for (auto& [tid, task] : tasks_) ids.push_back(tid);
  for (pid_t tid : ids) {
    Task* task = find(tid);
    if (!task || task->state != RunState::Stopped || !task->clean) continue;
    auto regs = ptrace_raw::get_regs(tid);
    if (!regs || !in_call(*regs) || regs->cs != 0x33) continue;
    const long result = static_cast<long>(regs->rax);
    if (is_restart_code(result) || result == -EINTR || result < -4095) continue;
    Call call;
    call.nr = static_cast<int>(regs->orig_rax);
    call.args = args_of(*regs);
    call.row = find_syscall(call.nr);
    if (!call.row) continue;
    if (result == -ENOSYS) {
      if (call.row->io != IoClass::Refuse) rewind(*task, *regs);
      continue;
    }
    const Regs before = *regs;
    task->call = call;
    const ExitAction action = policy_.on_left_behind(*task, result, *regs);
    task->call.reset();
    if (action == ExitAction::Again || action == ExitAction::AgainHeld) rewind_call(*regs);
    if (memcmp(&before, &*regs, sizeof before) != 0) ptrace_raw::set_regs(tid, *regs).ignore();
    task->held = action == ExitAction::AgainHeld || action == ExitAction::ContinueHeld;
  }
}

}  // namespace supervise
