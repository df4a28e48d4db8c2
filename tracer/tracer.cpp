#include "tracer/tracer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "seccomp/filter.h"
#include "supervisor/base/errno_class.h"
#include "tracer/abi_x86_64.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"
#include "tracer/stub/start.h"
#include "tracer/stub/stub.h"

namespace supervise {

using ptrace_raw::Regs;

namespace {

constexpr unsigned kCallsToShare = 2;  // of one program that change what is on a storage path, or sync it

bool changes_storage(const Call& call) {
  if (!call.row) return false;
  switch (call.row->io) {
    case IoClass::Write:
    case IoClass::Sync:
    case IoClass::Names:
    case IoClass::Resize: return true;
    case IoClass::Open: {
      const std::uint64_t flags = call.nr == SYS_openat ? call.args[2] : call.nr == SYS_open ? call.args[1] : O_CREAT;
      return (flags & (O_CREAT | O_TRUNC)) != 0;
    }
    default: return false;
  }
}

}  // namespace

void wait_for_sigchld(Deadline deadline) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  // A status can be there although its SIGCHLD was merged with an earlier one: look every 20 ms.
  const int ms = std::min(deadline.left_ms(), 20);
  const timespec limit{0, ms * 1'000'000L};
  sigtimedwait(&set, nullptr, &limit);
}

Tracer::Tracer(TracerPolicy& policy) : policy_(policy) {}
Tracer::~Tracer() = default;

Task* Tracer::find(pid_t tid) {
  auto it = tasks_.find(tid);
  return it == tasks_.end() ? nullptr : &it->second;
}

// `parent_tgid`: the process that it was born by, 0: not known.
Task& Tracer::add(pid_t tid, pid_t parent_tgid) {
  auto [it, fresh] = tasks_.try_emplace(tid);
  if (fresh) {
    it->second.tid = tid;
    if (parent_tgid != 0) {
      const bool thread = syscall(SYS_tgkill, parent_tgid, tid, 0) == 0;
      it->second.tgid = thread ? parent_tgid : tid;
    } else {
      auto status = task_status(tid);
      it->second.tgid = status ? status->tgid : tid;
    }
  }
  return it->second;
}

void Tracer::remove(pid_t tid) { tasks_.erase(tid); }

std::vector<pid_t> Tracer::processes() const {
  std::set<pid_t> ids;
  for (const auto& [tid, task] : tasks_) ids.insert(task.tgid);
  return {ids.begin(), ids.end()};
}

Task* Tracer::any_thread(pid_t tgid) {
  Task* best = nullptr;
  for (auto& [tid, task] : tasks_) {
    if (task.tgid != tgid) continue;
    if (task.state == RunState::Stopped && task.clean) {
      if (!best || !best->clean || tid == tgid) best = &task;
    } else if (!best) {
      best = &task;
    }
  }
  return best;
}

unsigned long Tracer::options() const { return ptrace_raw::kOptions | (exit_kill_ ? ptrace_raw::kExitKill : 0); }

void Tracer::set_exit_kill(bool on) {
  exit_kill_ = on;
  if (safe_) return;
  for (auto& [tid, task] : tasks_)
    if (task.state == RunState::Stopped) ptrace_raw::set_options(tid, options()).ignore();
}

Status Tracer::seize_new(pid_t pid) {
  RETURN_IF_ERROR(ptrace_raw::seize(pid, options()));
  Task& task = add(pid);
  if (stub_) task.space = std::make_shared<stub::Space>();
  task.announced = true;
  task.state = RunState::Running;
  return {};
}

bool Tracer::drain() {
  bool any = false;
  for (int round = 0; round < 16; ++round) {
    // First everything that waits, then serve it in order: a busy thread must not starve others.
    std::vector<std::pair<pid_t, int>> batch;
    int status = 0;
    pid_t tid;
    while (batch.size() < 256 && (tid = waitpid(-1, &status, __WALL | WNOHANG)) > 0)
      batch.emplace_back(tid, status);
    if (batch.empty()) break;
    any = true;
    // Births before the first stops of the born.
    std::stable_partition(batch.begin(), batch.end(), [this](const auto& one) {
      Task* task = find(one.first);
      if (task) task->reported = true;
      return task != nullptr;
    });
    for (auto [id, st] : batch) handle(id, st);
  }
  return any;
}

bool Tracer::wait_and_handle(Deadline deadline) {
  while (!drain()) {
    if (deadline.passed()) return false;
    wait_for_sigchld(deadline);
  }
  return true;
}

