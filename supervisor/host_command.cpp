#include "supervisor/host_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

extern char** environ;

namespace supervise {

Result<ExitInfo> run_host_command(const std::string& command, const std::vector<std::string>& env,
                                  Deadline deadline) {
  std::vector<char*> envp;
  for (const std::string& e : env) envp.push_back(const_cast<char*>(e.c_str()));
  for (char** e = environ; *e; ++e) {
    const std::string_view have = *e;
    const auto name = have.substr(0, have.find('=') + 1);
    bool replaced = false;
    for (const std::string& mine : env) replaced |= mine.starts_with(name);
    if (!replaced) envp.push_back(*e);
  }
  envp.push_back(nullptr);
  const char* const argv[] = {"sh", "-c", command.c_str(), nullptr};

  const pid_t pid = fork();
  if (pid < 0) return errno_error("fork for: " + command);
  if (pid == 0) {
    setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGPIPE, SIG_DFL);
    const int null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, 0);
    dup2(2, 1);
    execve("/bin/sh", const_cast<char* const*>(argv), envp.data());
    _exit(127);
  }
  setpgid(pid, pid);
  for (long pause_ms = 2;; pause_ms = std::min(pause_ms + 1, 20L)) {
    int status = 0;
    const pid_t got = waitpid(pid, &status, WNOHANG);
    if (got == pid) {
      if (WIFSIGNALED(status)) return ExitInfo{true, WTERMSIG(status)};
      return ExitInfo{false, WEXITSTATUS(status)};
    }
    if (got < 0 && errno != EINTR) return errno_error("wait for: " + command);
    if (deadline.passed()) {
      kill(-pid, SIGKILL);
      for (int i = 0; i < 100 && waitpid(pid, &status, WNOHANG) == 0; ++i) {
        const timespec pause{0, 10'000'000};
        nanosleep(&pause, nullptr);
      }
      return errno_error(ETIMEDOUT, command);
    }
    const timespec pause{0, pause_ms * 1'000'000};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace supervise
