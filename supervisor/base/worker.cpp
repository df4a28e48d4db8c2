#include "supervisor/base/worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>

#include "supervisor/base/process_runner.h"

namespace supervise {
namespace {

constexpr std::size_t kFdsPerMessage = 200;  // SCM_MAX_FD is 253
constexpr std::uint32_t kMagic = 0x53565752;

struct Header {
  std::uint32_t magic = kMagic;
  std::int32_t ok = 0;
  std::int32_t err = 0;
  std::uint32_t fds = 0;
  std::uint64_t bytes = 0;
};

// ---- the child's side: blocking, no deadline of its own

bool send_all(int sock, const void* data, std::size_t size) {
  auto* p = static_cast<const char*>(data);
  while (size > 0) {
    ssize_t n = send(sock, p, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    p += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

bool send_fds(int sock, const int* fds, std::size_t count) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsPerMessage * sizeof(int))> control{};
  char mark = 'F';
  iovec iov{&mark, 1};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control.data();
  msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr* c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(c), fds, count * sizeof(int));
  for (;;) {
    if (sendmsg(sock, &msg, MSG_NOSIGNAL) == 1) return true;
    // Too many descriptors in flight (unix(7)): the parent is taking them out.
    if (errno == ETOOMANYREFS) poll(nullptr, 0, 1);
    else if (errno != EINTR) return false;
  }
}

bool answer(int sock, const Result<WorkerOutput>& result) {
  Header h;
  h.ok = result.ok();
  const std::string& bytes = result.ok() ? result.value().bytes : result.error().what;
  h.bytes = bytes.size();
  if (!result.ok()) h.err = result.error().err;
  const std::vector<int> none;
  const std::vector<int>& fds = result.ok() ? result.value().fds : none;
  h.fds = static_cast<std::uint32_t>(fds.size());
  if (!send_all(sock, &h, sizeof h)) return false;
  for (std::size_t i = 0; i < fds.size(); i += kFdsPerMessage) {
    if (!send_fds(sock, fds.data() + i, std::min(kFdsPerMessage, fds.size() - i))) {
      // A bad descriptor is told as an error in the place of the missing message.
      Header failed;
      failed.err = errno;
      send_all(sock, &failed, sizeof failed);
      return false;
    }
  }
  return send_all(sock, bytes.data(), bytes.size());
}

[[noreturn]] void child(int sock, pid_t parent, const std::function<Result<WorkerOutput>()>& fn) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  bool sent = false;
  try {
    sent = answer(sock, fn());
  } catch (const std::exception& e) {
    sent = answer(sock, plain_error(fmt::format("unexpected exception: {}", e.what())));
  } catch (...) {
    sent = answer(sock, plain_error("unexpected exception"));
  }
  _exit(sent ? 0 : 1);
}

// ---- the parent's side


class Reader {
 public:
  Reader(int sock, Deadline deadline) : sock_(sock), deadline_(deadline) {}

  Status read(void* data, std::size_t size) {
    auto* p = static_cast<char*>(data);
    while (size > 0) {
      iovec iov{p, size};
      msghdr msg{};
      msg.msg_iov = &iov;
      msg.msg_iovlen = 1;
      auto n = receive(msg);
      if (!n) return n.error();
      p += *n;
      size -= *n;
    }
    return {};
  }

  Status read_fds(std::size_t count, std::vector<UniqueFd>& out) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kFdsPerMessage * sizeof(int))> control{};
    char mark = 0;
    iovec iov{&mark, 1};
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.data();
    msg.msg_controllen = control.size();
    auto n = receive(msg);
    if (!n) return n.error();
    std::size_t got = 0;
    for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      std::size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < here; ++i) {
        int fd = -1;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
        out.emplace_back(fd);
      }
      got += here;
    }
    if (got == count && !(msg.msg_flags & MSG_CTRUNC)) return {};
    if (mark != 'F') return plain_error("a descriptor could not be sent");
    return errno_error(EMFILE, fmt::format("received {} of {} descriptors (raise RLIMIT_NOFILE)",
                                           got, count));
  }

 private:
  Result<std::size_t> receive(msghdr& msg) {
    for (;;) {
      pollfd p{sock_, POLLIN, 0};
      int r = poll(&p, 1, deadline_.left_ms());
      if (r < 0 && errno != EINTR) return errno_error("poll");
      if (r == 0 || (r < 0 && deadline_.passed())) return errno_error(ETIMEDOUT, "");
      if (r < 0) continue;
      ssize_t n = recvmsg(sock_, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (n > 0) return static_cast<std::size_t>(n);
      if (n == 0) return errno_error(EPIPE, "");
      if (errno == ECONNRESET) return errno_error(EPIPE, "");
      if (errno != EINTR && errno != EAGAIN) return errno_error("recvmsg");
    }
  }

  int sock_;
  Deadline deadline_;
};

