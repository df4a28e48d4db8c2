// The way of a failed call: ladder, retry and wait timers, and what is told of it.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <algorithm>

#include "restore/host_identity.h"
#include "supervisor/base/errno_class.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/relocate.h"
#include "supervisor/replay.h"
#include "supervisor/session.h"

namespace supervise {
namespace {

CallKind kind_of(const Task& task, const CallContext& ctx) {
  const Call& call = *task.call;
  if (call.row->io == IoClass::Close) return CallKind::Close;
  if (call.row->io == IoClass::Sync) return CallKind::Durability;
  if (call.row->io == IoClass::Write && (ctx.at_entry.flags & O_DSYNC)) return CallKind::Durability;
  return CallKind::Ordinary;
}

std::optional<Vma> mapping_at(pid_t tid, std::uint64_t addr) {
  auto maps = maps_of(tid);
  if (!maps) return std::nullopt;
  for (const Vma& v : *maps)
    if (addr >= v.start && addr < v.end && v.ino != 0) return v;
  return std::nullopt;
}

}  // namespace

Surroundings Session::surroundings(const StoragePath& path) const {
  Surroundings s;
  s.alternate_available = path.next_alternate().has_value() && world_->has_namespaces();
  s.standby_configured = !config_.standby.empty() && world_->has_namespaces();
  s.handover_failed = handover_failed_;
  return s;
}

void Session::open_incident(StoragePath& path, const std::string& what) {
  ++path.errors;
  if (incident_.id != 0) return;
  incident_.id = ++incidents_;
  incident_.first_error = Clock::now();
  incident_.first_error_unix_ns = unix_now_ns();
  events_.set_incident(incident_.id);
  (void)what;
}

void Session::close_incident_if_done() {
  if (incident_.id == 0 || !failed_.empty() || keep_incident_) return;
  unprotect();
  events_.set_incident(0);
  incident_ = {};
}

ExitAction Session::fail(Task& task, CallContext& ctx, int err, ptrace_raw::Regs& regs) {
  const Call& call = *task.call;
  if (ctx.by_name && errno_class(err) != ErrnoClass::None) resolve_late(paths_, task, ctx);
  if (!ctx.path && call.nr == SYS_msync && err == EIO) {
    if (auto vma = mapping_at(task.tid, call.args[0]); vma && vma->shared)
      ctx.path = paths_.of_absolute(vma->path, nullptr);
  }
  if (err == EFAULT) {
    // A buffer in a mapping whose page can't be read any more.
    const int buffer = std::max(arg_index(*call.row, ArgKind::InBuf), arg_index(*call.row, ArgKind::OutBuf));
    if (buffer >= 0) {
      if (auto vma = mapping_at(task.tid, call.args[static_cast<std::size_t>(buffer)])) {
        if (StoragePath* p = paths_.of_absolute(vma->path, nullptr)) {
          ctx.path = p;
          err = EIO;
        }
      }
    }
  }
  if (!ctx.path || is_applications_own(task, ctx, err))
    return pieces_.contains(task.tid) ? give_result(task, 0, regs) : ExitAction::Continue;
  StoragePath& path = *ctx.path;
  const Ladder ladder = policy_.ladder_for(path.name, call.row->name, err);
  if (ladder.empty())
    return pieces_.contains(task.tid) ? give_result(task, 0, regs) : ExitAction::Continue;

  bool deleted = false;
  std::string subject = path.place;
  if (ctx.fd >= 0) {
    if (auto name = StoragePaths::name_of_fd(task.tid, ctx.fd, path, deleted))
      subject += "/" + *name;
  } else if (ctx.target) {
    subject += "/" + ctx.target.name;
  }
  if (config_.observe) {
    events_.warn("error.observed",
                 fmt::format("{} on {} failed with {}; the ladder would have been {}",
                             call.row->name, subject, errno_name(err), to_string(ladder)),
                 {{"path", path.name}, {"errno", errno_name(err)}});
    return pieces_.contains(task.tid) ? give_result(task, 0, regs) : ExitAction::Continue;
  }

  auto [it, fresh] = failed_.try_emplace(task.tid);
  FailedCall& failed = it->second;
  open_incident(path, subject);
  if (fresh || failed.nr != call.nr) {
    failed = FailedCall{};
    failed.path = &path;
    failed.nr = call.nr;
    failed.kind = kind_of(task, ctx);
    failed.incident = incident_.id;
    events_.warn("error.intercepted",
                 fmt::format("{} on {} by thread {} ({}) failed with {}", call.row->name, subject,
                             task.tid, task_name(task.tid), errno_name(err)),
                 {{"step", std::int64_t{1}},
                  {"path", path.name},
                  {"call", std::string(call.row->name)},
                  {"errno", errno_name(err)},
                  {"tid", std::int64_t{task.tid}}});
    if (surroundings(path).alternate_available) protect();
    set_step(1);
    fault_point("handover.1.error").ignore();
  } else {
    events_.debug("error.again", fmt::format("{} on {} failed again with {}", call.row->name,
                                             subject, errno_name(err)));
  }
  failed.err = err;
  failed.ladder = ladder;
  step_ladder(task, failed);
  if (!failed_.contains(task.tid)) {  // reported
    return pieces_.contains(task.tid) ? give_result(task, 0, regs) : ExitAction::Continue;
  }
  if (failed.kind == CallKind::Close) {
    regs.rax = 0;
    return ExitAction::ContinueHeld;
  }
  return ExitAction::AgainHeld;
}

// Decides what a failed call waits for. Report: the entry is removed and the caller lets the
// error through.
void Session::step_ladder(Task& task, FailedCall& failed) {
  const NextStep next =
      next_step(failed.ladder, failed.kind, failed.attempts, surroundings(*failed.path));
  failed.attempts = next.attempts;
  failed.again_at = Clock::now() + next.delay;
  switch (next.act) {
    case Act::RunAgain:
      if (failed.waits_for != FailedCall::Running || failed.attempts.retries + failed.attempts.waited.count() == 0)
        events_.info("ladder.again", fmt::format("{} on path {} is tried again in {} ms",
                                                 failed.sigbus ? "an access to a mapping" : syscall_name(failed.nr),
                                                 failed.path->name,
                                                 next.delay.count()));
      failed.waits_for = FailedCall::Timer;
      return;
    case Act::ReplayRunAgain: failed.waits_for = FailedCall::Replay; return;
    case Act::Alternate: failed.waits_for = FailedCall::Alternate; return;
    case Act::Handover:
    case Act::Report:
      events_.error("error.reported",
                    fmt::format("nothing is left to try: {} on path {} reports {} to the "
                                "application (thread {})",
                                failed.sigbus ? "an access to a mapping" : syscall_name(failed.nr),
                                failed.path->name, errno_name(failed.err), task.tid),
                    {{"path", failed.path->name}, {"errno", errno_name(failed.err)}});
      failed_.erase(task.tid);
      close_incident_if_done();
      return;
  }
}

void Session::completed(Task& task, FailedCall& failed) {
  events_.info("call.completed",
               fmt::format("{} of thread {} succeeded over {}",
                           failed.sigbus ? "the access" : syscall_name(failed.nr), task.tid,
                           failed.path->dir()),
               {{"step", std::int64_t{5}}, {"path", failed.path->name}});
  if (failed_.size() <= 1) {
    failed_.clear();
    close_incident_if_done();
  }
}

SignalAction Session::on_sigbus(Task& task, const siginfo_t& info) {
  const auto addr = reinterpret_cast<std::uint64_t>(info.si_addr);
  auto vma = mapping_at(task.tid, addr);
  StoragePath* path = vma ? paths_.of_absolute(vma->path, nullptr) : nullptr;
  if (!path) return SignalAction::Deliver;
  const std::uint64_t offset = vma->offset + (addr - vma->start);
  struct statx sx {};
  const std::string link = fmt::format("/proc/{}/map_files/{:x}-{:x}", task.tgid, vma->start, vma->end);
  if (statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &sx) == 0 &&
      (offset & ~4095ull) >= sx.stx_size)
    return SignalAction::Deliver;  // beyond the end of the file: the application's own
  struct statfs fs {};
  const bool full = vma->write && statfs(path->dir().c_str(), &fs) == 0 && fs.f_bavail == 0;
  const int err = full ? ENOSPC : EIO;
  const Ladder ladder = policy_.ladder_for(path->name, "mmap", err);
  if (ladder.empty()) return SignalAction::Deliver;
  if (config_.observe) {
    events_.warn("error.observed", fmt::format("SIGBUS at {} offset {}; the ladder would have been {}",
                                               vma->path, offset, to_string(ladder)));
    return SignalAction::Deliver;
  }
  auto [it, fresh] = failed_.try_emplace(task.tid);
  FailedCall& failed = it->second;
  open_incident(*path, vma->path);
  if (fresh || !failed.sigbus || failed.sigbus_addr != addr) {
    failed = FailedCall{};
    failed.path = path;
    failed.sigbus = true;
    failed.sigbus_addr = addr;
    failed.incident = incident_.id;
    events_.warn("error.intercepted",
                 fmt::format("SIGBUS at {} offset {} in thread {} ({})", vma->path, offset,
                             task.tid, task_name(task.tid)),
                 {{"step", std::int64_t{1}}, {"path", path->name}, {"call", "mmap"},
                  {"errno", errno_name(err)}, {"tid", std::int64_t{task.tid}}});
  }
  failed.err = err;
  failed.ladder = ladder;
  step_ladder(task, failed);
  return failed_.contains(task.tid) ? SignalAction::DropHeld : SignalAction::Deliver;
}

