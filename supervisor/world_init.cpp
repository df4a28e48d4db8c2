#include "supervisor/world_init.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

namespace supervise {
namespace {

constexpr const char* kLastPid = "/proc/sys/kernel/ns_last_pid";
constexpr int kSocketFd = 3;

class Init {
 public:
  [[noreturn]] void run(int socket) {
    take_over(socket);
    Error problem;
    bool ready = set_up(problem);
    InitMessage hello;
    hello.op = InitOp::Hello;
    hello.err = ready ? 0 : (problem.err ? problem.err : EPROTO);
    put_text(hello, problem.what);
    if (!send_packet(socket_, hello, {}) || !ready) _exit(1);
    loop();
  }

 private:
  static void put_text(InitMessage& message, const std::string& text) {
    auto n = std::min(text.size(), sizeof message.text - 1);
    memcpy(message.text, text.data(), n);
    message.text[n] = 0;
  }

  void take_over(int socket) {
    prctl(PR_SET_NAME, "supervise-init");
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    if (socket != kSocketFd) dup2(socket, kSocketFd);
    fcntl(kSocketFd, F_SETFD, FD_CLOEXEC);
    close_range(kSocketFd + 1, ~0U, 0);
    socket_ = kSocketFd;
    close_range(0, 2, 0);
    for (int fd = 0; fd < 3; ++fd) {
      if (open("/dev/null", O_RDWR) != fd) break;
    }
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    signal_fd_ = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
  }

