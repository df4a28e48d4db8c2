#include "supervisor/keeper.h"

#include <linux/ptrace.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <new>
#include <utility>

#include "supervisor/base/clock.h"
#include "tracer/ptrace_raw.h"

namespace supervise {
namespace {

constexpr char kReady = 'r', kWatch = 'w', kDismissed = 'd';
constexpr int kStartMs = 10000, kEndMs = 30000;

UniqueFd child_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

enum class Watched { Alive, AtExit, Dead };

// What the supervisor, our tracee, reports: it shall live as without us, until its exit.
Watched serve(pid_t supervisor) {
  int status = 0;
  const pid_t got = waitpid(supervisor, &status, __WALL | WNOHANG);
  if (got != supervisor) return Watched::Alive;
  if (!WIFSTOPPED(status)) return Watched::Dead;
  const int event = status >> 16, sig = WSTOPSIG(status);
  if (event == PTRACE_EVENT_EXIT) return Watched::AtExit;
  if (event == PTRACE_EVENT_STOP && sig != SIGTRAP) ptrace_raw::listen(supervisor).ignore();
  else ptrace_raw::cont(supervisor, event ? 0 : sig).ignore();
  return Watched::Alive;
}

}  // namespace

Status Keeper::make_page() {
  if (page_) return {};
  void* at = mmap(nullptr, sizeof(KeeperPage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return errno_error("mmap of the keeper's page");
  page_ = new (at) KeeperPage{};
  return {};
}

Status Keeper::start(const Duties& duties) {
  RETURN_IF_ERROR(make_page());
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return errno_error("socketpair for the keeper");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  const pid_t supervisor = getpid();
  const int number = page_->duty + 1;
  const pid_t pid = fork();
  if (pid < 0) return errno_error("fork of the keeper");
  if (pid == 0) {
    ours.reset();
    keep(duties, std::move(theirs), page_, number, supervisor, this);
  }
  theirs.reset();
  pollfd wait{ours.get(), POLLIN, 0};
  char byte = 0;
  for (const Deadline ready = Deadline::in(Millis(kStartMs)); poll(&wait, 1, ready.left_ms()) < 0;) {}
  if (recv(ours.get(), &byte, 1, MSG_DONTWAIT) != 1) {
    dismiss(pid, std::move(ours));
    return plain_error("the keeper did not start");
  }
  page_->duty = number;
  dismiss();
  // yama's ptrace_scope wants our word for it; elsewhere this fails.
  prctl(PR_SET_PTRACER, pid, 0, 0, 0);
  pid_ = pid;
  line_ = std::move(ours);
  (void)!send(line_.get(), &kWatch, 1, MSG_NOSIGNAL);
  return {};
}

void Keeper::keep(const Duties& duties, UniqueFd line, KeeperPage* page, int number, pid_t supervisor, Keeper* self) {
  setsid();  // not in reach of what is sent to the supervisor's process group
  prctl(PR_SET_NAME, "supervise-keep");
  // Its own copies: of the keeper before it.
  self->forget();
  UniqueFd death(static_cast<int>(syscall(SYS_pidfd_open, supervisor, 0)));
  UniqueFd children = child_signals();
  (void)!send(line.get(), &kReady, 1, MSG_NOSIGNAL);
  Watched watched = Watched::Alive;
  bool traced = false;
  while (watched == Watched::Alive) {
    pollfd fds[3] = {{line.get(), POLLIN, 0}, {death.get(), POLLIN, 0}, {children.get(), POLLIN, 0}};
    if (poll(fds, 3, traced ? 1000 : -1) < 0) continue;
    char bytes[2];
    if (fds[0].revents & POLLIN) {
      const ssize_t n = recv(line.get(), bytes, sizeof bytes, MSG_DONTWAIT);
      for (ssize_t i = 0; i < n; ++i) {
        if (bytes[i] == kDismissed) _exit(0);
        if (bytes[i] == kWatch && duties.stop_tasks)
          traced = ptrace_raw::seize(supervisor, PTRACE_O_TRACEEXIT).ok();
      }
      if (n == 0) line.reset();  // the end: of its descriptors, so it comes soon
    } else if (fds[0].revents) {
      line.reset();
    }
    signalfd_siginfo info;
    while (children && read(children.get(), &info, sizeof info) == sizeof info) {
    }
    if (traced) watched = serve(supervisor);
    if (watched == Watched::Alive && (death ? (fds[1].revents & POLLIN) != 0 : !line)) watched = Watched::Dead;
  }
  const bool at_exit = watched == Watched::AtExit;
  if (duties.stop_tasks && (at_exit || page->duty == number)) duties.stop_tasks(supervisor, at_exit);
  if (at_exit) {
    ptrace_raw::detach(supervisor).ignore();
    pollfd last{death.get(), POLLIN, 0};
    for (const Deadline end = Deadline::in(Millis(kEndMs)); poll(&last, 1, end.left_ms()) < 0;) {}
  }
  if (page->duty != number) _exit(0);
  prctl(PR_SET_NAME, "supervise");
  _exit(duties.take_over(supervisor));
}

bool Keeper::ended(pid_t child) {
  if (child <= 0 || child != pid_) return false;
  forget();
  return true;
}

void Keeper::dismiss() {
  if (pid_ > 0) dismiss(std::exchange(pid_, 0), std::move(line_));
}

void Keeper::dismiss(pid_t pid, UniqueFd line) {
  (void)!send(line.get(), &kDismissed, 1, MSG_NOSIGNAL);
  // It ends at once; should it not, it is ours to end.
  UniqueFd end(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  for (const Deadline deadline = Deadline::in(Millis(1000)); !deadline.passed();) {
    pollfd wait{end.get(), POLLIN, 0};
    poll(&wait, 1, end ? deadline.left_ms() : 1);
    const pid_t got = waitpid(pid, nullptr, WNOHANG);
    if (got == pid || (got < 0 && errno == ECHILD)) return;
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

void Keeper::forget() {
  pid_ = 0;
  line_.reset();
}

}  // namespace supervise
