// A tracee's memory. process_vm_readv(2) is partial at page borders: reads go on page by page and
// say how far they came. What process_vm_writev can't write goes through /proc/PID/mem, which also reaches
// read-only pages.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

// Bytes read before the first unreadable page (0: none).
std::size_t read_some(pid_t pid, std::uint64_t addr, std::span<std::byte> out);
Status read_exact(pid_t pid, std::uint64_t addr, std::span<std::byte> out);
// A NUL-terminated string, at most `limit` bytes.
Result<std::string> read_cstring(pid_t pid, std::uint64_t addr, std::size_t limit = 4096);
Status write_exact(pid_t pid, std::uint64_t addr, std::span<const std::byte> in);

// Of several writes to one process, which also reach read-only pages.
class MemoryWriter {
 public:
  explicit MemoryWriter(pid_t pid) : pid_(pid) {}
  Status write(std::uint64_t addr, std::span<const std::byte> in);
  pid_t pid() const { return pid_; }
  template <class T>
  Status put(std::uint64_t addr, const T& value) { return write(addr, std::as_bytes(std::span(&value, 1))); }

 private:
  pid_t pid_;
  UniqueFd mem_;
};

template <class T>
Result<T> read_value(pid_t pid, std::uint64_t addr) {
  T value;
  RETURN_IF_ERROR(read_exact(pid, addr, std::as_writable_bytes(std::span(&value, 1))));
  return value;
}

struct RemoteIovec {
  std::uint64_t base = 0;
  std::uint64_t length = 0;
};
Result<std::vector<RemoteIovec>> read_iovecs(pid_t pid, std::uint64_t addr, std::size_t count);
// The first `length` bytes of what the vectors describe.
Result<std::vector<std::byte>> gather(pid_t pid, const std::vector<RemoteIovec>& vectors,
                                      std::uint64_t length);

}  // namespace supervise
