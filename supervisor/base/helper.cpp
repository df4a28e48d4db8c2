#include "supervisor/base/helper.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace supervise {
namespace {

constexpr std::size_t kLongest = 256 << 10;

}  // namespace

Status Helper::start(const std::function<int(int fd)>& body) {
  stop();
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return errno_error("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return errno_error("fork");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(125);
    ours.reset();
    _exit(body(theirs.get()));
  }
  pid_ = pid;
  pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  line_ = std::move(ours);
  return {};
}

void Helper::stop() {
  line_.reset();
  if (pid_ <= 0) return;
  // Somebody else may have reaped it, and its PID be another's by now.
  if (pidfd_) syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  pidfd_.reset();
  // One that sits in a file system that hangs does not die; it goes when that answers.
  for (int i = 0; i < 200 && waitpid(pid_, nullptr, WNOHANG) == 0; ++i) poll(nullptr, 0, 1);
  pid_ = 0;
}

bool Helper::finish(Deadline deadline) {
  if (line_) shutdown(line_.get(), SHUT_WR);
  pollfd end{pidfd_.get(), POLLIN, 0};
  while (pidfd_ && end.revents == 0 && !deadline.passed()) poll(&end, 1, deadline.left_ms());
  const bool done = pid_ <= 0 || end.revents != 0;
  stop();
  return done;
}

bool Helper::send_text(const std::string& text) {
  return line_ && send(line_.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

std::optional<std::string> Helper::receive() {
  if (!line_) return std::nullopt;
  std::string text(kLongest, '\0');
  const ssize_t n = recv(line_.get(), text.data(), text.size(), MSG_DONTWAIT);
  if (n == 0) line_.reset();
  if (n <= 0) return std::nullopt;
  text.resize(static_cast<std::size_t>(n));
  return text;
}

std::optional<int> Helper::ended() {
  int status = 0;
  if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  pid_ = 0;
  line_.reset();
  return status;
}

}  // namespace supervise