void Tracer::handle(pid_t tid, int status) {
  const Stop stop = classify(status);
  Task* known = find(tid);
  if (stop.is_end()) {
    if (!known) {
      policy_.on_other_child(tid, stop);
      return;
    }
    Task gone = *known;
    remove(tid);
    if (notes_ && gone.tid == gone.tgid) notes_->forget_stopped(tid);
    if (stub_) stub_->on_end(gone);
    if (gone.vfork_child) {
      if (Task* parent = find(gone.vfork_parent)) parent->vfork_waiting = false;
    }
    policy_.on_end(gone, stop);
    return;
  }
  ++figures_.stops;
  Task& task = known ? *known : add(tid);
  task.reported = false;
  if (notes_ && task.state == RunState::Listening && stop.kind != StopKind::GroupStop) notes_->forget_stopped(task.tgid);
  task.state = RunState::Stopped;
  task.stop = stop;
  task.clean = false;
  if (!task.announced) return;  // until the parent's event tells of it

  switch (stop.kind) {
    case StopKind::Seccomp: handle_entry(task); break;
    case StopKind::CallStop: handle_exit(task); break;
    case StopKind::Fork:
    case StopKind::Vfork:
    case StopKind::Clone: handle_birth(task); break;
    case StopKind::VforkDone:
      task.vfork_waiting = false;
      go_on(task);
      break;
    case StopKind::Exec: handle_exec(task); break;
    case StopKind::GroupStop: handle_group_stop(task); break;
    case StopKind::Interrupted: handle_interrupted(task); break;
    case StopKind::Signal: handle_signal(task); break;
    default: go_on(task); break;
  }
}

void Tracer::handle_birth(Task& task) {
  auto message = ptrace_raw::event_message(task.tid);
  if (message) {
    const bool vfork = task.stop.kind == StopKind::Vfork;
    const pid_t parent_tid = task.tid;
    Task& child = add(static_cast<pid_t>(*message), task.tgid);
    child.announced = true;
    child.vfork_child = vfork;
    child.vfork_parent = vfork ? parent_tid : 0;
    if (vfork) task.vfork_waiting = true;
    learn_parentage(task, child);
    policy_.on_new_task(child, parent_tid);
    if (child.state == RunState::Stopped) {
      if (child.stop.kind == StopKind::GroupStop) handle_group_stop(child);
      else handle_interrupted(child);
    }
    if (task.stop.kind == StopKind::Fork) {
      patch_wanted(task);
      if (Task* parent = find(parent_tid)) go_on(*parent);
      return;
    }
  }
  go_on(task);
}

void Tracer::handle_exec(Task& task) {
  auto former = ptrace_raw::event_message(task.tid);
  if (former && static_cast<pid_t>(*former) != task.tid) {
    if (Task* old = find(static_cast<pid_t>(*former))) {
      task.call = old->call;
      task.vfork_child = old->vfork_child;
      task.vfork_parent = old->vfork_parent;
      remove(static_cast<pid_t>(*former));
    }
  }
  if (task.vfork_child) {
    if (Task* parent = find(task.vfork_parent)) parent->vfork_waiting = false;
    task.vfork_child = false;
  }
  // Threads that the exec ended: most are reported, a leader that had already ended is not.
  for (auto it = tasks_.begin(); it != tasks_.end();) {
    if (it->second.tgid == task.tgid && it->first != task.tid && task_state(it->first) == '?')
      it = tasks_.erase(it);
    else
      ++it;
  }
  if (stub_) stub_->on_exec(task);
  policy_.on_exec(task);
  if (!start_program(task)) go_on(task);
}

void Tracer::handle_entry(Task& task) {
  ++figures_.entries;
  auto info = ptrace_raw::call_info(task.tid);
  if (!info) return;
  if (task.start && serve_start(task, info->ip)) return;
  Call call;
  call.nr = static_cast<int>(info->nr);
  std::copy_n(info->args, 6, call.args.begin());
  call.foreign = info->seccomp_data == kTagForeignArch;
  call.row = call.foreign ? nullptr : find_syscall(call.nr);
  task.call = call;
  if (must_hold(task)) {
    drop_call(task);
    go_on(task);
    return;
  }
  if (stub_ && !call.foreign) {
    if (serve_report(task, *info)) return;
    if (task.no_area && task.area) drop_area(task);
    forget_descriptors(task, call);
    if (call.row && (call.row->io == IoClass::Process || call.nr == SYS_close_range)) look_at_own_rules(task);
    else give_area(task);
    task.wants_hint = task.area && stub_->is_traced_entry(task, info->ip);
    const std::uint64_t site = info->ip - kSyscallInsnSize;
    if (task.space && task.space->light && task.space->calls_to_share >= kCallsToShare && !task.vfork_child && !safe_ &&
        !task.exempt && !task.detained && task.area && task.space->refused.empty() && !share_with(task))
      return;
    task.knows_files = task.space && !task.space->light;
    std::vector<stub::Known> known;
    if (patch_due(task, site, call.nr, known) && patch(task, site, call.nr)) return;
    if (!known.empty() && patch_known(task, known)) return;
  }
  // A filter of the application's own that wants a tracer: it has none.
  ask_entry(task, info->seccomp_data == kTagNative || info->seccomp_data == kTagForeignArch);
}