  bool set_up(Error& problem) {
    // A session of its own: the terminal's signals are not for us.
    setsid();
    if (chdir("/") != 0) {
      problem = errno_error("chdir / in the new mount namespace");
      return false;
    }
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      problem = errno_error("make the world's mounts private");
      return false;
    }
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
      problem = errno_error("mount /proc of the new PID namespace");
      return false;
    }
    // /dev/null again, so that it belongs to this mount namespace.
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) {
      problem = errno_error("open /dev/null");
      return false;
    }
    for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
    close(null);
    return true;
  }

  [[noreturn]] void loop() {
    for (;;) {
      pollfd waits[2] = {{signal_fd_, POLLIN, 0}, {socket_, POLLIN, 0}};
      if (!exits_.empty() && socket_ >= 0) waits[1].events |= POLLOUT;
      poll(waits, socket_ >= 0 ? 2 : 1, -1);
      if (waits[0].revents) reap();
      if (socket_ >= 0) {
        send_exits();
        if (waits[1].revents & (POLLIN | POLLHUP | POLLERR)) serve();
      }
      // No supervisor any more, nor its keeper: what is there belongs to nobody, and ends with this namespace.
      if (socket_ < 0) _exit(0);
    }
  }

  void reap() {
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof info) > 0) {
    }
    for (;;) {
      int status = 0;
      pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);
      if (pid <= 0) break;
      if (watched_.erase(pid) > 0) exits_.emplace_back(pid, status);
      if (tools_.erase(pid) > 0 && tools_.empty()) restore_cursor();
    }
  }

  void send_exits() {
    while (!exits_.empty()) {
      InitMessage message;
      message.op = InitOp::Exit;
      message.pid = exits_.front().first;
      message.value = exits_.front().second;
      auto sent = send_packet(socket_, message, {}, 0, MSG_DONTWAIT);
      if (!sent && sent.error().err == EAGAIN) return;
      exits_.pop_front();
    }
  }

  void serve() {
    auto packet = receive_packet(socket_, MSG_DONTWAIT);
    if (!packet) {
      if (packet.error().err == EAGAIN) return;
      close(socket_);
      socket_ = -1;
      return;
    }
    InitMessage reply;
    reply.op = packet->message.op;
    reply.serial = packet->message.serial;
    std::vector<int> fds;
    UniqueFd opened;
    pid_t credentials = 0;
    auto status = answer(*packet, reply, opened, credentials);
    if (!status) {
      reply.err = status.error().err ? status.error().err : EPROTO;
      put_text(reply, status.error().what);
    }
    if (opened) fds.push_back(opened.get());
    if (!send_packet(socket_, reply, fds, credentials) && credentials != 0) {
      reply.err = EPERM;
      put_text(reply, "name a process of the world to the supervisor");
      send_packet(socket_, reply, {}).ignore();
    }
  }

  Status answer(Packet& packet, InitMessage& reply, UniqueFd& opened, pid_t& credentials) {
    std::string payload;
    if (packet.message.payload && !packet.fds.empty()) {
      ASSIGN_OR_RETURN(payload, payload_bytes(packet.fds[0].get()));
      packet.fds.erase(packet.fds.begin());
    }
    const auto& ask = packet.message;
    switch (ask.op) {
      case InitOp::Spawn: return spawn(payload, packet, reply, credentials);
      case InitOp::Open: return open_file(payload, opened);
      case InitOp::Translate:
        if (kill(ask.pid, 0) != 0) return errno_error("find process " + std::to_string(ask.pid));
        credentials = ask.pid;
        reply.pid = ask.pid;
        return {};
      case InitOp::Signal:
        if (kill(ask.pid, ask.value) != 0) return errno_error("signal a process of the world");
        return {};
      case InitOp::Watch: watched_.insert(ask.pid); return {};
      case InitOp::GetLastPid: reply.value = read_cursor(); return {};
      case InitOp::SetLastPid: return write_cursor(ask.value);
      case InitOp::Hello:
      case InitOp::Exit: break;
    }
    return errno_error(ENOSYS, "unknown request");
  }

  Status spawn(const std::string& payload, const Packet& packet, InitMessage& reply,
               pid_t& credentials) {
    SpawnPlan plan;
    ASSIGN_OR_RETURN(plan, SpawnPlan::decode(payload));
    std::size_t wanted = plan.targets.size() + 1 + (plan.wait_release ? 1 : 0);
    if (packet.fds.size() != wanted) return errno_error(EBADF, "descriptors of the request");
    if (plan.tool && tools_.empty()) saved_cursor_ = read_cursor();
    bool placed = plan.pid_base > 0 && write_cursor(plan.pid_base).ok();
    pid_t pid = fork();
    if (pid == 0) {
      std::vector<int> passed;
      for (const auto& fd : packet.fds) passed.push_back(fd.get());
      run_child(plan, std::move(passed));
    }
    if (pid < 0) {
      int err = errno;
      if (plan.tool && tools_.empty()) restore_cursor();
      return errno_error(err, "fork in the world");
    }
    if (plan.tool) tools_.insert(pid);
    if (plan.watch) watched_.insert(pid);
    reply.pid = pid;
    reply.value = placed ? 1 : 0;
    credentials = pid;
    return {};
  }

  // O_NONBLOCK only for the open itself: a FIFO or device must not hold the init.
  static Status open_file(const std::string& payload, UniqueFd& opened) {
    OpenSpec spec;
    ASSIGN_OR_RETURN(spec, OpenSpec::decode(payload));
    UniqueFd fd(open(spec.path.c_str(), spec.flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!fd) return errno_error("open " + spec.path + " in the world");
    struct stat st {};
    if (fstat(fd.get(), &st) != 0) return errno_error("fstat " + spec.path);
    if (st.st_dev != spec.device || st.st_ino != spec.inode)
      return errno_error(ESTALE, spec.path + " is another file in the world");
    int flags = fcntl(fd.get(), F_GETFL);
    if (!(spec.flags & O_NONBLOCK)) fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK);
    if (S_ISREG(st.st_mode) && lseek(fd.get(), spec.offset, SEEK_SET) < 0)
      return errno_error("lseek " + spec.path);
    opened = std::move(fd);
    return {};
  }

  static int read_cursor() {
    char text[32] = {};
    UniqueFd fd(open(kLastPid, O_RDONLY | O_CLOEXEC));
    if (!fd || read(fd.get(), text, sizeof text - 1) <= 0) return 0;
    return atoi(text);
  }

  static Status write_cursor(int value) {
    char text[32];
    int n = snprintf(text, sizeof text, "%d", value);
    UniqueFd fd(open(kLastPid, O_WRONLY | O_CLOEXEC));
    if (!fd || write(fd.get(), text, static_cast<std::size_t>(n)) != n)
      return errno_error(fmt::format("write {}", kLastPid));
    return {};
  }

  void restore_cursor() {
    if (saved_cursor_ > 0) write_cursor(saved_cursor_).ignore();
    saved_cursor_ = 0;
  }

  int socket_ = -1;
  int signal_fd_ = -1;
  int saved_cursor_ = 0;
  std::set<pid_t> watched_;
  std::set<pid_t> tools_;
  std::deque<std::pair<pid_t, int>> exits_;
};

}  // namespace

void init_main(int socket) { Init().run(socket); }

}  // namespace supervise
