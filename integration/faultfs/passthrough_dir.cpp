// Open directories.
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "integration/faultfs/passthrough.h"

namespace supervise::faults {
namespace {

struct Directory {
  DIR* stream = nullptr;
  dirent* pending = nullptr;  // read, but it did not fit
  off_t position = 0;
};

Directory* directory(const fuse_file_info* info) { return reinterpret_cast<Directory*>(info->fh); }

void op_opendir(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "opendir", *inode);
  if (verdict.error() != 0) return;
  int fd = ::openat(inode->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* stream = fd < 0 ? nullptr : ::fdopendir(fd);
  if (!stream) {
    int saved = errno;
    if (fd >= 0) ::close(fd);
    fuse_reply_err(request, saved);
    return;
  }
  auto* opened = new Directory{stream};
  info->fh = reinterpret_cast<uint64_t>(opened);
  if (fuse_reply_open(request, info) != 0) {
    ::closedir(stream);
    delete opened;
  }
}

void op_readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                fuse_file_info* info) {
  auto verdict = judge(request, "readdir", *inode_of(request, ino));
  if (verdict.error() != 0) return;
  Directory* d = directory(info);
  if (offset != d->position) {
    ::seekdir(d->stream, offset);
    d->pending = nullptr;
    d->position = offset;
  }
  std::vector<char> buffer(size);
  size_t used = 0;
  while (true) {
    if (!d->pending) {
      errno = 0;
      d->pending = ::readdir(d->stream);
      if (!d->pending && errno != 0 && used == 0) {
        fuse_reply_err(request, errno);
        return;
      }
      if (!d->pending) break;
    }
    struct stat st {};
    st.st_ino = d->pending->d_ino;
    st.st_mode = static_cast<mode_t>(d->pending->d_type) << 12;
    off_t next = d->pending->d_off;
    size_t need = fuse_add_direntry(request, buffer.data() + used, size - used, d->pending->d_name,
                                    &st, next);
    if (need > size - used) break;
    used += need;
    d->pending = nullptr;
    d->position = next;
  }
  fuse_reply_buf(request, buffer.data(), used);
}

void op_releasedir(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  ::closedir(directory(info)->stream);
  delete directory(info);
  fuse_reply_err(request, 0);
}

void op_fsyncdir(fuse_req_t request, fuse_ino_t ino, int datasync, fuse_file_info* info) {
  auto verdict = judge(request, "fsyncdir", *inode_of(request, ino));
  if (verdict.error() != 0) return;
  int fd = ::dirfd(directory(info)->stream);
  reply_status(request, (datasync ? ::fdatasync(fd) : ::fsync(fd)) == 0);
}

}  // namespace

void add_directory_ops(fuse_lowlevel_ops& ops) {
  ops.opendir = op_opendir;
  ops.readdir = op_readdir;
  ops.releasedir = op_releasedir;
  ops.fsyncdir = op_fsyncdir;
}

}  // namespace supervise::faults
