// A supervisor of a few lines around World, without tracer and filter: starts a program, waits,
// mirrors its exit. And the same run natively, to compare.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "supervisor/world.h"

namespace supervise::test {

#define NEEDS_ROOT() \
  if (geteuid() != 0) GTEST_SKIP() << "needs root (CAP_SYS_ADMIN) for namespaces and mounts"

inline std::vector<std::string> environment() {
  std::vector<std::string> env;
  for (char** e = environ; *e; ++e) env.emplace_back(*e);
  return env;
}

inline LaunchSpec program(std::vector<std::string> argv) {
  LaunchSpec spec;
  spec.argv = std::move(argv);
  spec.env = environment();
  char cwd[PATH_MAX];
  spec.cwd = getcwd(cwd, sizeof cwd) ? cwd : "/";
  return spec;
}

inline LaunchSpec shell(const std::string& script) { return program({"/bin/sh", "-c", script}); }

inline std::optional<ExitInfo> await_app(World& world, Deadline deadline) {
  while (!deadline.passed()) {
    if (auto end = world.app_exit()) return end;
    pollfd wait{world.event_fd(), POLLIN, 0};
    poll(&wait, 1, world.event_fd() < 0 ? 2 : std::min(deadline.left_ms(), 50));
  }
  return std::nullopt;
}

// 0 to 255 as the program's own; 128+n for a signal; 125 with the reason on stderr.
inline int supervised(const WorldSpec& spec, const LaunchSpec& launch,
                      const std::function<void(World&)>& meanwhile = {}) {
  auto world = World::create(spec);
  if (!world) {
    dprintf(2, "create: %s\n", world.error().message().c_str());
    return 125;
  }
  World& w = **world;
  auto pid = w.prepare_launch(launch);
  if (!pid) {
    w.finish_stdio();
    dprintf(2, "launch: %s\n", pid.error().message().c_str());
    return 125;
  }
  if (auto released = w.release_launch(); !released) return 125;
  if (meanwhile) meanwhile(w);
  auto end = await_app(w, Deadline::in(Millis(20000)));
  w.finish_stdio();
  if (!end) return 124;
  return end->signaled ? 128 + end->code : end->code;
}

inline int native(const LaunchSpec& launch) {
  pid_t pid = fork();
  if (pid == 0) {
    std::vector<char*> argv;
    for (const auto& a : launch.argv) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());
    _exit(errno == ENOENT ? 127 : 126);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Runs `body` in a forked child and gives its exit code; 99 when it takes too long.
inline int in_child(const std::function<int()>& body, int seconds = 40) {
  pid_t pid = fork();
  if (pid == 0) {
    int code = body();
    fflush(nullptr);
    _exit(code);
  }
  for (int i = 0; i < seconds * 200; ++i) {
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) == pid)
      return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    poll(nullptr, 0, 5);
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return 99;
}

// A world takes our standard streams for its application's: these come back at the end of a test.
class KeepStdio {
 public:
  KeepStdio() {
    for (int fd = 0; fd < 3; ++fd) kept_[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
  }
  ~KeepStdio() {
    fflush(nullptr);
    for (int fd = 0; fd < 3; ++fd) {
      dup2(kept_[fd], fd);
      close(kept_[fd]);
    }
  }

 private:
  int kept_[3];
};

class TempDir {
 public:
  TempDir() {
    std::string pattern = "/tmp/world-test-XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() {
    if (fork() == 0) {
      execlp("rm", "rm", "-rf", "--one-file-system", path_.c_str(), nullptr);
      _exit(1);
    }
    wait(nullptr);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::trunc) << text;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// With `out` as standard output and error; returns code and text.
struct Captured {
  int code = 0;
  std::string text;
};
inline Captured capture(const std::function<int()>& body) {
  TempDir dir;
  std::string file = dir / "out";
  Captured result;
  result.code = in_child([&] {
    int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    close(fd);
    close(null);
    return body();
  });
  result.text = read_file(file);
  return result;
}

// A terminal of ours, in whose session a supervisor runs.
class Terminal {
 public:
  explicit Terminal(const std::function<int()>& body) {
    termios mode{};
    winsize size{33, 77, 0, 0};
    pid_ = forkpty(&master_, nullptr, nullptr, &size);
    if (pid_ == 0) _exit(body());
    poll(nullptr, 0, 50);
    tcgetattr(master_, &mode);
  }
  ~Terminal() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(master_);
  }
  bool expect(const std::string& text, int ms = 8000) {
    Deadline deadline = Deadline::in(Millis(ms));
    while (seen_.find(text) == std::string::npos && !deadline.passed()) {
      pollfd wait{master_, POLLIN, 0};
      if (poll(&wait, 1, 50) <= 0) continue;
      char bytes[4096];
      ssize_t n = read(master_, bytes, sizeof bytes);
      if (n <= 0) break;
      seen_.append(bytes, static_cast<std::size_t>(n));
    }
    auto at = seen_.find(text);
    if (at == std::string::npos) return false;
    seen_.erase(0, at + text.size());
    return true;
  }
  void type(const std::string& text) const {
    if (write(master_, text.data(), text.size()) < 0) ADD_FAILURE() << "terminal is gone";
  }
  bool raw() const {
    termios mode{};
    tcgetattr(master_, &mode);
    return (mode.c_lflag & ICANON) == 0;
  }
  bool becomes_raw(bool wanted) const {
    for (int i = 0; i < 300 && raw() != wanted; ++i) poll(nullptr, 0, 10);
    return raw() == wanted;
  }
  int wait_exit() {
    for (int i = 0; i < 1000; ++i) {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = 0;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      }
      expect("\x01\x02never", 10);
      poll(nullptr, 0, 5);
    }
    return 99;
  }
  pid_t pid() const { return pid_; }
  int master() const { return master_; }
  const std::string& seen() const { return seen_; }

 private:
  pid_t pid_ = 0;
  int master_ = -1;
  std::string seen_;
};

}  // namespace supervise::test
