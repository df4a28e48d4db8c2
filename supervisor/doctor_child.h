// A child process of a probe: runs a function, dies with its parent, is killed and reaped at the
// end of the scope.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "supervisor/base/result.h"

namespace supervise {

class ProbeChild {
 public:
  explicit ProbeChild(const std::function<int()>& body) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::_exit(body());
  }
  ~ProbeChild() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    int status;
    while (::waitpid(pid_, &status, __WALL) == pid_ && !WIFEXITED(status) && !WIFSIGNALED(status)) {
    }
  }
  ProbeChild(const ProbeChild&) = delete;
  ProbeChild& operator=(const ProbeChild&) = delete;

  pid_t pid() const { return pid_; }
  Result<int> next_status() const {
    int status = 0;
    pid_t got;
    while ((got = ::waitpid(pid_, &status, __WALL)) < 0 && errno == EINTR) {
    }
    if (got != pid_) return errno_error("wait for the probe's child");
    return status;
  }
  // The child's exit status is the errno of what it tried, 0 for success.
  Status finish(const std::string& what) {
    if (pid_ < 0) return errno_error(what + ": fork");
    auto status = next_status();
    pid_ = -1;
    if (!status) return status.error();
    if (WIFSIGNALED(*status))
      return plain_error(what + ": the child died of signal " + std::to_string(WTERMSIG(*status)));
    if (WEXITSTATUS(*status) != 0) return errno_error(WEXITSTATUS(*status), what);
    return ok_status();
  }

 private:
  pid_t pid_;
};

}  // namespace supervise
