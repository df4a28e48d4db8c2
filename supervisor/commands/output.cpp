#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "supervisor/base/result.h"
#include "supervisor/commands/commands.h"

namespace supervise {
namespace {

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

int complain(const std::string& message, int status) {
  write_all(STDERR_FILENO, fmt::format("supervise: {}\n", message));
  return status;
}

int print_out(std::string_view text, int status) {
  if (write_all(STDOUT_FILENO, text)) return status;
  return complain(errno_error("write to stdout").message(), 125);
}

}  // namespace supervise
