// Hold, park and adopt: bringing all tasks to a clean stop, letting them go without a tracer in
// state T, and taking over a tree in state T. The sequence is described in tracer.h.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

#include "tracer/proc_info.h"
#include "tracer/tracer.h"

namespace supervise {
namespace {

bool waits_for(pid_t tid, std::uint64_t signals) {
  auto status = task_status(tid);
  return status && (status->shared_pending & ~status->blocked & signals) != 0;
}

// With everything held: our own SIGCONT, and the SIGCHLD that tells parents of it, are taken by one
// thread of each process before any other runs. A thread that enters a call with a timeout while
// such a signal is pending, but is taken by another thread, would return EINTR without any stop.
void take_own_signals(Tracer& tracer, Deadline deadline) {
  constexpr std::uint64_t kOwn = 1ull << (SIGCONT - 1) | 1ull << (SIGCHLD - 1);
  for (bool any = true; any && !deadline.passed();) {
    any = false;
    for (pid_t pid : tracer.processes()) {
      pid_t taker = 0;
      bool stopped = false;
      for (auto& [tid, task] : tracer.tasks()) {
        if (task.tgid != pid) continue;
        stopped |= task.app_stopped;
        if (!taker && task.state == RunState::Stopped && task.clean && waits_for(tid, kOwn)) taker = tid;
      }
      if (!taker || stopped) continue;
      any = true;
      Task* task = tracer.find(taker);
      task->state = RunState::Running;
      task->clean = false;
      ptrace_raw::cont(taker).ignore();
      for (;;) {
        task = tracer.find(taker);
        if (!task || (task->state == RunState::Stopped && task->clean) || deadline.passed()) break;
        if (!tracer.drain()) wait_for_sigchld(deadline);
      }
    }
  }
}

}  // namespace

Status Tracer::hold_all(Deadline deadline) {
  holding_ = true;
  held_ = false;
  for (;;) {
    bool all = true;
    std::vector<pid_t> ids;
    for (auto& [tid, task] : tasks_) ids.push_back(tid);
    for (pid_t tid : ids) {
      Task* task = find(tid);
      if (!task) continue;
      if (!task->announced) {
        all = false;
        continue;
      }
      if (task->vfork_child && task->held && task->state == RunState::Stopped) {
        // At its exit stop with the call rewound: a user-mode boundary.
        if (task->stop.kind == StopKind::CallStop) task->clean = true;
        if (task->clean) continue;
      }
      if (task->vfork_waiting && has_held_vfork_child(*task)) continue;
      if (task->vfork_child || task->vfork_waiting) {
        all = false;  // runs on until exec or exit
        continue;
      }
      if (task->state == RunState::Stopped && task->clean) continue;
      all = false;
      if (task->state == RunState::Stopped) {
        if (task->stop.kind == StopKind::Seccomp && task->call) drop_call(*task);
        go_on(*task);
      } else if (!task->interrupted) {
        task->interrupted = true;
        ptrace_raw::interrupt(tid).ignore();
      }
    }
    if (all) {
      held_ = true;
      return {};
    }
    if (!wait_and_handle(deadline) && deadline.passed()) {
      Error error = errno_error(ETIMEDOUT, describe_stuck());
      resume_all();
      return error;
    }
  }
}

bool Tracer::has_held_vfork_child(const Task& parent) const {
  for (const auto& [tid, task] : tasks_)
    if (task.vfork_child && task.vfork_parent == parent.tid && task.held) return true;
  return false;
}

std::string Tracer::describe_stuck() const {
  for (const auto& [tid, task] : tasks_) {
    if (task.state == RunState::Stopped && task.clean) continue;
    std::string call = "?";
    if (auto text = read_proc_file(fmt::format("/proc/{}/syscall", tid))) {
      char* end = nullptr;
      const long nr = strtol(text->c_str(), &end, 10);
      call = end == text->c_str() ? *text : std::string(syscall_name(static_cast<int>(nr)));
    }
    return fmt::format("thread {} ({}) of process {} would not stop: state {}, in {}{}", tid,
                       task_name(tid), task.tgid, task_state(tid), call,
                       task.vfork_waiting ? " (waits for its vfork child)" : "");
  }
  return "a thread would not stop";
}

void Tracer::resume_all() {
  if (safe_) undo_safety();
  holding_ = held_ = false;
  std::vector<pid_t> ids;
  for (auto& [tid, task] : tasks_) ids.push_back(tid);
  for (pid_t tid : ids) {
    Task* task = find(tid);
    if (!task || task->state != RunState::Stopped || task->held || task->detained ||
        !task->announced)
      continue;
    if (task->app_stopped) {
      task->app_stopped = false;
      if (!task->injected && task->stop.kind == StopKind::GroupStop) {
        stay_stopped(*task);
      } else {
        // After an injected call it is no longer in its group stop: lead it there again.
        task->injected = false;
        ptrace_raw::interrupt(tid).ignore();
        task->state = RunState::Running;
        ptrace_raw::cont(tid).ignore();
      }
      continue;
    }
    task->injected = false;
    go_on(*task);
  }
}

Status Tracer::run_call_alone(Task& task, Deadline deadline) {
  const pid_t tid = task.tid;
  task.held = false;
  task.exempt = true;
  task.call_done = false;
  task.state = RunState::Running;
  task.clean = false;
  RETURN_IF_ERROR(ptrace_raw::cont(tid));
  for (;;) {
    Task* now = find(tid);
    if (!now) return errno_error(ESRCH, fmt::format("thread {} ended", tid));
    if (now->call_done && (now->vfork_child || (now->state == RunState::Stopped && now->clean)))
      return {};
    if (!wait_and_handle(deadline) && deadline.passed()) {
      if (Task* t = find(tid)) t->exempt = false;
      return errno_error(ETIMEDOUT, fmt::format("thread {} did not complete its call", tid));
    }
  }
}

Status Tracer::park(Deadline deadline) {
  stopped_by_app_.clear();
  std::vector<pid_t> ids;
  for (auto& [tid, task] : tasks_) {
    ids.push_back(tid);
    if (task.app_stopped) stopped_by_app_.insert(task.tgid);
    ptrace_raw::set_options(tid, ptrace_raw::kOptions).ignore();
  }
  for (pid_t pid : processes())
    if (!stopped_by_app_.contains(pid)) kill(pid, SIGSTOP);
  safe_ = false;
  for (pid_t tid : ids) {
    auto status = ptrace_raw::detach(tid);
    if (!status && !status.error().is_gone()) return status;
  }
  tasks_.clear();
  holding_ = held_ = false;
  for (pid_t tid : ids) {
    for (;;) {
      const char state = task_state(tid);
      if (state == 'T' || state == 'Z' || state == '?' || state == 'X') break;
      if (deadline.passed())
        return errno_error(ETIMEDOUT, fmt::format("thread {} ({}) is not stopped: state {}", tid,
                                                  task_name(tid), state));
      const timespec pause{0, 200'000};
      nanosleep(&pause, nullptr);
    }
  }
  return {};
}

Status Tracer::adopt(const std::vector<pid_t>& roots, const std::set<pid_t>& stopped_by_app,
                     Deadline deadline, const std::function<void()>& before_any_runs) {
  holding_ = true;
  tasks_.clear();
  std::set<pid_t> processes;
  // Twice: nothing can be born while all are stopped, but a tree read once proves nothing.
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<pid_t> pids;
    for (pid_t root : roots)
      for (pid_t pid : process_tree_of(root)) pids.push_back(pid);
    for (pid_t pid : pids) {
      for (pid_t tid : threads_of(pid)) {
        if (tasks_.contains(tid) || task_state(tid) == 'Z') continue;
        auto status = ptrace_raw::seize(tid, options());
        if (!status) {
          if (status.error().is_gone()) continue;
          return status;
        }
        Task& task = add(tid);
        task.announced = true;
        task.drop_sigcont = !stopped_by_app.contains(pid);
        task.unparked = Clock::now();
        processes.insert(pid);
      }
    }
  }
  if (tasks_.empty()) return errno_error(ESRCH, "no task to take over");
  for (;;) {
    bool all = true;
    for (auto& [tid, task] : tasks_) {
      if (task.state == RunState::Stopped || (before_any_runs && finds_vfork(task))) continue;
      all = false;
      // In state T it reports its group stop by itself; otherwise it must be asked.
      const char state = task_state(tid);
      if (state != 'T' && state != 't' && !task.interrupted) {
        task.interrupted = true;
        ptrace_raw::interrupt(tid).ignore();
      }
    }
    if (all) break;
    if (!wait_and_handle(deadline) && deadline.passed())
      return errno_error(ETIMEDOUT, describe_stuck());
  }
  if (before_any_runs) before_any_runs();
  for (pid_t pid : processes) {
    if (stopped_by_app.contains(pid)) continue;
    for (auto& [tid, task] : tasks_)
      if (task.tgid == pid) task.app_stopped = false;
    if (kill(pid, SIGCONT) != 0 && errno != ESRCH)
      return errno_error(fmt::format("SIGCONT to process {}", pid));
  }
  take_own_signals(*this, deadline);
  held_ = true;
  return {};
}

Status Tracer::make_safe() {
  if (safe_) return {};
  for (auto& [tid, task] : tasks_)
    ptrace_raw::set_options(tid, ptrace_raw::kOptions).ignore();
  for (pid_t pid : processes()) kill(pid, SIGSTOP);
  safe_ = true;
  return {};
}

void Tracer::undo_safety() {
  if (!safe_) return;
  safe_ = false;
  for (auto& [tid, task] : tasks_) {
    ptrace_raw::set_options(tid, options()).ignore();
    task.drop_sigcont = !task.app_stopped;
    task.unparked = Clock::now();
  }
  // SIGCONT takes back a SIGSTOP that was not acted upon yet.
  for (pid_t pid : processes()) {
    bool stopped = false;
    for (auto& [tid, task] : tasks_)
      if (task.tgid == pid && task.app_stopped) stopped = true;
    if (!stopped) kill(pid, SIGCONT);
  }
  take_own_signals(*this, Deadline::in(Millis(5000)));
}

}  // namespace supervise
