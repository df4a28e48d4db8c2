#include "supervisor/base/errno_class.h"

#include <cstring>

namespace supervise {

std::string errno_name(int err) {
  const char* name = strerrorname_np(err);
  return name ? name : std::to_string(err);
}

std::optional<int> errno_from_name(std::string_view name) {
  for (int e = 1; e < 512; ++e) {
    const char* n = strerrorname_np(e);
    if (n && name == n) return e;
  }
  if (name == "EWOULDBLOCK") return EWOULDBLOCK;
  if (name == "ENOTSUP") return ENOTSUP;
  if (name == "EDEADLOCK") return EDEADLOCK;
  return std::nullopt;
}

}  // namespace supervise