Status receive_answer(Reader& reader, WorkerResult& result, std::optional<Error>& told) {
  Header h;
  RETURN_IF_ERROR(reader.read(&h, sizeof h));
  if (h.magic != kMagic) return plain_error("the answer is malformed");
  for (std::size_t left = h.fds; left > 0;) {
    std::size_t n = std::min<std::size_t>(left, kFdsPerMessage);
    RETURN_IF_ERROR(reader.read_fds(n, result.fds));
    left -= n;
  }
  result.bytes.resize(h.bytes);
  RETURN_IF_ERROR(reader.read(result.bytes.data(), h.bytes));
  if (!h.ok) told = Error{h.err, std::move(result.bytes)};
  return {};
}

std::optional<ExitInfo> reap(pid_t pid, Deadline deadline) {
  for (int pause = 0;; pause = std::min(pause + 1, 10)) {
    int status = 0;
    pid_t r = waitpid(pid, &status, WNOHANG | __WALL);
    if (r == pid) {
      ExitInfo info;
      info.signaled = WIFSIGNALED(status);
      info.code = info.signaled ? WTERMSIG(status) : WEXITSTATUS(status);
      return info;
    }
    if (r < 0 && errno != EINTR) return ExitInfo{};
    if (deadline.passed()) return std::nullopt;
    poll(nullptr, 0, pause);
  }
}

// Children that could not be reaped in time; collected when a later worker runs.
std::vector<pid_t>& left_behind() {
  static std::vector<pid_t> pids;
  return pids;
}

void kill_group(pid_t pid) {
  kill(-pid, SIGKILL);
  kill(pid, SIGKILL);
}

// "D, in fuse_simple_request" of /proc/PID/stat and wchan.
std::string where_it_sits(pid_t pid) {
  auto slurp = [&](const char* file) {
    char buf[512];
    UniqueFd fd(open(fmt::format("/proc/{}/{}", pid, file).c_str(), O_RDONLY | O_CLOEXEC));
    ssize_t n = fd ? ::read(fd.get(), buf, sizeof buf) : -1;
    return std::string(buf, n > 0 ? static_cast<std::size_t>(n) : 0);
  };
  std::string stat = slurp("stat"), wchan = slurp("wchan");
  auto paren = stat.rfind(')');
  char state = paren != std::string::npos && paren + 2 < stat.size() ? stat[paren + 2] : '?';
  if (wchan.empty() || wchan == "0") return fmt::format("state {}", state);
  return fmt::format("state {}, in {}", state, wchan);
}

}  // namespace

Result<WorkerResult> run_worker(const std::string& what, Deadline deadline,
                                const std::function<Result<WorkerOutput>()>& fn) {
  std::erase_if(left_behind(), [](pid_t p) { return waitpid(p, nullptr, WNOHANG | __WALL) != 0; });
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return errno_error(fmt::format("{}: socketpair", what));
  UniqueFd ours(pair[0]), theirs(pair[1]);
  auto start = Clock::now();

  // The child runs with all signals blocked: those of the terminal and of the operator are the
  // parent's business, and handlers inherited from it must not run twice.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid == 0) {
    ours.reset();
    child(theirs.get(), parent, fn);
  }
  int fork_errno = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return errno_error(fork_errno, fmt::format("{}: fork", what));
  setpgid(pid, pid);
  theirs.reset();

  WorkerResult result;
  std::optional<Error> told;
  Reader reader(ours.get(), deadline);
  Status status = receive_answer(reader, result, told);
  ours.reset();
  bool timed_out = !status && status.error().err == ETIMEDOUT;

  // An early end of the stream means that the child is on its way out: let it say how.
  std::optional<ExitInfo> info;
  if (status || !timed_out) info = reap(pid, Deadline::in(Millis(status ? 200 : 1000)));
  if (!info) {
    kill_group(pid);
    info = reap(pid, Deadline::in(Millis(500)));
  }
  std::string stuck;
  if (!info) {
    left_behind().push_back(pid);
    stuck = fmt::format("; process {} does not end on SIGKILL ({}) and is left behind: it ends "
                        "when the path answers or its server is killed", pid, where_it_sits(pid));
  }
  if (status) {
    if (told) return told->with(what);
    return result;
  }
  if (timed_out)
    return errno_error(ETIMEDOUT, fmt::format("{}: no end after {:.0f} ms{}", what,
                                              ms_between(start, Clock::now()), stuck));
  if (status.error().err == EPIPE)
    return plain_error(fmt::format("{}: the worker process ended without an answer, {}{}", what,
                                   info ? info->describe() : "still running", stuck));
  return status.error().with(what);
}

}  // namespace supervise
