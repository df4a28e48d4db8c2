#include "supervisor/session.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "supervisor/control.h"
#include "supervisor/front.h"
#include "tracer/stub/stub.h"

namespace supervise {

namespace {

// Signals that are meant for the application; the real-time ones are too.
constexpr int kForwarded[] = {SIGHUP,  SIGINT,    SIGQUIT, SIGABRT, SIGALRM, SIGTERM, SIGUSR1,
                              SIGUSR2, SIGWINCH,  SIGCONT, SIGTSTP, SIGURG,  SIGIO,   SIGPWR,
                              SIGPROF, SIGVTALRM, SIGSTKFLT};

// setpgid(2), "orphaned": a parent in another group of the same session, a shell, can continue us.
bool under_job_control() {
  const pid_t parent = getppid();
  return getsid(parent) == getsid(0) && getpgid(parent) != getpgrp();
}

// For a second at most. epoll_pwait2(2) is of Linux 5.11; before it a wait is whole milliseconds long.
int wait_until(Clock::time_point timer, int epoll, std::span<epoll_event> got) {
  const auto left = std::clamp<std::chrono::nanoseconds>(timer - Clock::now(), std::chrono::nanoseconds(0), std::chrono::seconds(1));
  const timespec wait{left.count() / 1'000'000'000, left.count() % 1'000'000'000};
  const int count = epoll_pwait2(epoll, got.data(), static_cast<int>(got.size()), &wait, nullptr);
  if (count >= 0 || errno != ENOSYS) return count;
  return epoll_wait(epoll, got.data(), static_cast<int>(got.size()), static_cast<int>((left.count() + 999'999) / 1'000'000));
}

InodeKey writer_key(const CallContext& ctx) {
  return {reinterpret_cast<std::uint64_t>(ctx.path), ctx.facts.ino};
}

}  // namespace

Session::Session(SessionConfig config, Events& events)
    : config_(std::move(config)), events_(events), policy_(config_.rules), tracer_(*this) {
  watch_signals();
}

// Also in a keeper: an epoll with a signalfd in it tells of the signals of who made it.
void Session::watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (int s : kForwarded) sigaddset(&set, s);
  for (int s = SIGRTMIN; s <= SIGRTMAX; ++s) sigaddset(&set, s);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal_fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  epoll_event ev{EPOLLIN, {.fd = signal_fd_.get()}};
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, signal_fd_.get(), &ev);
  if (watched_fd_ >= 0) watch(watched_fd_, std::move(watched_));
}

Session::~Session() = default;

void Session::watch(int fd, std::function<void()> work) {
  epoll_event ev{EPOLLIN | EPOLLONESHOT, {.fd = fd}};
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &ev);
  watched_fd_ = fd;
  watched_ = std::move(work);
}

int Session::loop() {
  // Not earlier: what on_taken_over is to say is known now.
  if (resumed_ && tracer_.holding() && tracer_.exit_kill()) {
    if (stand()) tracer_.set_exit_kill(false);
    else outlive();
  }
  if (tracer_.holding()) tracer_.resume_all();

  bool done = false;
  while (!done) {
    tracer_.drain();
    after_stop_work();
    if (handed_over_) break;
    if (!tracer_.has_tasks() && app_end_) {
      done = finish_at_end();
      continue;
    }
    if (!tracer_.has_tasks() && !app_end_) {
      events_.error("application.lost", "the application is gone, and nobody told how it ended");
      break;
    }
    epoll_event got[8];
    const int count = wait_until(next_timer(), epoll_.get(), got);
    bool signals = count < 0, others = count < 0;
    for (const epoll_event& event : std::span(got, static_cast<std::size_t>(std::max(count, 0))))
      (event.data.fd == signal_fd_.get() ? signals : others) = true;
    if (signals) serve_signals();
    serve_ring();
    if (watched_) watched_();
    if (control_ && others) serve_control();
  }
  events_.debug("stub.figures", status_json());
  if (shipper_.busy())
    events_.warn("ship.abandoned", "the application ended before its image was at " + config_.standby);
  tell_over(exit_status());
  return exit_status();
}

void Session::tell_over(int status) {
  if (auto tell = std::exchange(on_over, nullptr)) tell(status);
  front::tell_over(status);
}

void Session::after_stop_work() {
  serve_keeper();
  serve_stub();
  serve_recovery();
  serve_warm_point();
  serve_shipping();
  stop_as_job();
  while (!deferred_.empty() && !handed_over_) {
    auto work = std::move(deferred_.front());
    deferred_.erase(deferred_.begin());
    work();
  }
  if (want_handover_ && !handed_over_) {
    want_handover_ = false;
    run_handover(handover_reason_);
  }
  for (auto& path : paths_.all()) {
    forget_deleted(*path);
    // Unlinked files that are open stay in the journal whatever is synced: only growth counts.
    path->journal_floor = std::min(path->journal_floor, path->journal.bytes());
    if (path->journal.bytes() > path->journal_floor + config_.journal_limit) {
      make_durable(*path, "the journal's limit");
      path->journal_floor = path->journal.bytes();
    }
  }
}

void Session::serve_signals() {
  signalfd_siginfo infos[8];
  const ssize_t got = read(signal_fd_.get(), infos, sizeof infos);
  for (const signalfd_siginfo& info : std::span(infos, got > 0 ? static_cast<std::size_t>(got) / sizeof infos[0] : 0)) {
    const int sig = static_cast<int>(info.ssi_signo);
    if (sig == SIGCHLD) continue;
    if (sig == SIGTSTP && (job_stopping_ || getpgid(app_pid_) == getpgrp())) {
      job_stopping_ = false;
      world_->on_terminal_signal(SIGTSTP);  // until a shell continues us
      kill(-app_pid_, SIGCONT);
      continue;
    }
    if (sig == SIGWINCH || sig == SIGCONT) world_->on_terminal_signal(sig);
    if (warm_ && warm_->watching() && (sig == SIGTERM || sig == SIGINT || sig == SIGQUIT || sig == SIGHUP)) {
      // A thread that is stopped at its reference would take it only after the image.
      events_.warn("warm.given_up", fmt::format("no warm image: {} for the application came first", strsignal(sig)));
      end_warm_point();
    }
    if (app_end_) {
      // The first process is gone; the rest is asked to go too.
      for (pid_t pid : tracer_.processes()) kill(pid, sig);
    } else if (app_pid_ > 0) {
      forward(info);
    }
    ++forwarded_signals_;
  }
}

void Session::forward(const signalfd_siginfo& info) const {
  const int sig = static_cast<int>(info.ssi_signo);
  if (info.ssi_code == SI_QUEUE) {
    sigval value{};
    value.sival_ptr = reinterpret_cast<void*>(info.ssi_ptr);
    sigqueue(app_pid_, sig, value);
  } else if (sig != SIGCONT || kill(-app_pid_, sig) != 0) {
    kill(app_pid_, sig);
  }
}

// A job is stopped whole: the application is, so we and those beside us in a pipeline are too.
void Session::stop_as_job() {
  const Task* first = tracer_.find(app_pid_);
  if (!first) want_job_stop_ = false;
  if (!want_job_stop_ || tracer_.holding() || first->state != RunState::Listening) return;
  want_job_stop_ = false;
  job_stopping_ = true;
  kill(0, SIGTSTP);
}

Clock::time_point Session::next_timer() const {
  auto next = drain_pace_.due();
  if (!wait_for_lock_.empty()) next = Clock::now() + Millis(1);
  for (const auto& [tid, call] : failed_)
    if (call.waits_for == FailedCall::Timer || call.waits_for == FailedCall::Replay)
      next = std::min(next, call.again_at);
  if (warm_ && warm_->watching()) next = std::min(next, warm_->next_tick());
  else if (warm_ && config_.refresh.count() > 0) next = std::min(next, next_refresh_);
  return next;
}

int Session::exit_status() const {
  if (handed_over_) return config_.handover_exit_code;
  if (!app_end_) return 125;
  if (app_end_->kind == StopKind::Killed) return 128 + app_end_->signal;
  return app_end_->code;
}

EntryDecision Session::on_entry(Task& task) {
  const Call& call = *task.call;
  if (!call.row) return {};
  if (auto it = failed_.find(task.tid); it != failed_.end() && it->second.nr != call.nr) {
    if (it->second.sigbus) completed(task, it->second);
    failed_.erase(task.tid);
  }
  if (auto it = pieces_.find(task.tid);
      it != pieces_.end() && call.args[1] != it->second.original[1] + it->second.done)
    pieces_.erase(it);
  if (holds_for_warm_point(task)) return {EntryAction::Hold, 0};
  if (paths_.empty()) return {};

  drain_ring();
  CallContext ctx = begin_call(paths_, task);
  if (ring_) give_hint(task, ctx);
  if (!needs_exit_stop(paths_, task, ctx)) return {};
  if (ctx.path && ctx.implicit_offset && S_ISREG(ctx.facts.mode)) {
    // The turn first: who waits for it must not have the lock, which the one before may need yet.
    Queue& queue = writers_[writer_key(ctx)];
    if (queue.owner != 0 && queue.owner != task.tid) {
      if (std::find(queue.waiting.begin(), queue.waiting.end(), task.tid) == queue.waiting.end())
        queue.waiting.push_back(task.tid);
      return {EntryAction::Hold, 0};
    }
    if (!take_file_lock(task, ctx)) {
      wait_for_lock_.insert(task.tid);
      return {EntryAction::Hold, 0};
    }
    queue.owner = task.tid;
  }
  if (!lock_names(task, ctx)) {
    wait_for_lock_.insert(task.tid);
    return {EntryAction::Hold, 0};
  }
  if (ring_ && ring_->holds_locks(static_cast<std::uint32_t>(task.tid)) && !ctx.implicit_offset) {
    drain_ring();  // what came before the lock was free
    ctx = begin_call(paths_, task);
  }
  calls_[task.tid] = std::move(ctx);
  return {EntryAction::Watch, 0};
}

bool Session::release_waiting_writers(const InodeKey& key) {
  auto it = writers_.find(key);
  if (it == writers_.end()) return false;
  Queue& queue = it->second;
  queue.owner = 0;
  while (!queue.waiting.empty()) {
    const pid_t next = queue.waiting.front();
    queue.waiting.pop_front();
    Task* task = tracer_.find(next);
    if (!task || !task->held) continue;
    queue.owner = next;
    tracer_.release(*task);
    return true;
  }
  writers_.erase(it);
  return false;
}

void Session::on_call_dropped(Task& task) {
  if (ring_) ring_->unlock_all(static_cast<std::uint32_t>(task.tid));
  if (wait_for_lock_.erase(task.tid)) task.held = false;
  // It comes to its reference again.
  if (warm_ && warm_->held().contains(task.tid)) {
    warm_->forget(task.tid);
    task.held = false;
  }
  calls_.erase(task.tid);
  std::vector<InodeKey> owned;
  for (auto& [key, queue] : writers_) {
    if (queue.owner == task.tid) owned.push_back(key);
    // It may have been waiting for its turn: it will ask again.
    auto at = std::find(queue.waiting.begin(), queue.waiting.end(), task.tid);
    if (at != queue.waiting.end()) {
      queue.waiting.erase(at);
      task.held = false;
    }
  }
  for (const InodeKey& key : owned) release_waiting_writers(key);
}

ExitAction Session::on_exit(Task& task, long result, ptrace_raw::Regs& regs) {
  auto it = calls_.find(task.tid);
  if (it == calls_.end()) return ExitAction::Continue;
  CallContext ctx = std::move(it->second);
  calls_.erase(it);
  const bool queued = ctx.path && ctx.implicit_offset && S_ISREG(ctx.facts.mode);
  const InodeKey key = writer_key(ctx);
  drain_ring();

  ExitAction action = ExitAction::Continue;
  if (result < 0) {
    action = fail(task, ctx, static_cast<int>(-result), regs);
  } else {
    auto pieces = pieces_.find(task.tid);
    const std::uint64_t before = pieces == pieces_.end() ? 0 : pieces->second.done;
    const Args original = pieces == pieces_.end() ? task.call->args : pieces->second.original;
    const std::uint64_t done = before + static_cast<std::uint64_t>(result);
    learn_success(paths_, task, task.call->args, ctx, result);
    if (ring_) learn_for_stub(task, ctx, result);
    if (wants_more(task, original, ctx, result, done)) {
      pieces_[task.tid] = {original, done};
      note_pieces(task, pieces_[task.tid]);
      Args rest = original;
      rest[1] += done;
      rest[2] -= done;
      if (task.call->nr == SYS_pwrite64 || task.call->nr == SYS_pread64) rest[3] += done;
      set_args(regs, rest);
      return ExitAction::Again;  // and keeps its turn
    }
    if (before > 0) action = give_result(task, result, regs);
    if (auto f = failed_.find(task.tid); f != failed_.end()) {
      completed(task, f->second);
      failed_.erase(task.tid);
    }
    if (!first_io_told_ && on_first_io && (ctx.path != nullptr)) {
      first_io_told_ = true;
      if (keeper_.page()) keeper_.page()->first_io = true;
      on_first_io();
    }
  }
  unlock_names(task, ctx);
  if (queued) {
    if (ring_) ring_->unlock_all(static_cast<std::uint32_t>(task.tid));
    // One that was made in process had no turn.
    if (auto turn = writers_.find(key); turn != writers_.end() && turn->second.owner == task.tid) release_waiting_writers(key);
  }
  return action;
}

ExitAction Session::give_result(Task& task, long result, ptrace_raw::Regs& regs) {
  auto pieces = pieces_.find(task.tid);
  if (pieces != pieces_.end()) {
    // The whole, and the arguments as the application passed them.
    const std::uint64_t done = pieces->second.done + (result > 0 ? static_cast<std::uint64_t>(result) : 0);
    set_args(regs, pieces->second.original);
    result = static_cast<long>(done);
    pieces_.erase(pieces);
    forget_pieces(task.tid);
  }
  regs.rax = static_cast<unsigned long long>(result);
  return ExitAction::Continue;
}

SignalAction Session::on_signal(Task& task, const siginfo_t& info) {
  const int sig = info.si_signo;
  if (sig == SIGBUS && info.si_code > 0 && !paths_.empty()) return on_sigbus(task, info);
  // In its own session the application's first group is an orphaned one, which ^Z can't stop.
  // Under a shell it would stop, and so it does.
  if ((sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU) && under_job_control() &&
      getpgid(task.tgid) == app_pid_) {
    auto status = task_status(task.tid);
    if (status && (((status->caught | status->ignored) >> (sig - 1)) & 1) == 0) {
      want_job_stop_ = true;
      return SignalAction::Stop;
    }
  }
  return SignalAction::Deliver;
}

void Session::on_new_task(Task&, pid_t) {}

void Session::on_exec(Task& task) {
  // The first one: it stands, and there is nothing yet that a keeper would have to know.
  if (task.tid == app_pid_ && !resumed_ && tracer_.exit_kill() && stand()) tracer_.set_exit_kill(false);
  failed_.erase(task.tid);
  pieces_.erase(task.tid);
}

void Session::on_end(const Task& task, const Stop& stop) {
  drain_ring();  // while it is known what it was
  Task gone = task;
  on_call_dropped(gone);
  failed_.erase(task.tid);
  pieces_.erase(task.tid);
  forget_pieces(task.tid);
  if (task.tid == app_pid_) {
    app_end_ = stop;
    if (auto error = world_->launch_error()) {
      events_.error("application.not_started", error->message());
      app_end_->kind = StopKind::Exited;
      app_end_->code = error->err == ENOENT || error->err == ENOTDIR ? 127 : 126;
    } else if (tracer_.has_tasks() && front::is_first_process()) {
      // As it would be for a container whose first process ends.
      for (pid_t pid : tracer_.processes()) kill(pid, SIGKILL);
    } else if (tracer_.has_tasks() && !tracer_.processes().empty()) {
      events_.info("application.first_process_ended",
                   fmt::format("the first process ended; {} go on and are supervised until they end",
                               tracer_.processes().size()));
    }
  }
}

void Session::on_other_child(pid_t pid, const Stop&) {
  if (keeper_.ended(pid)) events_.warn("keeper.ended", fmt::format("the keeper (process {}) ended; another one is started", pid));
  if (world_ && pid == world_->init_pid())
    events_.error("world.init_ended", "the init of the application's world ended unexpectedly");
}

}  // namespace supervise
