// How tasks live with the stub: areas for new threads, results that the stub reports, and threads that are taken
// out of it.
#include <linux/close_range.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>

#include <utility>

#include "supervisor/base/errno_class.h"
#include "tracer/memory.h"
#include "tracer/stub/code.h"
#include "tracer/stub/leave.h"
#include "tracer/stub/stub.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;

namespace {

// clone(2): the flags of the call in which the task is stopped at its birth event.
std::uint64_t clone_flags(pid_t tid) {
  auto regs = ptrace_raw::get_regs(tid);
  if (!regs) return 0;
  switch (static_cast<long>(regs->orig_rax)) {
    case SYS_clone: return regs->rdi;
    case SYS_clone3: return read_value<std::uint64_t>(tid, regs->rdi).value_or(0);
    case SYS_vfork: return CLONE_VM | CLONE_VFORK;
    default: return 0;
  }
}

bool worth_telling(const stub::Control& control, long result) {
  if (result >= 0) return true;
  if (is_restart_code(result) || result < -255) return false;
  const auto e = static_cast<unsigned long>(-result);
  return (control.errnos[e / 64] >> (e % 64)) & 1;
}

}  // namespace

void Tracer::use_stub(std::unique_ptr<stub::Stub> stub) { stub_ = std::move(stub); }

// A thread shares its parent's memory and descriptors; a forked process has copies of both. Whoever shares
// one of them but not the other must not use the arena: its descriptor table would not be his.
void Tracer::learn_parentage(Task& parent, Task& child) {
  if (!stub_ || !parent.space) return;
  if (child.tgid == parent.tgid) {
    child.space = parent.space;
    child.begin = Task::NewThread;
    child.no_area = parent.no_area;
    return;
  }
  const std::uint64_t flags = clone_flags(parent.tid);
  // What the child closes or replaces in the slow way the parent's table would not know of.
  if (flags & CLONE_FILES) refuse_space(parent, "the program shares its descriptors with another process", true);
  if (flags & CLONE_VM) {
    child.space = parent.space;
    child.begin = Task::Stranger;
    return;
  }
  child.no_area = parent.no_area;
  child.space = std::make_shared<stub::Space>(*parent.space);
  child.space->forked_from = parent.space;
  child.space->wanted.clear();
  child.begin = flags & CLONE_FILES ? Task::Stranger : Task::NewProcess;
  child.area = parent.area;
}

void Tracer::begin(Task& task) {
  const auto what = std::exchange(task.begin, Task::Begun);
  if (!stub_ || !task.space || !task.space->installed) return;
  if (task.no_area && what == Task::NewThread) {
    ptrace_raw::set_gs_base(task.tid, 0).ignore();
    return;
  }
  switch (what) {
    case Task::NewThread: {
      const auto area = task.space->take_area();
      task.area = area.value_or(0);
      break;
    }
    case Task::NewProcess: {
      // Only the thread that forked is there; its area is a copy of its parent's.
      task.space->free_areas.clear();
      for (std::uint32_t i = 0; i < task.space->areas; ++i)
        if (task.space->at(stub::kAreas) + i * stub::kAreaSize != task.area) task.space->free_areas.push_back(i);
      break;
    }
    default:
      task.area = 0;
      task.no_area = task.stranger = true;
      break;
  }
  if (task.area && !write_area(task)) task.area = 0;
  if (what != Task::NewProcess || !task.area) ptrace_raw::set_gs_base(task.tid, task.area).ignore();
}

bool Tracer::write_area(Task& task) {
  stub::Area area{};
  area.tid = static_cast<std::uint32_t>(task.tid);
  return write_exact(task.tid, task.area, std::as_bytes(std::span(&area, 1))).ok();
}

