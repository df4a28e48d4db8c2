#include "supervisor/base/passed_fds.h"

#include <fcntl.h>
#include <fmt/format.h>

namespace supervise {

int PassedFds::pass(int fd) {
  if (fd >= 0) fds_.push_back(fd);
  return fd;
}

void PassedFds::keep(bool close_on_exec) {
  for (int fd : fds_) fcntl(fd, F_SETFD, close_on_exec ? FD_CLOEXEC : 0);
}

Result<UniqueFd> PassedFds::take(int fd) {
  if (fd < 0) return UniqueFd();
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return errno_error(fmt::format("descriptor {} of the former program", fd));
  return UniqueFd(fd);
}

}  // namespace supervise
