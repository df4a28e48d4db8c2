// The switch to another path with every thread held: hooks, mounts, open files, replay.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include "supervisor/base/errno_class.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/worker.h"
#include "supervisor/host_command.h"
#include "supervisor/relocate.h"
#include "supervisor/replay.h"
#include "supervisor/session.h"

namespace supervise {

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
  renew_descriptors();
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
    drain_ring();
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

}  // namespace supervise