bool Tracer::leave_stub(Task& task, Regs& regs) {
  if (!stub_ || !task.space || !task.space->installed) return false;
  stub::Space& space = *task.space;
  if (stub::in_code(regs.rip, space.window)) {
    auto area = stub_->area_of(task);
    if (!area) return false;
    const auto was = stub::leave(regs, *area, stub::code_head(), space.window,
                                 [&space](std::uint64_t slow) { return space.site_of(slow); });
    if (was == stub::Was::Outside) return false;
    ++stub_->figures.left;
    const bool told = stub_->take_out(task, *area);
    if (was != stub::Was::NotMade) {
      Call call;
      call.nr = static_cast<int>(area->rax);
      call.args = args_of(regs);
      forget_descriptors(task, call);
    }
    if (was == stub::Was::Untold && !told) {
      const long result = static_cast<long>(regs.rax);
      if (worth_telling(stub_->control(), result))
        tell_result(task, result, area->slot, StubNote(*area), regs);
    }
    stub_->free_file(*area);
    return true;
  }
  const auto at = stub::find_in_slot(space.by_slot, regs.rip);
  if (!at) return false;
  regs.rip = *at;
  return true;
}

// At a user-mode boundary behind the call.
void Tracer::tell_result(Task& task, long result, std::uint64_t slow, const StubNote& note, Regs& regs) {
  const auto number = in_call(regs) ? regs.orig_rax : 0;
  Call call;
  auto area = stub_->area_of(task);
  call.nr = static_cast<int>(area ? area->rax : number);
  call.args = args_of(regs);
  call.row = find_syscall(call.nr);
  if (!call.row) return;
  task.call = call;
  const ExitAction action = policy_.on_result(task, result, regs, note);
  task.call.reset();
  if (action == ExitAction::Continue) return;
  if (action != ExitAction::ContinueHeld) {
    regs.rip = slow;
    regs.rax = static_cast<unsigned long long>(call.nr);
    regs.orig_rax = static_cast<unsigned long long>(-1);
  }
  if (action != ExitAction::Again) task.held = true;
}

// At the stub's own traced call "this came of it": the stop becomes one at the site's slot, out of the stub.
bool Tracer::serve_report(Task& task, const ptrace_raw::CallInfo& info) {
  if (!task.space || !task.space->installed || !task.area) return false;
  const stub::Space& space = *task.space;
  if (info.ip != space.at(stub::kCode) + stub::code_head().traced_result + kSyscallInsnSize) return false;
  auto regs = ptrace_raw::get_regs(task.tid);
  auto area = stub_->area_of(task);
  if (!regs || !area) return false;
  ++stub_->figures.reports;
  Regs& r = *regs;
  r.rdi = area->rdi; r.rsi = area->rsi; r.rdx = area->rdx; r.r10 = area->r10; r.r8 = area->r8; r.r9 = area->r9;
  r.rsp = area->rsp; r.rbx = area->rbx; r.rbp = area->rbp;
  r.r12 = area->r12; r.r13 = area->r13; r.r14 = area->r14; r.r15 = area->r15;
  r.rip = area->slot + kSyscallInsnSize;
  r.orig_rax = area->rax;
  stub_->take_out(task, *area);

  Call call;
  call.nr = static_cast<int>(area->rax);
  call.args = args_of(r);
  call.row = find_syscall(call.nr);
  task.call = call;
  if (area->stage == stub::kDone || !call.row) {
    stub_->free_file(*area);
    policy_.on_ring_filling();
    task.call.reset();
    skip_call(r, area->result);
    ptrace_raw::set_regs(task.tid, r).ignore();
    go_on(task);
    return true;
  }
  r.rax = static_cast<unsigned long long>(area->result);
  const ExitAction action =
      policy_.on_result(task, area->result, r, StubNote(*area));
  stub_->free_file(*area);
  switch (action) {
    case ExitAction::Continue:
    case ExitAction::ContinueHeld:
      task.call.reset();
      skip_call(r, static_cast<long>(r.rax));
      ptrace_raw::set_regs(task.tid, r).ignore();
      break;
    case ExitAction::Again:
      r.rax = static_cast<unsigned long long>(-ENOSYS);
      ptrace_raw::set_regs(task.tid, r).ignore();
      task.call->args = args_of(r);
      ask_entry(task, true);
      return true;
    case ExitAction::AgainHeld:
      task.call.reset();
      rewind(task, r);
      break;
  }
  if (action == ExitAction::Continue) {
    go_on(task);
    return true;
  }
  // From now on it is like any task that is held at the exit of its call.
  task.stop = {StopKind::CallStop, 0, 0};
  task.held = true;
  if (must_hold(task)) go_on(task);
  return true;
}

