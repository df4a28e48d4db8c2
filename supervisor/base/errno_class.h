// Families of errno, against which recovery is written.
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <optional>

namespace supervise {

enum class ErrnoClass {
  None,     // not about the storage path: belongs to the application
  Path,     // the way to the storage is broken: EIO, ENXIO, ENODEV, EROFS, ESTALE, ENOTCONN, ...
  Space,    // ENOSPC, EDQUOT: room must be made
};

constexpr ErrnoClass errno_class(int err) {
  switch (err) {
    case EIO: case ENXIO: case ENODEV: case EROFS: case ESTALE: case ENOTCONN: case ESHUTDOWN:
    case EHOSTDOWN: case EHOSTUNREACH: case ETIMEDOUT: case EREMOTEIO: case ENOLINK: case EBADFD:
    case ECONNABORTED:  // a FUSE request whose daemon died
      return ErrnoClass::Path;
    case ENOSPC: case EDQUOT:
      return ErrnoClass::Space;
    default:
      return ErrnoClass::None;
  }
}

// Kernel-internal restart codes (-512 to -516): never an error that an application sees.
constexpr bool is_restart_code(long result) { return result <= -512 && result >= -516; }

// "EIO" for 5; the number in digits when it has no name.
std::string errno_name(int err);
// 5 for "EIO"; nothing when there is no such name.
std::optional<int> errno_from_name(std::string_view name);

}  // namespace supervise
