// Descriptors that stay open across an execve(2) of this process: for a successor that is told their numbers.
#pragma once

#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

class PassedFds {
 public:
  PassedFds() = default;
  ~PassedFds() { keep(true); }  // the exec has failed: close-on-exec again
  PassedFds(const PassedFds&) = delete;
  PassedFds& operator=(const PassedFds&) = delete;

  // Notes it and returns its number; -1 (none) stays -1.
  int pass(int fd);
  int pass(const UniqueFd& fd) { return pass(fd.get()); }
  const std::vector<int>& numbers() const { return fds_; }
  // Right before the exec.
  void keep_open() { keep(false); }

  // In the successor: it is close-on-exec again. -1: none. EBADF when it is not open.
  static Result<UniqueFd> take(int fd);

 private:
  void keep(bool close_on_exec);
  std::vector<int> fds_;
};

}  // namespace supervise
