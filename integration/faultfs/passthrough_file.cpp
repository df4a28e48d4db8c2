// Open files.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "integration/faultfs/passthrough.h"

namespace supervise::faults {
namespace {

int handle(const fuse_file_info* info) { return static_cast<int>(info->fh); }

// The kernel works out where an append goes and does direct I/O itself; below, offsets must be
// obeyed and buffers are not aligned. With the write-back cache it also reads pages of write-only
// files.
int lower_flags(const Passthrough& fs, int flags) {
  flags &= ~(O_APPEND | O_DIRECT | O_NOFOLLOW | O_CREAT | O_EXCL);
  if (fs.writeback && (flags & O_ACCMODE) == O_WRONLY) flags = (flags & ~O_ACCMODE) | O_RDWR;
  return flags | O_CLOEXEC;
}

void fill_info(const Passthrough& fs, fuse_file_info* info, int fd) {
  info->fh = static_cast<uint64_t>(fd);
  info->direct_io = fs.direct_io;
  info->keep_cache = 0;
}

void op_open(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "open", *inode);
  if (verdict.error() != 0) return;
  int fd = ::open(inode->proc_path().c_str(), lower_flags(self(request), info->flags));
  if (fd < 0) {
    fuse_reply_err(request, errno);
    return;
  }
  fill_info(self(request), info, fd);
  if (fuse_reply_open(request, info) != 0) ::close(fd);
}

void op_create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode,
               fuse_file_info* info) {
  Inode* inode = inode_of(request, parent);
  auto verdict = judge(request, "create", *inode, name);
  if (verdict.error() != 0) return;
  struct stat before {};
  bool existed = ::fstatat(inode->fd, name, &before, AT_SYMLINK_NOFOLLOW) == 0;
  int flags =
      lower_flags(self(request), info->flags) | O_CREAT | O_NOFOLLOW | (info->flags & O_EXCL);
  int fd = ::openat(inode->fd, name, flags, mode);
  if (fd < 0) {
    fuse_reply_err(request, errno);
    return;
  }
  fuse_entry_param entry;
  int error = existed ? 0 : give_to_caller(request, inode->fd, name);
  if (error == 0) error = look_up(request, *inode, name, entry);
  if (error != 0) {
    ::close(fd);
    fuse_reply_err(request, error);
    return;
  }
  fill_info(self(request), info, fd);
  if (fuse_reply_create(request, &entry, info) != 0) ::close(fd);
}

void op_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* info) {
  auto verdict = judge(request, "read", *inode_of(request, ino), nullptr,
                       ByteRange{static_cast<std::uint64_t>(offset), size});
  if (verdict.error() != 0) return;
  std::vector<char> buffer(size);
  size_t done = 0;
  while (done < size) {
    ssize_t n =
        ::pread(handle(info), buffer.data() + done, size - done, offset + static_cast<off_t>(done));
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

void op_write(fuse_req_t request, fuse_ino_t ino, const char* bytes, size_t size, off_t offset,
              fuse_file_info* info) {
  auto verdict = judge(request, "write", *inode_of(request, ino), nullptr,
                       ByteRange{static_cast<std::uint64_t>(offset), size});
  if (verdict.error() != 0) return;
  size_t done = 0;
  while (done < size) {
    ssize_t n =
        ::pwrite(handle(info), bytes + done, size - done, offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && done == 0) {
      fuse_reply_err(request, errno);
      return;
    }
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  fuse_reply_write(request, done);
}

void op_flush(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  auto verdict = judge(request, "flush", *inode_of(request, ino));
  if (verdict.error() == 0) reply_status(request, ::close(::dup(handle(info))) == 0);
}

void op_release(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  ::close(handle(info));
  fuse_reply_err(request, 0);
}

void op_fsync(fuse_req_t request, fuse_ino_t ino, int datasync, fuse_file_info* info) {
  auto verdict = judge(request, "fsync", *inode_of(request, ino));
  if (verdict.error() != 0) return;
  reply_status(request, (datasync ? ::fdatasync(handle(info)) : ::fsync(handle(info))) == 0);
}

void op_fallocate(fuse_req_t request, fuse_ino_t ino, int mode, off_t offset, off_t length,
                  fuse_file_info* info) {
  ByteRange range{static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length)};
  auto verdict = judge(request, "fallocate", *inode_of(request, ino), nullptr, range);
  if (verdict.error() == 0)
    reply_status(request, ::fallocate(handle(info), mode, offset, length) == 0);
}

void op_lseek(fuse_req_t request, fuse_ino_t ino, off_t offset, int whence, fuse_file_info* info) {
  auto verdict = judge(request, "lseek", *inode_of(request, ino));
  if (verdict.error() != 0) return;
  off_t at = ::lseek(handle(info), offset, whence);
  if (at < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_lseek(request, at);
}

void op_copy_file_range(fuse_req_t request, fuse_ino_t, off_t from, fuse_file_info* source,
                        fuse_ino_t to_ino, off_t to, fuse_file_info* target, size_t length,
                        int flags) {
  auto verdict = judge(request, "copy_file_range", *inode_of(request, to_ino), nullptr,
                       ByteRange{static_cast<std::uint64_t>(to), length});
  if (verdict.error() != 0) return;
  ssize_t n = ::copy_file_range(handle(source), &from, handle(target), &to, length,
                                static_cast<unsigned>(flags));
  if (n < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_write(request, static_cast<size_t>(n));
}

}  // namespace

void add_file_ops(fuse_lowlevel_ops& ops) {
  ops.open = op_open;
  ops.create = op_create;
  ops.read = op_read;
  ops.write = op_write;
  ops.flush = op_flush;
  ops.release = op_release;
  ops.fsync = op_fsync;
  ops.fallocate = op_fallocate;
  ops.lseek = op_lseek;
  ops.copy_file_range = op_copy_file_range;
}

}  // namespace supervise::faults