void Tracer::ask_entry(Task& task, bool ours) {
  task.hint = 0;
  const EntryDecision decision =
      ours ? policy_.on_entry(task) : EntryDecision{EntryAction::Skip, -ENOSYS};
  if (stub_ && task.hint) stub_->tell_hint(task);
  switch (decision.action) {
    case EntryAction::Pass:
      if (replaces_descriptor(task)) {
        task.state = RunState::Running;
        leave_signals(task);
        ptrace_raw::cont_to_exit(task.tid).ignore();
        return;
      }
      task.call.reset();
      go_on(task);
      return;
    case EntryAction::Watch:
      if (stub_ && task.space && task.space->light && changes_storage(*task.call)) ++task.space->calls_to_share;
      task.state = RunState::Running;
      leave_signals(task);
      ptrace_raw::cont_to_exit(task.tid).ignore();
      return;
    case EntryAction::Hold:
      task.held = true;
      return;
    case EntryAction::Skip: {
      task.call.reset();
      auto regs = ptrace_raw::get_regs(task.tid);
      if (regs) {
        skip_call(*regs, decision.result);
        ptrace_raw::set_regs(task.tid, *regs).ignore();
      }
      go_on(task);
      return;
    }
  }
}

void Tracer::handle_exit(Task& task) {
  ++figures_.exits;
  if (!task.call) {
    go_on(task);
    return;
  }
  if (replaces_descriptor(task)) forget_descriptors(task, *task.call);
  auto regs = ptrace_raw::get_regs(task.tid);
  if (!regs) return;
  const long result = static_cast<long>(regs->rax);
  if (is_restart_code(result)) {
    // Not an end: the kernel restarts the call (it traps again), or turns the code into -EINTR
    // when it calls a handler.
    policy_.on_call_dropped(task);
    task.call.reset();
    go_on(task);
    return;
  }
  const Regs before = *regs;
  switch (policy_.on_exit(task, result, *regs)) {
    case ExitAction::Continue:
      if (memcmp(&before, &*regs, sizeof before) != 0)
        ptrace_raw::set_regs(task.tid, *regs).ignore();
      task.call.reset();
      if (task.exempt) {
        task.call_done = true;
        task.exempt = false;
      }
      go_on(task);
      return;
    case ExitAction::Again:
      task.call.reset();
      rewind(task, *regs);
      go_on(task);
      return;
    case ExitAction::AgainHeld:
      rewind_call(*regs);
      [[fallthrough]];
    case ExitAction::ContinueHeld:
      ptrace_raw::set_regs(task.tid, *regs).ignore();
      task.call.reset();
      task.held = true;
      if (task.exempt) {
        task.call_done = true;
        task.exempt = false;
      }
      if (must_hold(task)) go_on(task);
      return;
  }
}

bool Tracer::is_alone(const Task& task) const {
  return std::ranges::none_of(tasks_, [&task](const auto& other) {
    return other.second.tgid == task.tgid && other.first != task.tid;
  });
}

bool Tracer::must_hold(const Task& task) const {
  return (holding_ || task.detained) && !task.exempt && !task.vfork_child && !task.vfork_waiting;
}

void Tracer::go_on(Task& task, int sig) {
  if (must_hold(task)) {
    ptrace_raw::interrupt(task.tid).ignore();
    task.interrupted = true;
  }
  task.state = RunState::Running;
  task.clean = false;
  if (sig == 0) sig = std::exchange(task.deferred_signal, 0);
  if (sig == 0) leave_signals(task);
  ptrace_raw::cont(task.tid, sig).ignore();
}

void Tracer::drop_call(Task& task) {
  auto regs = ptrace_raw::get_regs(task.tid);
  if (!regs) return;
  policy_.on_call_dropped(task);
  task.call.reset();
  rewind(task, *regs);
}

void Tracer::rewind(Task& task, Regs& regs) {
  rewind_call(regs);
  ptrace_raw::set_regs(task.tid, regs).ignore();
}

void Tracer::release(Task& task) {
  task.held = false;
  if (task.state != RunState::Stopped || must_hold(task)) return;
  if (task.stop.kind == StopKind::Seccomp) {
    // Asked again: the decision may differ now.
    handle_entry(task);
    return;
  }
  go_on(task);
}

}  // namespace supervise
