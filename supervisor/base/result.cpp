#include "supervisor/base/result.h"

#include <fmt/format.h>

namespace supervise {

std::string Error::message() const {
  if (err == 0) return what;
  const char* name = strerrorname_np(err);
  return fmt::format("{}: {} ({})", what, strerror(err), name ? name : std::to_string(err));
}

Error errno_error(std::string what) { return {errno, std::move(what)}; }
Error errno_error(int err, std::string what) { return {err, std::move(what)}; }

}  // namespace supervise
