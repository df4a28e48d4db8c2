#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include "restore/store_files.h"

namespace supervise {

Result<UniqueFd> lock_file(const std::string& path, Deadline deadline) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return errno_error(fmt::format("open lock file {}", path));
  for (;;) {
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(fd.get(), F_OFD_SETLK, &lock) == 0) return fd;
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
      return errno_error(fmt::format("lock {}", path));
    }
    if (deadline.passed()) {
      return errno_error(ETIMEDOUT, fmt::format("lock {}: another process keeps it", path));
    }
    poll(nullptr, 0, std::min(2, deadline.left_ms()));
  }
}

}  // namespace supervise
