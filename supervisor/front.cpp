#include "supervisor/front.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/copy_keeper.h"

namespace supervise::front {
namespace {

UniqueFd line_to_front;
bool front_is_first = false;

bool is_wanted() {
  if (getpid() == 1 || (getppid() == 1 && getsid(1) != getsid(0))) return true;
  const char* main_process = getenv("SYSTEMD_EXEC_PID");
  return main_process && atol(main_process) == getpid();
}

sigset_t signals_to_send_on() {
  sigset_t set;
  sigfillset(&set);
  for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPIPE, SIGTTIN, SIGTTOU}) sigdelset(&set, own);
  return set;
}

class Front {
 public:
  Front(pid_t supervisor, UniqueFd line, UniqueFd signals)
      : current_(supervisor), line_(std::move(line)), signals_(std::move(signals)) {}

  int run() {
    for (;;) {
      reap();
      while (line_ && read_news()) {
      }
      if (const auto status = status_if_over()) return *status;
      pollfd fds[3] = {{signals_.get(), POLLIN, 0}, {line_.get(), POLLIN, 0}, {death_.get(), POLLIN, 0}};
      poll(fds, 3, -1);
      if (fds[2].revents != 0) {
        death_.reset();
        current_ = 0;
      }
      send_signals_on();
    }
  }

 private:
  void reap() {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid != current_) continue;
      current_ = 0;
      death_.reset();
      crashed_ = WIFSIGNALED(status);
      status_ = crashed_ ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
  }

  bool read_news() {
    const auto news = receive_news(line_.get());
    if (!news) return false;
    switch (news->kind) {
      case CopyNews::Lost: line_.reset(); return false;
      case CopyNews::Over:
        if (!over_) over_ = news->status;
        return true;
      case CopyNews::TakenOver:
        reap();  // whom it replaces is dead
        current_ = news->pid;
        followed_ = true;
        death_.reset(static_cast<int>(syscall(SYS_pidfd_open, current_, 0)));
        if (!death_) current_ = 0;  // dead already, and somebody else's child
        for (const signalfd_siginfo& info : std::exchange(missed_, {})) send_on(info);
        return true;
      default: return true;
    }
  }

  // Dead, and the line is open: its keeper, which has it too, is about to go on or to clean up.
  std::optional<int> status_if_over() const {
    if (current_ > 0) return std::nullopt;
    if (over_) return over_;
    return line_ && (followed_ || crashed_ || status_ == 125) ? std::nullopt : std::optional(status_);
  }

  void send_signals_on() {
    signalfd_siginfo infos[8];
    const ssize_t got = read(signals_.get(), infos, sizeof infos);
    for (ssize_t i = 0; i * static_cast<ssize_t>(sizeof infos[0]) < got; ++i) {
      if (infos[i].ssi_signo == SIGCHLD) continue;
      // A terminal tells the supervisor itself, but not a keeper, which is in a session of its own.
      if (infos[i].ssi_code == SI_KERNEL && !followed_) continue;
      if (!send_on(infos[i])) missed_.push_back(infos[i]);
    }
  }

  bool send_on(const signalfd_siginfo& from) const {
    const int sig = static_cast<int>(from.ssi_signo);
    if (current_ <= 0) return false;
    if (from.ssi_code != SI_QUEUE) return kill(current_, sig) == 0;
    siginfo_t info{};
    info.si_signo = sig;
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = reinterpret_cast<void*>(from.ssi_ptr);
    return syscall(SYS_rt_sigqueueinfo, current_, sig, &info) == 0;
  }

  pid_t current_;         // who supervises; 0: it is dead
  UniqueFd line_, signals_, death_;
  bool followed_ = false; // it is a keeper
  bool crashed_ = false;
  int status_ = 128 + SIGKILL;
  std::optional<int> over_;
  std::vector<signalfd_siginfo> missed_;  // while nobody was there
};

void tell(const CopyNews& news) {
  if (line_to_front) send_news(line_to_front.get(), news);
}

}  // namespace

int run(const std::function<int()>& supervise) {
  if (!is_wanted()) return supervise();
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return supervise();
  UniqueFd ours(pair[0]), theirs(pair[1]);
  const sigset_t set = signals_to_send_on();
  sigset_t before;
  sigprocmask(SIG_BLOCK, &set, &before);
  UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  const pid_t pid = signals ? fork() : -1;
  if (pid <= 0) {
    signals.reset();
    ours.reset();
    sigprocmask(SIG_SETMASK, &before, nullptr);
    if (pid == 0) inherit(std::move(theirs), getppid() == 1);
    return supervise();
  }
  theirs.reset();
  // What it has open would stay in use.
  (void)!chdir("/");
  const int keep[2] = {std::min(ours.get(), signals.get()), std::max(ours.get(), signals.get())};
  close_range(3, static_cast<unsigned>(keep[0]) - 1, 0);
  close_range(static_cast<unsigned>(keep[0]) + 1, static_cast<unsigned>(keep[1]) - 1, 0);
  close_range(static_cast<unsigned>(keep[1]) + 1, ~0U, 0);
  return Front(pid, std::move(ours), std::move(signals)).run();
}

bool is_first_process() { return front_is_first || getpid() == 1; }

void tell_taken_over() {
  CopyNews news;
  news.kind = CopyNews::TakenOver;
  news.pid = getpid();
  tell(news);
}

void tell_over(int status) {
  CopyNews news;
  news.kind = CopyNews::Over;
  news.status = status;
  tell(news);
}

int line() { return line_to_front.get(); }

void inherit(UniqueFd line, bool first) {
  line_to_front = std::move(line);
  front_is_first = first;
}

void forget() { inherit(UniqueFd(), false); }

}  // namespace supervise::front