// A thread that slept while the arena was made.
void Tracer::give_area(Task& task) {
  if (!stub_ || task.area || task.no_area || task.vfork_child || !task.space || !task.space->installed ||
      !task.space->refused.empty())
    return;
  task.begin = Task::NewThread;
  begin(task);
  if (!task.area) task.no_area = true;
}

// Out of the stub for good. What it does besides the application's own calls (statx, lseek, futex) may be
// more than a filter of the application's own allows, and its descriptor table is that of the process.
void Tracer::drop_area(Task& task) {
  task.no_area = true;
  if (!task.area) return;
  // At an entry the call is not made: in the stub's own code it has to end there first.
  if (auto regs = ptrace_raw::get_regs(task.tid); task.stop.kind == StopKind::Seccomp) {
    if (!regs || stub::in_code(regs->rip, task.space->window)) return;
  } else if (regs && leave_stub(task, *regs)) {
    ptrace_raw::set_regs(task.tid, *regs).ignore();
  }
  task.area = 0;
  ptrace_raw::set_gs_base(task.tid, 0).ignore();
}

// This task, or `all` that run on its memory, leave the stub for good.
void Tracer::refuse_space(Task& task, const char* why, bool all) {
  task.space->refused = stub_->figures.last_refusal = why;
  std::vector<std::pair<pid_t, int>> stopped;
  if (all) {
    for (auto& [tid, other] : tasks_)
      if (other.space == task.space && tid != task.tid) other.no_area = true;
    stop_others(task, stopped, true);
  }
  drop_area(task);
  for (auto [tid, status] : stopped) handle(tid, status);
}

void Tracer::look_at_own_rules(Task& task) {
  const Call& call = *task.call;
  if (!task.space) return;
  const bool filter = call.nr == SYS_seccomp || call.nr == SYS_prctl;
  const bool descriptors = call.nr == SYS_unshare || (call.nr == SYS_close_range && (call.args[2] & CLOSE_RANGE_UNSHARE));
  if (filter && !(call.nr == SYS_seccomp && call.args[0] != SECCOMP_SET_MODE_FILTER && call.args[0] != SECCOMP_SET_MODE_STRICT)) {
    stub_->own_filters = true;
    const bool all = call.nr == SYS_seccomp && (call.args[1] & SECCOMP_FILTER_FLAG_TSYNC);
    refuse_space(task, "the program installs a seccomp filter of its own", all);
  } else if (descriptors) {
    drop_area(task);
    task.stranger = true;
  }
}

// Descriptors that end in the slow way: what the stub knows of them is void. A vfork child has descriptors
// of its own, but not the table.
void Tracer::forget_descriptors(const Task& task, const Call& call) {
  if (!stub_ || !task.space || !task.space->installed || task.vfork_child || task.stranger) return;
  switch (call.nr) {
    case SYS_close: stub_->forget(task, call.args[0], call.args[0]); break;
    case SYS_dup2:
    case SYS_dup3: stub_->forget(task, call.args[1], call.args[1]); break;
    case SYS_close_range: stub_->forget(task, call.args[0], call.args[1]); break;
    default: break;
  }
}

// It stands for one file until the call and for another from then on, and others may use it meanwhile: what
// they found in between is to be forgotten, too, once the call has been made.
bool Tracer::replaces_descriptor(const Task& task) const {
  return stub_ && task.space && task.space->installed && !task.vfork_child && !task.stranger && task.call &&
         !task.call->foreign && (task.call->nr == SYS_dup2 || task.call->nr == SYS_dup3);
}

}  // namespace supervise
