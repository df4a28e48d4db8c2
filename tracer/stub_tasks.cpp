// How tasks live with the stub: areas for new threads, sites that are patched while their callers wait,
// results that the stub reports, and threads that are taken out of it.
#include <fmt/format.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "supervisor/base/errno_class.h"
#include "tracer/inject.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"
#include "tracer/stub/code.h"
#include "tracer/stub/leave.h"
#include "tracer/stub/stub.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;

namespace {

constexpr auto kPatchDeadline = Millis(2000);

// Calls that end, replace or copy the caller: their sites stay as they are.
bool never_patched(int nr) {
  switch (nr) {
    case SYS_clone: case SYS_clone3: case SYS_fork: case SYS_vfork: case SYS_execve: case SYS_execveat:
    case SYS_rt_sigreturn: case SYS_exit: case SYS_exit_group: case SYS_restart_syscall:
      return true;
    default: return false;
  }
}

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

bool Tracer::patch_due(Task& task, std::uint64_t site, int nr,
                       std::vector<stub::Known>& known) {
  if (!task.space || holding_ || safe_ || task.exempt || task.detained || stub_->paused || task.vfork_child ||
      never_patched(nr))
    return false;
  stub::Space& space = *task.space;
  if (!space.refused.empty()) return false;
  if (stub_->control().modes[nr & (stub::kModes - 1)] == stub::kModeSlow) return false;
  if (space.installed &&
      (space.by_slow.contains(site) || stub::in_code(site, space.window) || space.by_address.contains(site) ||
       space.unpatchable.contains(site)))
    return false;
  ++space.traps;
  unsigned& traps = space.site_traps[site];
  const bool first = ++traps == 1;
  if (traps >= stub_->site_traps && space.traps >= stub_->space_traps) return true;
  if (traps <= stub_->site_traps) known = learn_site(task, site, nr, first);
  if (!space.installed || !task.area) known.clear();
  return false;
}

// Stops all others that run on the same memory. What they reported is to be handled afterwards. Threads
// that sleep in a call are left alone: interrupted at each patch, their time-outs would begin anew. They
// return behind their call, which no patch touches; for one to wake and come to the patched bytes within
// the nanoseconds of their writing would take less time than to return from its call does. Those in a tracing
// stop stand already: what they reported may be taken, and not yet handled.
bool Tracer::stop_others(const Task& self, std::vector<std::pair<pid_t, int>>& stopped, bool sleeping_too) {
  std::vector<pid_t> waiting;
  for (auto& [tid, task] : tasks_) {
    if (task.space != self.space || tid == self.tid) continue;
    if (task.vfork_child || task.vfork_waiting) return false;
    if (task.state != RunState::Running || !task.announced || task.reported) continue;
    const char state = task_state(tid);
    if (state == 't' || (!sleeping_too && (state == 'S' || state == 'D'))) continue;
    waiting.push_back(tid);
  }
  for (pid_t tid : waiting) ptrace_raw::interrupt(tid).ignore();
  const Deadline deadline = Deadline::in(kPatchDeadline);
  bool all = true;
  for (pid_t tid : waiting) {
    for (;;) {
      int status = 0;
      const pid_t got = waitpid(tid, &status, __WALL | WNOHANG);
      if (got == tid) {
        // Task::interrupted stays as it was: any other stop that came first has called the interruption off.
        stopped.emplace_back(tid, status);
        if (Task* task = find(tid)) task->reported = true;
        break;
      }
      if (got < 0) break;
      if (deadline.passed()) {
        all = false;
        break;
      }
      const timespec pause{0, 20'000};
      nanosleep(&pause, nullptr);
    }
  }
  return all;
}

// It is about to make its call at `site`: it makes it through the stub, when that is patched.
void Tracer::enter_slot(const Task& task, std::uint64_t site, Regs& regs) {
  const auto patched = task.space->by_address.find(site);
  if (!task.area || regs.rip != site || patched == task.space->by_address.end()) return;
  const stub::Site& at = task.space->sites[patched->second];
  regs.rip = at.slot + at.patched_at;
}

// The task is at the entry of its call; afterwards it makes it again, through the stub when that worked.
bool Tracer::patch(Task& task, std::uint64_t site, int nr) {
  const pid_t tid = task.tid;
  std::shared_ptr<stub::Space> space = task.space;
  std::vector<std::pair<pid_t, int>> stopped;
  bool entered = true;  // still at the entry of its call
  if (stop_others(task, stopped)) {
    auto in = Injector::open_at_entry(*this, task, Deadline::in(kPatchDeadline));
    entered = false;
    std::string why;
    if (!in) {
      why = in.error().message();
    } else {
      if (!space->installed) {
        if (auto installed = stub_->install(*in, *space); !installed) {
          space->refused = stub_->figures.last_refusal = installed.error().message();
        } else {
          // All of its threads get an area now.
          for (auto& [other, t] : tasks_) {
            if (t.space != space || t.begin != Task::Begun) continue;
            const bool stands = other == tid || t.state != RunState::Running ||
                                std::ranges::any_of(stopped, [other](const auto& s) { return s.first == other; });
            if (!stands || t.tgid != task.tgid) continue;
            t.begin = Task::NewThread;
            if (other != tid) begin(t);  // those that sleep get theirs at their next call
          }
        }
      }
      if (space->installed) {
        auto done = stub_->patch(*in, *space, site, nr, why);
        if (!done) space->refused = stub_->figures.last_refusal = done.error().message();
        else if (!*done) space->unpatchable[site] = why;
      }
    }
  }
  space->site_traps.erase(site);
  // Only now: the injector has put the registers back.
  if (Task* self = find(tid); self && self->begin == Task::NewThread) begin(*self);
  for (auto [other, status] : stopped) handle(other, status);
  Task* self = find(tid);
  if (!self) return true;
  if (entered) return false;
  if (auto regs = ptrace_raw::get_regs(tid)) {
    enter_slot(*self, site, *regs);
    ptrace_raw::set_regs(tid, *regs).ignore();
  }
  policy_.on_call_dropped(*self);
  self->call.reset();
  self->injected = false;
  go_on(*self);
  return true;
}

void Tracer::unshare_stub(Deadline deadline) {
  if (!stub_) return;
  std::set<const stub::Space*> done;
  for (pid_t pid : processes()) {
    Task* task = any_thread(pid);
    if (!task || !task->space || !task->space->installed || !done.insert(task->space.get()).second) continue;
    auto in = Injector::open(*this, *task, deadline);
    if (in) stub_->unshare(*in, *task->space).ignore();
  }
}

void Tracer::share_stub(Deadline deadline, bool mapped) {
  if (!stub_) return;
  std::map<pid_t, std::shared_ptr<stub::Space>> spaces;
  stub_->own_filters |= std::ranges::any_of(tasks_, [](const auto& task) { return !task.second.space; });
  for (auto& [tid, task] : tasks_) {
    if (!task.space) {
      const Task* parent = task.vfork_child ? find(task.vfork_parent) : nullptr;
      const pid_t owner = parent ? parent->tgid : task.tgid;
      if (parent) task.no_area = task.stranger = true;
      auto& space = spaces[owner];
      if (!space) {
        space = std::make_shared<stub::Space>();
        auto found = stub_->find(owner, *space);
        if (!found) space->refused = stub_->figures.last_refusal = found.error().message();
      }
      task.space = space;
    }
  }
  std::set<const stub::Space*> done;
  for (pid_t pid : processes()) {
    Task* task = any_thread(pid);
    if (!task || !task->space || !task->space->installed || !done.insert(task->space.get()).second) continue;
    stub::Space& space = *task->space;
    Status shared;
    if (!mapped) {
      auto in = Injector::open(*this, *task, deadline);
      shared = in ? stub_->share(*in, space) : Status(in.error());
    }
    if (mapped) {
      auto copy = stub_->has_copy(pid, space);
      shared = copy ? Status() : Status(copy.error());
      space.light = copy && *copy;
      if (space.light) shared = stub_->copy_control(pid, space);
    }
    if (shared && !mapped) shared = stub_->renew_code(pid, space);
    if (!shared) space.refused = stub_->figures.last_refusal = shared.error().message();
    // Areas of threads of before are known by %gs; they get their new numbers.
    std::set<std::uint64_t> used;
    for (auto& [tid, t] : tasks_) {
      if (t.space.get() != &space || t.no_area) continue;
      auto regs = ptrace_raw::get_regs(tid);
      const std::uint64_t gs = regs ? regs->gs_base : 0;
      t.area = shared && gs >= space.at(stub::kAreas) && gs < space.at(stub::kAreas) + stub::kAreasSize ? gs : 0;
      if (!t.area && gs) ptrace_raw::set_gs_base(tid, 0).ignore();
      if (!t.area || !used.insert(t.area).second) continue;
      if (regs && t.state == RunState::Stopped && leave_stub(t, *regs)) ptrace_raw::set_regs(tid, *regs).ignore();
      stub::Area area{};
      area.tid = static_cast<std::uint32_t>(tid);
      write_exact(tid, t.area, std::as_bytes(std::span(&area, 1))).ignore();
    }
    space.free_areas.clear();
    for (std::uint32_t i = 0; i < space.areas; ++i)
      if (!used.contains(space.at(stub::kAreas) + i * stub::kAreaSize)) space.free_areas.push_back(i);
    if (!shared) continue;
    for (auto& [tid, t] : tasks_) {
      if (t.space.get() != &space || t.area || t.no_area || t.tgid != pid || t.state != RunState::Stopped) continue;
      t.begin = Task::NewThread;
      begin(t);
    }
  }
}

}  // namespace supervise
