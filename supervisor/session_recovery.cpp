// The way of a failed call: ladder, retry and wait timers, replay over the path in use, and the
// switch to another path with every thread held.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "supervisor/base/errno_class.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/worker.h"
#include "supervisor/host_command.h"
#include "supervisor/relocate.h"
#include "supervisor/replay.h"
#include "supervisor/session.h"

namespace supervise {
namespace {

std::int64_t unix_ns() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000ll + now.tv_nsec;
}

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
  incident_.first_error_unix_ns = unix_ns();
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

Status Session::replay_on(StoragePath& path, const std::string& dir) {
  if (path.journal.empty()) return {};
  const auto began = Clock::now();
  auto result = run_worker(
      fmt::format("replay of path {} over {}", path.name, dir), Deadline::in(config_.path_deadline * 4),
      [&]() -> Result<WorkerOutput> {
        UniqueFd root(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!root) return errno_error("open " + dir);
        ReplayOptions options;
        options.in_place = dir == path.dir();
        ASSIGN_OR_RETURN(const ReplayReport report, replay(path.journal, root.get(), options));
        return WorkerOutput{report.to_json(), {}};
      });
  if (!result) return result.error();
  ASSIGN_OR_RETURN(const ReplayReport report, ReplayReport::from_json(result->bytes));
  for (const ReplayedFile& f : report.rekeyed) path.journal.rekey(f.id, {0, f.key.ino});
  path.journal.synced_all(path.journal.now());
  // Ordinary at an end or a limit, news in an incident.
  const auto tell = incident_.id ? &Events::info : &Events::debug;
  (events_.*tell)("journal.replayed",
               fmt::format("{} bytes of {} files and {} names are on {}, synced, read back ({} "
                           "bytes) and equal; {:.1f} ms",
                           report.bytes, report.files, report.names, dir, report.compared_bytes,
                           ms_between(began, Clock::now())),
               {{"step", std::int64_t{4}}, {"path", path.name},
                {"bytes", static_cast<std::int64_t>(report.bytes)},
                {"files", static_cast<std::int64_t>(report.files)},
                {"compared", static_cast<std::int64_t>(report.compared_bytes)}});
  return {};
}

// The path in use is in order as far as anybody knows: the kernel has the data, it only has to be
// made durable. Nothing is rewritten, since stores through mappings may be newer than the journal.
Status Session::sync_in_place(StoragePath& path) {
  if (path.journal.empty()) return {};
  auto result = run_worker(
      fmt::format("sync of path {} on {}", path.name, path.dir()),
      Deadline::in(config_.path_deadline * 4), [&]() -> Result<WorkerOutput> {
        UniqueFd root(open(path.dir().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!root) return errno_error("open " + path.dir());
        const auto sync = [&](const std::string& name, int flags) -> Status {
          UniqueFd fd(openat(root.get(), name.empty() ? "." : name.c_str(),
                             flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
          if (!fd) return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
                              ? Status() : Status(errno_error("open " + name));
          if (fsync(fd.get()) != 0 && errno != EINVAL) return errno_error("fsync " + name);
          return {};
        };
        std::set<std::string> dirs{""};
        const auto parents = [&](std::string name) {
          for (auto slash = name.rfind('/'); slash != name.npos; slash = name.rfind('/')) {
            name.resize(slash);
            dirs.insert(name);
          }
        };
        for (const auto& [id, file] : path.journal.files()) {
          if (file.names.empty()) continue;
          if (file.kind == NodeKind::Regular)
            RETURN_IF_ERROR(sync(file.names.front(), O_RDONLY));
          for (const std::string& name : file.names) parents(name);
        }
        for (const auto& [name, state] : path.journal.names()) parents(name);
        for (const std::string& dir : dirs) RETURN_IF_ERROR(sync(dir, O_RDONLY | O_DIRECTORY));
        if (syncfs(root.get()) != 0) return errno_error("syncfs " + path.dir());
        return WorkerOutput{};
      });
  if (!result) return result.error();
  events_.debug("journal.synced", fmt::format("{} bytes of {} files are durable on {}", path.journal.bytes(),
                                              path.journal.dirty_files(), path.dir()),
                {{"path", path.name}});
  path.journal.synced_all(path.journal.now());
  return {};
}

// Files that were mapped shared and writable may hold stores that no call told of: what the kernel
// still shows of the journaled ranges replaces what was written there.
void Session::refresh_mapped(StoragePath& path) {
  if (path.mapped.empty() || path.journal.empty()) return;
  struct Range { std::uint64_t ino, offset, length; };
  std::vector<Range> ranges;
  for (const auto& [id, file] : path.journal.files())
    if (path.mapped.contains(file.key.ino) && !file.names.empty())
      for (const auto& [offset, piece] : file.data.pieces())
        ranges.push_back({file.key.ino, offset, piece.length});
  for (const Range& r : ranges) {
    const FileState* file = path.journal.find({0, r.ino});
    if (!file || file->names.empty()) continue;
    const std::string name = file->names.front();
    const std::uint64_t size = file->size.value_or(r.offset + r.length);
    if (r.offset >= size) continue;
    auto read = run_worker("read back " + name, Deadline::in(Millis(5000)), [&]() -> Result<WorkerOutput> {
      UniqueFd fd(open((path.dir() + "/" + name).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
      struct stat st {};
      if (!fd || fstat(fd.get(), &st) != 0 || st.st_ino != r.ino) return errno_error("open " + name);
      WorkerOutput out;
      out.bytes.resize(std::min(r.length, size - r.offset));
      const ssize_t n = pread(fd.get(), out.bytes.data(), out.bytes.size(), static_cast<off_t>(r.offset));
      if (n < 0) return errno_error("read " + name);
      out.bytes.resize(static_cast<std::size_t>(n));
      return out;
    });
    if (!read || read->bytes.empty()) continue;
    path.journal.wrote({0, r.ino}, name, r.offset, std::as_bytes(std::span(read->bytes)), size);
  }
}

bool Session::make_durable(StoragePath& path, const char* why, bool rewrite) {
  if (path.journal.empty()) return true;
  const bool was_holding = tracer_.holding();
  if (!was_holding) {
    if (auto s = tracer_.hold_all(Deadline::in(config_.path_deadline)); !s) {
      events_.warn("hold.failed", s.error().message());
      return false;
    }
  }
  if (rewrite) refresh_mapped(path);
  auto status = rewrite ? replay_on(path, path.dir()) : sync_in_place(path);
  if (!status) {
    events_.warn("journal.not_durable", fmt::format("{}: {}", why, status.error().message()),
                 {{"path", path.name}});
  }
  if (!was_holding) tracer_.resume_all();
  if (!status && path.next_alternate() && world_->has_namespaces() && !config_.observe) {
    open_incident(path, path.place);
    return fail_over(path);
  }
  return status.ok();
}

Status Session::run_hook(const StoragePath& path, const std::string& command,
                         const std::string& dir, const std::string& from,
                         const std::string& reason) {
  if (command.empty()) return {};
  const auto began = Clock::now();
  auto result = run_host_command(command,
                                 {"SUPERVISE_PATH=" + path.name, "SUPERVISE_DIR=" + dir,
                                  "SUPERVISE_FROM=" + from, "SUPERVISE_REASON=" + reason},
                                 Deadline::in(config_.path_deadline));
  if (!result) return result.error();
  if (!result->success()) return plain_error(fmt::format("`{}` ended with {}", command, result->describe()));
  events_.info("path.hook", fmt::format("`{}` done in {:.1f} ms", command, ms_between(began, Clock::now())),
               {{"path", path.name}});
  return {};
}

bool Session::try_alternate(StoragePath& path, std::size_t index) {
  const std::string from = path.dir(), to = path.dirs[index];
  const auto began = Clock::now();
  const auto refuse = [&](const Error& e) {
    events_.warn("path.unavailable", fmt::format("path {} can't go over {}: {}", path.name, to, e.message()),
                 {{"path", path.name}});
    return false;
  };
  std::string reason = "error";
  for (const auto& [tid, f] : failed_)
    if (f.path == &path) reason = fmt::format("{} {}", f.sigbus ? "mmap" : syscall_name(f.nr), errno_name(f.err));

  auto collected = Relocation::collect(tracer_, path);
  if (!collected) return refuse(collected.error());
  auto relocation = std::make_shared<Relocation>(collected.take());
  refresh_mapped(path);
  const std::uint64_t mapped = relocation->save_mappings();
  if (mapped) events_.debug("mapping.saved", fmt::format("{} bytes of shared mappings saved", mapped));

  KeeperPage* page = keeper_.page();
  const std::size_t slot = path.slot % KeeperPage::kPaths;
  const int mark = static_cast<int>(index) + 1;
  if (!page || page->up[slot] != mark) {
    if (auto s = run_hook(path, path.up, to, from, reason); !s) return refuse(s.error());
    if (page) page->up[slot] = mark;
  }
  auto probe = run_worker("look at " + to, Deadline::in(config_.path_deadline), [&]() -> Result<WorkerOutput> {
    struct stat st {};
    if (stat(to.c_str(), &st) != 0) return errno_error("stat " + to);
    if (!S_ISDIR(st.st_mode)) return errno_error(ENOTDIR, to);
    return WorkerOutput{std::to_string(st.st_dev), {}};
  });
  if (!probe) return refuse(probe.error());
  const auto& dev_before = path.dev_at_start[index];
  if (path.up.empty() && dev_before && std::to_string(*dev_before) != probe->bytes)
    return refuse(plain_error("another file system is there than at the start (unmounted?)"));

  set_step(3);
  if (auto s = fault_point("handover.3.switch"); !s) return refuse(s.error());
  if (auto s = replay_on(path, to); !s) return refuse(s.error());
  auto unsized = relocation->tell_unsized(to, Deadline::in(config_.path_deadline));
  if (!unsized) return refuse(unsized.error());
  if (auto s = *unsized ? replay_on(path, to) : Status(); !s) return refuse(s.error());
  set_step(4);
  if (auto s = fault_point("handover.4.replay"); !s) return refuse(s.error());
  if (!page || page->rebound[slot] != mark) {
    if (auto s = world_->rebind(path.name, to, Deadline::in(config_.path_deadline)); !s)
      return refuse(s.error());
    if (page) page->rebound[slot] = mark;
  }
  path.mounts = world_->mount_ids(path.name);
  tracer_.undo_safety();  // a thread that runs an injected call must not meet our SIGSTOP
  auto report = relocation->move(*world_, Deadline::in(config_.path_deadline));
  if (page) page->switched[slot] = mark;
  if (keeper_.running()) tracer_.make_safe().ignore();
  path.given_up.insert(path.active);
  path.active = index;
  ++path.switches;
  if (!report) {
    events_.error("path.move_failed", report.error().message(), {{"path", path.name}});
  } else {
    for (pid_t tid : report->late) {
      if (Task* task = tracer_.find(tid)) task->detained = true;
      late_.push_back({relocation, tid});
    }
    for (const std::string& problem : report->problems)
      events_.error("path.not_moved", problem, {{"path", path.name}});
    events_.warn("path.switched",
                 fmt::format("path {} goes over {} now: {} descriptors, {} mappings, {} directories "
                             "and {} locks moved in {:.1f} ms",
                             path.name, to, report->descriptors, report->mappings,
                             report->directories, report->locks, ms_between(began, Clock::now())),
                 {{"step", std::int64_t{3}}, {"path", path.name}, {"dir", to}});
  }
  if (auto s = run_hook(path, path.down, from, from, reason); !s)
    events_.warn("path.down_failed", s.error().message(), {{"path", path.name}});
  return true;
}

bool Session::fail_over(StoragePath& path) {
  auto waiting = [&] {
    std::vector<pid_t> tids;
    for (auto& [tid, f] : failed_)
      if (f.path == &path && f.waits_for == FailedCall::Alternate) tids.push_back(tid);
    return tids;
  };
  const auto began = Clock::now();
  if (auto s = tracer_.hold_all(Deadline::in(config_.path_deadline)); !s) {
    events_.error("hold.failed", s.error().message(), {{"path", path.name}});
  } else {
    events_.info("threads.held", fmt::format("{} threads of {} processes held in {:.1f} ms",
                                             tracer_.tasks().size(), tracer_.processes().size(),
                                             ms_between(began, Clock::now())),
                 {{"step", std::int64_t{2}}});
    protect();
    set_step(2);
    fault_point("handover.2.held").ignore();
    while (auto index = path.next_alternate()) {
      if (!try_alternate(path, *index)) {
        path.given_up.insert(*index);
        continue;
      }
      bool wants = false;
      bool good = true;
      for (pid_t tid : waiting()) {
        FailedCall& failed = failed_[tid];
        failed.attempts.alternate_done = true;
        wants |= ladder_wants_handover(failed.ladder, surroundings(path));
      }
      if (waiting().empty()) wants = !config_.standby.empty() && !handover_failed_;
      if (wants) {
        // Each failed call is brought to its end, so that the image holds its success.
        keep_incident_ = true;
        tracer_.undo_safety();
        for (pid_t tid : waiting()) {
          Task* task = tracer_.find(tid);
          FailedCall& failed = failed_[tid];
          if (!task || failed.sigbus) continue;
          if (failed.kind == CallKind::Close) {
            task->held = false;
            completed(*task, failed);
            failed_.erase(tid);
            continue;
          }
          failed.waits_for = FailedCall::Running;
          auto ran = tracer_.run_call_alone(*task, Deadline::in(config_.path_deadline));
          if (!ran && !ran.error().is_gone()) events_.error("call.stuck", ran.error().message());
          if (auto it = failed_.find(tid); it != failed_.end() && it->second.waits_for == FailedCall::Alternate)
            good = false;  // failed on this path too
        }
        if (keeper_.running()) tracer_.make_safe().ignore();
        if (!good) continue;
        set_step(5);
        fault_point("handover.5.completed").ignore();
        if (!late_.empty()) tracer_.resume_all();  // until the vfork is over
        want_handover_ = true;
        handover_reason_ = fmt::format("path {} failed", path.name);
        return true;  // everything stays held
      }
      for (pid_t tid : waiting()) {
        FailedCall& failed = failed_[tid];
        failed.waits_for = FailedCall::Running;
        Task* task = tracer_.find(tid);
        if (!task) continue;
        task->held = false;
        if (failed.kind == CallKind::Close || failed.sigbus) {
          completed(*task, failed);
          failed_.erase(tid);
        }
      }
      tracer_.resume_all();
      close_incident_if_done();
      return true;
    }
  }
  // No alternate is left.
  std::vector<std::pair<pid_t, FailedCall>> report;
  for (pid_t tid : waiting()) {
    Task* task = tracer_.find(tid);
    if (!task) continue;
    FailedCall copy = failed_[tid];
    step_ladder(*task, failed_[tid]);
    if (!failed_.contains(tid)) {
      report_failed(*task, copy);
      task->held = false;
    } else if (failed_[tid].waits_for == FailedCall::Alternate) {
      failed_[tid].waits_for = FailedCall::Timer;
      failed_[tid].again_at = Clock::now() + Millis(1000);
    }
  }
  tracer_.resume_all();
  return false;
}

void Session::move_late() {
  std::erase_if(late_, [&](const Late& late) {
    Task* task = tracer_.find(late.tid);
    if (!task) return true;
    if (task->state != RunState::Stopped || !task->clean || task->vfork_waiting) return false;
    auto s = late.relocation->move_late(late.tid, Deadline::in(config_.path_deadline));
    if (!s && !s.error().is_gone())
      events_.error("path.not_moved", fmt::format("process {}: {}", task->tgid, s.error().message()));
    task->detained = false;
    if (!tracer_.holding()) tracer_.release(*task);
    return true;
  });
}

bool Session::finish_at_end() {
  for (auto& path : paths_.all()) {
    if (path->journal.empty() || config_.observe) continue;
    // Nobody may ever learn of an error from now on: what was written is made durable here.
    if (sync_in_place(*path)) continue;
    open_incident(*path, path->place);
    bool good = false;
    while (auto index = path->next_alternate()) {
      if (try_alternate(*path, *index) ) {
        good = sync_in_place(*path).ok();
        if (good) break;
      }
      path->given_up.insert(*index);
    }
    if (!good)
      events_.error("journal.lost",
                    fmt::format("path {}: {} bytes of {} files that the application wrote are not "
                                "known to be on the storage", path->name, path->journal.bytes(),
                                path->journal.dirty_files()),
                    {{"path", path->name}});
  }
  return true;
}

}  // namespace supervise