// A call that was rewound gets its error after all; a held SIGBUS happens again and is delivered.
void Session::report_failed(Task& task, FailedCall& failed) {
  if (!failed.sigbus && task.state == RunState::Stopped) {
    if (auto regs = ptrace_raw::get_regs(task.tid)) {
      if (failed.kind == CallKind::Close) {
        regs->rax = static_cast<unsigned long long>(-failed.err);
      } else {
        regs->rip += kSyscallInsnSize;
        give_result(task, pieces_.contains(task.tid) ? 0 : -failed.err, *regs);
      }
      ptrace_raw::set_regs(task.tid, *regs).ignore();
    }
  }
}

void Session::serve_recovery() {
  move_late();
  const auto now = Clock::now();
  std::vector<pid_t> due;
  for (auto& [tid, failed] : failed_) {
    if (failed.waits_for == FailedCall::Timer && failed.again_at <= now) due.push_back(tid);
  }
  for (pid_t tid : due) {
    FailedCall& failed = failed_[tid];
    failed.waits_for = FailedCall::Running;
    if (Task* task = tracer_.find(tid)) tracer_.release(*task);
  }
  serve_replays();
  for (auto& path : paths_.all()) {
    const bool wanted = std::any_of(failed_.begin(), failed_.end(), [&](const auto& f) {
      return f.second.path == path.get() && f.second.waits_for == FailedCall::Alternate;
    });
    if (wanted) fail_over(*path);
    if (handed_over_) return;
  }
}

void Session::serve_replays() {
  for (auto& path : paths_.all()) {
    std::vector<pid_t> waiting;
    for (auto& [tid, failed] : failed_)
      if (failed.path == path.get() && failed.waits_for == FailedCall::Replay &&
          failed.again_at <= Clock::now())
        waiting.push_back(tid);
    if (waiting.empty()) continue;
    const bool good = make_durable(*path, "a failed sync", true);
    for (pid_t tid : waiting) {
      Task* task = tracer_.find(tid);
      auto it = failed_.find(tid);
      if (!task || it == failed_.end()) continue;
      if (good) {
        it->second.waits_for = FailedCall::Running;
        const bool close = it->second.kind == CallKind::Close;
        if (close) {
          completed(*task, it->second);
          failed_.erase(tid);
        }
        tracer_.release(*task);
        continue;
      }
      FailedCall copy = it->second;
      step_ladder(*task, it->second);
      if (!failed_.contains(tid)) {
        report_failed(*task, copy);
        tracer_.release(*task);
      }
    }
  }
}

}  // namespace supervise
