// A small world for CRIU: a PID and mount namespace of its own with an init that runs tools (as a
// ProcessRunner), starts the guest, stops and continues it. Dies with the object, whatever is in it.
#pragma once

#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>

#include "supervisor/base/process_runner.h"
#include "supervisor/base/unique_fd.h"
#include "tests/restore/test_support.h"

namespace supervise::test {

// The guests are this very program; CRIU can't restore AddressSanitizer's shadow memory.
#ifdef __SANITIZE_ADDRESS__
#define NEEDS_RESTORABLE_GUEST() GTEST_SKIP() << "needs a guest without AddressSanitizer"
#else
#define NEEDS_RESTORABLE_GUEST() static_cast<void>(0)
#endif

class TestWorld : public ProcessRunner {
 public:
  // Null without the privileges; `bind_from` is bound at `bind_at` in it.
  static std::unique_ptr<TestWorld> create(const std::string& bind_from = {},
                                           const std::string& bind_at = {}) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return nullptr;
    auto w = std::unique_ptr<TestWorld>(new TestWorld);
    w->link_.reset(ends[0]);
    // The init must be a child of a process that has unshared; that one only waits.
    w->outer_ = fork();
    if (w->outer_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) _exit(1);
      pid_t init = fork();
      if (init == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bool ok = mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                  mount("proc", "/proc", "proc", 0, nullptr) == 0 &&
                  (bind_from.empty() ||
                   mount(bind_from.c_str(), bind_at.c_str(), nullptr, MS_BIND, nullptr) == 0);
        close(ends[0]);
        (void)!write(ends[1], ok ? "k" : "n", 1);
        if (ok) serve(ends[1]);
        _exit(0);
      }
      close(ends[0]);
      close(ends[1]);
      int status;
      waitpid(init, &status, 0);
      _exit(0);
    }
    close(ends[1]);
    char c = 0;
    if (read(w->link_.get(), &c, 1) != 1 || c != 'k') return nullptr;
    return w;
  }
  ~TestWorld() override {
    link_.reset();  // the init ends, and with it everything in its namespace
    if (outer_ > 0) wait_for(outer_, Millis(5000));
  }

  Result<ExitInfo> run(const ProcessSpec& spec, Deadline deadline) override {
    std::string text = "R";
    text += std::to_string(deadline.left_ms()) + '\0';
    for (auto& [ours, number] : spec.fds) text += std::to_string(number) + ",";
    text += '\0';
    for (auto& a : spec.argv) text += a + '\0';
    std::vector<int> fds;
    for (auto& [ours, number] : spec.fds) fds.push_back(ours);
    std::string answer = ask(text, fds, deadline.left_ms() + 5000);
    if (answer.empty()) return errno_error(EPIPE, "the world's init is gone");
    if (answer == "late") return errno_error(ETIMEDOUT, spec.argv[0] + " was killed at its deadline");
    ExitInfo info;
    info.signaled = answer[0] == 's';
    info.code = atoi(answer.c_str() + 1);
    return info;
  }
  // Starts this test program's disabled test `name` as a session of its own; its PID in the world.
  int start(const std::string& name, const std::string& dir) {
    return atoi(ask("G" + name + '\0' + dir + '\0', {}, 5000).c_str());
  }
  // Stops or continues the session of `pid` and waits for all its tasks to show it; "ok" or why not.
  std::string stop(int pid) { return ask("S" + std::to_string(pid), {}, 8000); }
  std::string proceed(int pid) { return ask("C" + std::to_string(pid), {}, 8000); }
  // State letters of all threads in the world but the init's, "TTTT"; and CRIU's if any.
  std::string states() { return ask("T", {}, 5000); }
  // Exit status ("e0", "s9") of a child of the init.
  std::string wait(int pid) { return ask("W" + std::to_string(pid), {}, 12000); }

 private:
  TestWorld() = default;

  std::string ask(const std::string& text, const std::vector<int>& fds, int limit_ms) {
    iovec iov{const_cast<char*>(text.data()), text.size()};
    msghdr m{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 64)] = {};
    if (!fds.empty()) {
      m.msg_control = control;
      m.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* c = CMSG_FIRSTHDR(&m);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
    }
    if (sendmsg(link_.get(), &m, MSG_NOSIGNAL) < 0) return {};
    pollfd p{link_.get(), POLLIN, 0};
    if (poll(&p, 1, limit_ms) != 1) return {};
    char buffer[4096];
    ssize_t n = read(link_.get(), buffer, sizeof buffer);
    return n > 0 ? std::string(buffer, static_cast<std::size_t>(n)) : std::string();
  }

  // ---- inside -------------------------------------------------------------------------------

  static std::vector<std::string> split(const std::string& s, char by) {
    std::vector<std::string> out;
    for (std::size_t at = 0; at < s.size();) {
      auto end = s.find(by, at);
      if (end == std::string::npos) end = s.size();
      out.push_back(s.substr(at, end - at));
      at = end + 1;
    }
    return out;
  }

  static std::string thread_states() {
    std::string out;
    for (const auto& p : std::filesystem::directory_iterator("/proc")) {
      int pid = atoi(p.path().filename().c_str());
      if (pid <= 1) continue;
      std::error_code ec;
      for (const auto& t : std::filesystem::directory_iterator(p.path() / "task", ec)) {
        std::string stat = get(t.path() / "stat");
        auto close = stat.rfind(')');
        if (close != std::string::npos) out += stat[close + 2];
      }
    }
    return out;
  }

  static std::string signal_all(int pid, int signo, bool want_stopped) {
    if (kill(-pid, signo) != 0) return std::string("kill: ") + strerror(errno);
    auto deadline = Deadline::in(Millis(5000));
    for (;;) {
      std::string s = thread_states();
      bool stopped = !s.empty() && s.find_first_not_of("T") == std::string::npos;
      bool none = s.find('T') == std::string::npos;
      if (want_stopped ? stopped : none) return "ok";
      if (deadline.passed()) return "states " + s;
      usleep(200);
    }
  }

  static std::string describe(int status) {
    return WIFSIGNALED(status) ? "s" + std::to_string(WTERMSIG(status))
                               : "e" + std::to_string(WEXITSTATUS(status));
  }

  static std::string wait_here(int pid, int limit_ms, const char* late) {
    auto deadline = Deadline::in(Millis(limit_ms));
    for (;;) {
      int status = 0;
      pid_t got = waitpid(pid, &status, WNOHANG);
      if (got == pid) return describe(status);
      if (got < 0) return std::string("no child: ") + strerror(errno);
      if (deadline.passed()) return late;
      usleep(200);
    }
  }

  static void stop_all_but(pid_t group) {
    for (const auto& p : std::filesystem::directory_iterator("/proc")) {
      int pid = atoi(p.path().filename().c_str());
      if (pid > 1 && getpgid(pid) != group) kill(pid, SIGSTOP);
    }
  }

  static std::string run_tool(const std::string& text, const std::vector<int>& fds) {
    auto words = split(text.substr(1), '\0');
    int limit = atoi(words[0].c_str());
    auto numbers = split(words[1], ',');
    put("/proc/sys/kernel/ns_last_pid", "30000");
    pid_t pid = fork();
    if (pid == 0) {
      setpgid(0, 0);
      std::vector<int> high;
      for (int fd : fds) high.push_back(fcntl(fd, F_DUPFD, 500));
      for (std::size_t i = 0; i < high.size(); ++i) dup2(high[i], atoi(numbers[i].c_str()));
      std::vector<bool> keep(1024);
      for (auto& n : numbers) keep[static_cast<std::size_t>(atoi(n.c_str()))] = true;
      for (int fd = 0; fd < 1024; ++fd) {
        if (!keep[static_cast<std::size_t>(fd)]) close(fd);
      }
      std::vector<char*> argv;
      for (std::size_t i = 2; i < words.size(); ++i) argv.push_back(words[i].data());
      argv.push_back(nullptr);
      char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
      char* env[] = {path, nullptr};
      execve(argv[0], argv.data(), env);
      _exit(127);
    }
    setpgid(pid, pid);
    std::string end = wait_here(pid, limit, "late");
    if (end == "late") {
      // A killed CRIU lets go of tasks that are in the midst of its own code: none may run on.
      stop_all_but(pid);
      kill(-pid, SIGKILL);
      int status;
      waitpid(pid, &status, 0);
    }
    return end;
  }

  static std::string start_guest(const std::string& text) {
    auto words = split(text.substr(1), '\0');
    std::string self = std::filesystem::read_symlink("/proc/self/exe");
    pid_t pid = fork();
    if (pid == 0) {
      setsid();
      for (int fd = 0; fd < 1024; ++fd) close(fd);
      open("/dev/null", O_RDWR);
      dup(0);
      open((words[1] + "/guest.err").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      if (chdir(words[1].c_str()) != 0) _exit(126);
      std::string filter = "--gtest_filter=" + words[0], dir = "GUEST_DIR=" + words[1];
      char* env[] = {dir.data(), nullptr};
      execle(self.c_str(), "guest", filter.c_str(), "--gtest_also_run_disabled_tests", nullptr, env);
      _exit(127);
    }
    return std::to_string(pid);
  }

  static void serve(int link) {
    for (;;) {
      char buffer[8192];
      iovec iov{buffer, sizeof buffer};
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 64)];
      msghdr m{};
      m.msg_iov = &iov;
      m.msg_iovlen = 1;
      m.msg_control = control;
      m.msg_controllen = sizeof control;
      ssize_t n = recvmsg(link, &m, MSG_CMSG_CLOEXEC);
      if (n <= 0) return;
      std::vector<int> fds;
      for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        fds.resize(count);
        memcpy(fds.data(), CMSG_DATA(c), count * sizeof(int));
      }
      std::string text(buffer, static_cast<std::size_t>(n)), answer = "?";
      int pid = atoi(text.c_str() + 1);
      switch (text[0]) {
        case 'R': answer = run_tool(text, fds); break;
        case 'G': answer = start_guest(text); break;
        case 'S': answer = signal_all(pid, SIGSTOP, true); break;
        case 'C': answer = signal_all(pid, SIGCONT, false); break;
        case 'T': answer = "=" + thread_states(); break;
        case 'W': answer = wait_here(pid, 10000, "late"); break;
        default: break;
      }
      for (int fd : fds) close(fd);
      (void)!write(link, answer.data(), answer.size());
    }
  }

  UniqueFd link_;
  pid_t outer_ = -1;
};

}  // namespace supervise::test
