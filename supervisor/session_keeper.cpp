// Which keeper stands when, and what it does when the supervisor has died.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "restore/ownership.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/worker.h"
#include "supervisor/control.h"
#include "supervisor/front.h"
#include "supervisor/session.h"
#include "supervisor/standby_link.h"
#include "supervisor/warm/sockets.h"
#include "tracer/snapshot.h"
#include "tracer/stop_tracees.h"

namespace supervise {
namespace {

void pause_ms(long ms) {
  const timespec pause{ms / 1000, (ms % 1000) * 1'000'000};
  nanosleep(&pause, nullptr);
}

// The supervisor may have died between its commit and the note of it: what the standby's side says counts.
bool certainly_given_away(const StandbyTarget& target, pid_t dead, Events& events) {
  for (;;) {
    const auto result = given_away(target, dead);
    if (result) return *result;
    events.error("handover.in_doubt", "whether the hand-over is committed is asked again: " +
                                          result.error().message());
    pause_ms(500);
  }
}

}  // namespace

void Session::set_step(int step) {
  if (keeper_.page()) keeper_.page()->step = step;
}

void Session::protect(Stage stage) {
  if (!world_->has_namespaces()) return;
  if (tracer_.held() && !guarded_) default_traps_ = default_traps(tracer_);
  const Stage before = std::exchange(stage_, stage);
  Keeper::Duties duties{{}, [this](pid_t dead) { return survive(dead); }};
  if (config_.outlive) duties.stop_tasks = [this](pid_t dying, bool at_exit) { stop_tasks(dying, at_exit); };
  if (auto s = keeper_.start(duties); !s) {
    stage_ = before;
    events_.warn("keeper.missing", s.error().message());
    return;
  }
  tracer_.note_in(&keeper_.page()->notes);
  if (stage != Stage::Calm && tracer_.held()) tracer_.make_safe().ignore();
}

void Session::unprotect() {
  if (handed_over_ || !stand()) keeper_.dismiss();
  if (keeper_.page()) keeper_.page()->step = 0;
}

bool Session::stand() {
  if (!config_.outlive || !world_ || !world_->has_namespaces()) return false;
  if (keeper_.page()) keeper_.page()->step = 0;
  if (auto s = keeper_.make_page(); s) tracer_.note_in(&keeper_.page()->notes);
  protect(Stage::Calm);
  return keeper_.running() && stage_ == Stage::Calm;
}

// It was killed, or has become the supervisor.
void Session::serve_keeper() {
  if (!config_.outlive || keeper_.running() || !tracer_.has_tasks() || tracer_.holding() || handed_over_ || app_end_ ||
      !world_->has_namespaces() || (tracer_.exit_kill() && !keeper_missed_) || Clock::now() < next_keeper_)
    return;
  const bool there = stand();
  if (!there) next_keeper_ = Clock::now() + Millis(10000);
  if (there == !tracer_.exit_kill()) {
    keeper_missed_ = !there;
    return;
  }
  if (auto s = tracer_.hold_all(Deadline::in(config_.path_deadline)); !s) {
    events_.warn("hold.failed", s.error().message());
    return;
  }
  tracer_.set_exit_kill(!there);
  tracer_.resume_all();
  keeper_missed_ = !there;
  if (!there) events_.warn("keeper.missing", "without a keeper the application is killed when the supervisor dies");
}

void Session::stop_tasks(pid_t dying, bool at_exit) {
  const pid_t init = world_->init_pid();
  const Deadline deadline = Deadline::in(Millis(20000));
  if (stage_ == Stage::Incident && !tracer_.held()) {
    // What was written since we were made, and is not durable, is not in our journal, and the path has failed.
    for (pid_t pid : process_tree_of(init))
      if (pid != init) kill(pid, SIGKILL);
    return;
  }
  halted_ = stop_tracees(init, at_exit ? dying : 0, deadline);
}

void Session::forget_calls() {
  calls_.clear();
  failed_.clear();
  pieces_.clear();
  writers_.clear();
  wait_for_lock_.clear();
  late_.clear();
  deferred_.clear();
  incident_ = {};
  events_.set_incident(0);
  if (ring_) ring_->reset();
  for (const auto& note : keeper_.page()->pieces) {
    if (note.tid == 0) continue;
    Pieces& p = pieces_[note.tid];
    std::copy_n(note.original, 6, p.original.begin());
    p.done = note.done;
  }
}

void Session::note_pieces(const Task& task, const Pieces& pieces) {
  if (!keeper_.page()) return;
  forget_pieces(task.tid);
  for (auto& note : keeper_.page()->pieces) {
    if (note.tid != 0) continue;
    note.nr = task.call->nr;
    std::copy_n(pieces.original.begin(), 6, note.original);
    note.done = pieces.done;
    note.tid = task.tid;
    return;
  }
}

void Session::forget_pieces(pid_t tid) {
  if (!keeper_.page()) return;
  for (auto& note : keeper_.page()->pieces)
    if (note.tid == tid) note.tid = 0;
}

// The rest of a transfer of which its former supervisor had seen the first pieces: short it may be.
ExitAction Session::on_left_behind(Task& task, long result, ptrace_raw::Regs& regs) {
  const auto it = pieces_.find(task.tid);
  if (it != pieces_.end() && task.call->args[1] == it->second.original[1] + it->second.done &&
      task.call->args[2] == it->second.original[2] - it->second.done)
    return give_result(task, result, regs);
  return result < 0 ? on_result(task, result, regs, StubNote()) : ExitAction::Continue;
}

// What the dead supervisor knew of writes that are not durable yet is lost: they are made durable.
void Session::begin_journal_anew(StoragePath& path) {
  path.journal = Journal(config_.journal == JournalMode::Content);
  auto synced = run_worker("sync " + path.dir(), Deadline::in(config_.path_deadline),
                           [&]() -> Result<WorkerOutput> {
                             UniqueFd fd(open(path.dir().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
                             if (!fd || syncfs(fd.get()) != 0) return errno_error("syncfs " + path.dir());
                             return WorkerOutput{};
                           });
  if (!synced) events_.error("journal.lost", synced.error().message(), {{"path", path.name}});
}

int Session::survive(pid_t dead) {
  const int status = go_on_after(dead);
  tell_over(status);
  return status;
}

int Session::go_on_after(pid_t dead) {
  disarm_fault_points();
  shipper_.forget();
  KeeperPage* page = keeper_.page();
  const pid_t init = world_->init_pid();
  events_.set_incident(incident_.id);
  // Only in a hand-over's steps: an image store that can't be reached must not keep threads waiting
  // in an incident that needs none.
  const StandbyTarget target = standby_target();
  const bool maybe = stage_ == Stage::Incident &&
                     (target.over_network() ? page->asked.load() : page->step >= 6 || !incident_.id);
  if (page->committed || (maybe && certainly_given_away(target, dead, events_))) {
    events_.error("supervisor.died", fmt::format("the supervisor (process {}) died after the commit; "
                                                 "its keeper ends the original", dead));
    kill(init, SIGKILL);
    const Deadline deadline = Deadline::in(Millis(20000));
    while (kill(init, 0) == 0 && task_state(init) != 'Z' && !deadline.passed()) pause_ms(2);
    world_.reset();
    for (auto& path : paths_.all())
      if (auto s = run_hook(*path, path->down, path->dir(), path->dir(), "handover"); !s)
        events_.warn("path.down_failed", s.error().message(), {{"path", path->name}});
    return config_.handover_exit_code;
  }

  events_.error("supervisor.died",
                fmt::format("the supervisor (process {}) died{}; its keeper (process {}) takes the application back",
                            dead, stage_ == Stage::Calm ? "" : fmt::format(" in step {}", page->step.load()), getpid()));
  const bool calm = stage_ == Stage::Calm;
  std::set<pid_t> stopped;
  std::set<pid_t> known;
  for (const auto& [tid, task] : tracer_.all()) {
    if (calm) break;  // of long ago
    known.insert(task.tgid);
    if (task.app_stopped) stopped.insert(task.tgid);
  }
  await_stopped(halted_, Deadline::in(Millis(20000)));
  if (calm) {
    for (pid_t pid : process_tree_of(init)) {
      auto status = task_status(pid);
      if (pid != init && status && (status->seccomp_mode != 0 || halted_.contains(pid))) known.insert(pid);
    }
  }
  // A CRIU that is still at work has the threads; it lets them go when it has ended.
  const Deadline tools = Deadline::in(Millis(120000));
  for (bool busy = true; busy && !tools.passed();) {
    busy = false;
    for (pid_t pid : process_tree_of(init))
      if (pid != init && !known.contains(pid) && task_name(pid) == "criu") busy = true;
    if (busy) pause_ms(5);
  }
  if (!calm && !tracer_.held()) {
    // The threads were still running: they end with their supervisor.
    const Deadline gone = Deadline::in(Millis(5000));
    for (bool alive = true; alive && !gone.passed();) {
      alive = false;
      for (pid_t pid : known) {
        const char state = task_state(pid);
        alive |= state != '?' && state != 'Z' && state != 'X';
      }
      if (alive) pause_ms(2);
    }
  }
  const std::vector<pid_t> roots = roots_among(known);
  watch_signals();
  control_.reset();
  for (auto& path : paths_.all()) {
    const int mark = page->switched[path->slot % KeeperPage::kPaths];
    if (mark > 0 && path->active != static_cast<std::size_t>(mark - 1)) {
      path->given_up.insert(path->active);
      path->active = static_cast<std::size_t>(mark - 1);
      path->mounts = world_->mount_ids(path->name);
      // The dead supervisor has replayed what this copy of the journal holds; what it saw written
      // since then is known to the kernel alone.
      begin_journal_anew(*path);
    } else if (calm) {
      path->mounts = world_->mount_ids(path->name);
      begin_journal_anew(*path);
    }
  }
  if (roots.empty()) {
    // It was killed with its supervisor. What it had written is made whole all the same.
    events_.error("application.killed", "the application was killed with its supervisor");
    app_end_ = Stop{StopKind::Killed, SIGKILL, 0};
    finish_at_end();
    return 128 + SIGKILL;
  }
  if (calm) {
    forget_calls();
    refresh_stub();
  }
  // From now on the world's init ends all that nobody supervises.
  if (config_.outlive) tracer_.set_exit_kill(false);
  const Deadline soon = Deadline::in(Millis(20000));
  const auto taken = calm ? tracer_.take_over(roots, page->notes, soon) : tracer_.adopt(roots, stopped, soon);
  if (!taken) {
    events_.error("keeper.failed", taken.error().message());
    kill(init, SIGKILL);
    return 125;
  }
  end_tcp_repair(tracer_.processes());  // the supervisor may have died with a dump
  guarded_ = page->guarded;
  if (!calm) tracer_.share_stub(Deadline::in(Millis(20000)));  // its processes are new to this tracer
  unguard();
  if (calm) {
    tracer_.tell_results();
    events_.info("supervisor.taken_over", fmt::format("{} threads of {} processes go on", tracer_.tasks().size(),
                                                      tracer_.processes().size()));
  }
  // A copy's standby may answer by its name still.
  if (config_.instance == 0)
    if (auto s = open_control(); !s) events_.warn("control.unavailable", s.error().message());
  front::tell_taken_over();
  if (on_taken_over) on_taken_over();
  took_over_from_ = dead;
  first_io_told_ |= page->first_io;
  handover_failed_ = stage_ == Stage::Incident;  // the operator decides what comes next
  keep_incident_ = false;
  want_handover_ = false;
  for (auto& path : paths_.all()) {
    bool unfinished = false;
    for (auto& [tid, f] : failed_) {
      if (f.path != path.get()) continue;
      if (page->switched[path->slot % KeeperPage::kPaths] > 0) f.waits_for = FailedCall::Running;
      else unfinished |= f.waits_for == FailedCall::Alternate;
    }
    if (unfinished) fail_over(*path);
  }
  const int status = loop();
  keeper_.dismiss();
  control_.reset();
  world_.reset();
  return status;
}

}  // namespace supervise
