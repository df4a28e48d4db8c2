#include "supervisor/base/process_runner.h"

#include <fmt/format.h>

#include <cstring>

namespace supervise {

std::string ExitInfo::describe() const {
  if (!signaled) return fmt::format("exit status {}", code);
  const char* name = sigabbrev_np(code);
  return name ? fmt::format("killed by SIG{}", name) : fmt::format("killed by signal {}", code);
}

}  // namespace supervise
