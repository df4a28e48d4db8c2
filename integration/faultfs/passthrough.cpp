#include "integration/faultfs/passthrough.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include <fmt/format.h>

namespace supervise::faults {

std::string Inode::proc_path() const { return fmt::format("/proc/self/fd/{}", fd); }

std::string Inode::path() const {
  char buffer[PATH_MAX];
  ssize_t n = ::readlink(proc_path().c_str(), buffer, sizeof buffer);
  return n < 0 ? std::string() : std::string(buffer, static_cast<std::size_t>(n));
}

Inode* InodeTable::intern(int fd, const struct stat& st) {
  std::lock_guard lock(mutex_);
  auto& slot = inodes_[{st.st_dev, st.st_ino}];
  if (slot)
    ::close(fd);
  else
    slot = new Inode{fd, st.st_dev, st.st_ino, 0};
  ++slot->lookups;
  return slot;
}

void InodeTable::forget(Inode* inode, std::uint64_t lookups) {
  std::lock_guard lock(mutex_);
  inode->lookups -= std::min(lookups, inode->lookups);
  if (inode->lookups > 0) return;
  inodes_.erase({inode->device, inode->number});
  ::close(inode->fd);
  delete inode;
}

Passthrough& self(fuse_req_t request) {
  return *static_cast<Passthrough*>(fuse_req_userdata(request));
}

Inode* inode_of(fuse_req_t request, fuse_ino_t ino) {
  return ino == FUSE_ROOT_ID ? &self(request).root : reinterpret_cast<Inode*>(ino);
}

Verdict judge(fuse_req_t request, std::string_view op, const Inode& inode, const char* child,
              std::optional<ByteRange> range) {
  auto path = [&] { return child ? inode.path() + "/" + child : inode.path(); };
  auto verdict = self(request).rules.check(op, range, path);
  if (verdict.error() != 0) fuse_reply_err(request, verdict.error());
  return verdict;
}

void reply_status(fuse_req_t request, bool good) { fuse_reply_err(request, good ? 0 : errno); }

int look_up(fuse_req_t request, const Inode& parent, const char* name, fuse_entry_param& entry) {
  entry = {};
  int fd = ::openat(parent.fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return errno;
  if (::fstat(fd, &entry.attr) != 0) {
    int saved = errno;
    ::close(fd);
    return saved;
  }
  auto& fs = self(request);
  entry.attr_timeout = entry.entry_timeout = fs.cache_seconds;
  entry.ino = reinterpret_cast<fuse_ino_t>(fs.inodes.intern(fd, entry.attr));
  return 0;
}

int give_to_caller(fuse_req_t request, int parent_fd, const char* name) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  if (caller->uid == 0 && caller->gid == 0) return 0;
  struct stat parent {};
  // A directory with the set-group-ID bit gives its own group to what is made in it.
  bool keep_group = ::fstat(parent_fd, &parent) == 0 && (parent.st_mode & S_ISGID);
  gid_t group = keep_group ? static_cast<gid_t>(-1) : caller->gid;
  return ::fchownat(parent_fd, name, caller->uid, group, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
}

}  // namespace supervise::faults
