#include "tracer/memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

namespace supervise {
namespace {
constexpr std::uint64_t kPage = 4096;
}

std::size_t read_some(pid_t pid, std::uint64_t addr, std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const std::size_t want = out.size() - done;
    iovec local{out.data() + done, want};
    iovec remote{reinterpret_cast<void*>(addr + done), want};
    ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (n < 0 && want > kPage - (addr + done) % kPage) {
      // Some page is missing: go on to the end of this one.
      remote.iov_len = local.iov_len = kPage - (addr + done) % kPage;
      n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    }
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

Status read_exact(pid_t pid, std::uint64_t addr, std::span<std::byte> out) {
  errno = 0;
  const std::size_t n = read_some(pid, addr, out);
  if (n == out.size()) return {};
  const int err = errno == ESRCH ? ESRCH : EFAULT;
  return errno_error(err, fmt::format("read {} bytes at {:#x} of process {} ({} readable)",
                                      out.size(), addr, pid, n));
}

Result<std::string> read_cstring(pid_t pid, std::uint64_t addr, std::size_t limit) {
  std::string text;
  while (text.size() < limit) {
    char chunk[256];
    const std::uint64_t at = addr + text.size();
    const std::size_t in_page = kPage - at % kPage;
    const std::size_t want = std::min({sizeof chunk, in_page, limit - text.size()});
    const std::size_t n = read_some(pid, at, std::as_writable_bytes(std::span(chunk, want)));
    if (n == 0) return errno_error(EFAULT, fmt::format("read a string at {:#x} of {}", addr, pid));
    if (const void* end = memchr(chunk, 0, n)) {
      text.append(chunk, static_cast<std::size_t>(static_cast<const char*>(end) - chunk));
      return text;
    }
    text.append(chunk, n);
  }
  return errno_error(ENAMETOOLONG, fmt::format("read a string at {:#x} of {}", addr, pid));
}

Status write_exact(pid_t pid, std::uint64_t addr, std::span<const std::byte> in) {
  iovec local{const_cast<std::byte*>(in.data()), in.size()};
  iovec remote{reinterpret_cast<void*>(addr), in.size()};
  if (process_vm_writev(pid, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(in.size())) return {};
  return MemoryWriter(pid).write(addr, in);
}

Status MemoryWriter::write(std::uint64_t addr, std::span<const std::byte> in) {
  if (!mem_) mem_.reset(open(fmt::format("/proc/{}/mem", pid_).c_str(), O_RDWR | O_CLOEXEC));
  if (!mem_) return errno_error(fmt::format("open memory of process {}", pid_));
  std::size_t done = 0;
  while (done < in.size()) {
    ssize_t n = pwrite(mem_.get(), in.data() + done, in.size() - done,
                       static_cast<off_t>(addr + done));
    if (n <= 0)
      return errno_error(fmt::format("write {} bytes at {:#x} of process {}", in.size(), addr, pid_));
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<std::vector<RemoteIovec>> read_iovecs(pid_t pid, std::uint64_t addr, std::size_t count) {
  if (count > IOV_MAX) return errno_error(EINVAL, "more than IOV_MAX vectors");
  std::vector<RemoteIovec> vectors(count);
  static_assert(sizeof(RemoteIovec) == sizeof(iovec));
  RETURN_IF_ERROR(read_exact(pid, addr, std::as_writable_bytes(std::span(vectors))));
  return vectors;
}

Result<std::vector<std::byte>> gather(pid_t pid, const std::vector<RemoteIovec>& vectors,
                                      std::uint64_t length) {
  std::vector<std::byte> bytes(length);
  std::uint64_t done = 0;
  for (const RemoteIovec& v : vectors) {
    const std::uint64_t n = std::min(v.length, length - done);
    RETURN_IF_ERROR(read_exact(pid, v.base, std::span(bytes).subspan(done, n)));
    done += n;
    if (done == length) break;
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace supervise
