// faultdisk: a FUSE file system with one file, disk.img, which is an image file elsewhere. Put a
// loop device on disk.img and a file system on that, and its device fails on command. Nothing is
// cached here, and a failed write leaves the image untouched: a second loop device straight on the
// image sees exactly what became durable. Operations: read, write, fsync, flush, fallocate (discard
// and write-zeroes of the loop device).
//   faultdisk --image FILE --mount DIR --socket PATH    serve
//   faultdisk ctl SOCKET COMMAND...                     command a running one
//   faultdisk released SECONDS DEVICE...                wait until no file system is mounted from
//   them
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "integration/faultfs/control.h"
#include "integration/faultfs/mount_session.h"

namespace supervise::faults {
namespace {

constexpr fuse_ino_t kFile = 2;
constexpr char kName[] = "disk.img";

struct Disk {
  int image = -1;
  FaultRules rules;
};

Disk& disk_of(fuse_req_t request) { return *static_cast<Disk*>(fuse_req_userdata(request)); }

// Answers the request itself when the call must fail.
Verdict judge(fuse_req_t request, std::string_view op, std::optional<ByteRange> range = {}) {
  auto verdict = disk_of(request).rules.check(op, range);
  if (verdict.error() != 0) fuse_reply_err(request, verdict.error());
  return verdict;
}

bool fill_attributes(fuse_req_t request, fuse_ino_t ino, struct stat& st) {
  if (::fstat(disk_of(request).image, &st) != 0) return false;
  st.st_ino = ino;
  if (ino == FUSE_ROOT_ID) {
    st.st_mode = S_IFDIR | 0700;
    st.st_nlink = 2;
    st.st_size = 0;
  } else {
    st.st_mode = S_IFREG | 0600;
    st.st_nlink = 1;
  }
  return true;
}

void op_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  fuse_entry_param entry{};
  if (parent != FUSE_ROOT_ID || std::strcmp(name, kName) != 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  entry.ino = kFile;
  if (fill_attributes(request, kFile, entry.attr))
    fuse_reply_entry(request, &entry);
  else
    fuse_reply_err(request, errno);
}

void op_getattr(fuse_req_t request, fuse_ino_t ino, fuse_file_info*) {
  struct stat st {};
  if (fill_attributes(request, ino, st))
    fuse_reply_attr(request, &st, 0);
  else
    fuse_reply_err(request, errno);
}

void op_readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info*) {
  if (ino != FUSE_ROOT_ID) {
    fuse_reply_err(request, ENOTDIR);
    return;
  }
  char buffer[512];
  size_t used = 0;
  const char* names[] = {".", "..", kName};
  for (off_t i = offset; i < 3; ++i) {
    struct stat st {};
    st.st_ino = i == 2 ? kFile : FUSE_ROOT_ID;
    st.st_mode = i == 2 ? S_IFREG : S_IFDIR;
    size_t room = std::min(size, sizeof buffer) - used;
    size_t need = fuse_add_direntry(request, buffer + used, room, names[i], &st, i + 1);
    if (need > room) break;
    used += need;
  }
  fuse_reply_buf(request, buffer, used);
}

void op_open(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  if (ino != kFile) {
    fuse_reply_err(request, EISDIR);
    return;
  }
  info->direct_io = 1;
  info->keep_cache = 0;
  fuse_reply_open(request, info);
}

void op_read(fuse_req_t request, fuse_ino_t, size_t size, off_t offset, fuse_file_info*) {
  auto verdict = judge(request, "read", ByteRange{static_cast<std::uint64_t>(offset), size});
  if (verdict.error() != 0) return;
  std::vector<char> buffer(size);
  size_t done = 0;
  while (done < size) {
    ssize_t n = ::pread(disk_of(request).image, buffer.data() + done, size - done,
                        offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      fuse_reply_err(request, errno);
      return;
    }
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  fuse_reply_buf(request, buffer.data(), done);
}

void op_write(fuse_req_t request, fuse_ino_t, const char* bytes, size_t size, off_t offset,
              fuse_file_info*) {
  auto verdict = judge(request, "write", ByteRange{static_cast<std::uint64_t>(offset), size});
  if (verdict.error() != 0) return;
  size_t done = 0;
  while (done < size) {
    ssize_t n = ::pwrite(disk_of(request).image, bytes + done, size - done,
                         offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      fuse_reply_err(request, errno);
      return;
    }
    done += static_cast<size_t>(n);
  }
  fuse_reply_write(request, done);
}

void op_flush(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  auto verdict = judge(request, "flush");
  if (verdict.error() == 0) fuse_reply_err(request, 0);
}

void op_fsync(fuse_req_t request, fuse_ino_t, int datasync, fuse_file_info*) {
  auto verdict = judge(request, "fsync");
  if (verdict.error() != 0) return;
  int result = datasync ? ::fdatasync(disk_of(request).image) : ::fsync(disk_of(request).image);
  fuse_reply_err(request, result == 0 ? 0 : errno);
}

void op_fallocate(fuse_req_t request, fuse_ino_t, int mode, off_t offset, off_t length,
                  fuse_file_info*) {
  ByteRange range{static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length)};
  auto verdict = judge(request, "fallocate", range);
  if (verdict.error() != 0) return;
  fuse_reply_err(request,
                 ::fallocate(disk_of(request).image, mode, offset, length) == 0 ? 0 : errno);
}

int serve(const std::vector<std::string>& args) {
  auto options = parse_daemon_options(args, "image");
  if (!options) return 2;
  static Disk disk;
  disk.image = ::open(options->source.c_str(), O_RDWR | O_CLOEXEC);
  if (disk.image < 0) {
    fmt::print(stderr, "{}: {}\n", options->source, std::strerror(errno));
    return 1;
  }
  fuse_lowlevel_ops ops{};
  ops.lookup = op_lookup;
  ops.getattr = op_getattr;
  ops.readdir = op_readdir;
  ops.open = op_open;
  ops.read = op_read;
  ops.write = op_write;
  ops.flush = op_flush;
  ops.fsync = op_fsync;
  ops.fallocate = op_fallocate;
  return run_daemon(*options, "faultdisk", ops, &disk, disk.rules, false);
}

// Waits until nothing has a file system mounted from the devices, in any mount namespace: the
// kernel then grants an exclusive open.
int wait_released(const std::vector<std::string>& args) {
  double seconds = args.empty() ? 0 : std::strtod(args[0].c_str(), nullptr);
  auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  for (std::size_t i = 1; i < args.size(); ++i) {
    while (true) {
      int fd = ::open(args[i].c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
      if (fd >= 0) {
        ::close(fd);
        break;
      }
      if (errno != EBUSY || std::chrono::steady_clock::now() >= deadline) {
        fmt::print(stderr, "{}: {}\n", args[i], std::strerror(errno));
        return 1;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  return 0;
}

}  // namespace
}  // namespace supervise::faults

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  if (!args.empty() && args[0] == "ctl")
    return supervise::faults::control_client({args.begin() + 1, args.end()});
  if (!args.empty() && args[0] == "released")
    return supervise::faults::wait_released({args.begin() + 1, args.end()});
  return supervise::faults::serve(args);
}
