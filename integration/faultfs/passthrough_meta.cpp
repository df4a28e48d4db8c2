// Names and attributes.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <vector>

#include "integration/faultfs/passthrough.h"

namespace supervise::faults {
namespace {

void op_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Inode* inode = inode_of(request, parent);
  auto verdict = judge(request, "lookup", *inode, name);
  if (verdict.error() != 0) return;
  fuse_entry_param entry;
  if (int error = look_up(request, *inode, name, entry))
    fuse_reply_err(request, error);
  else
    fuse_reply_entry(request, &entry);
}

void op_forget(fuse_req_t request, fuse_ino_t ino, uint64_t lookups) {
  if (ino != FUSE_ROOT_ID) self(request).inodes.forget(inode_of(request, ino), lookups);
  fuse_reply_none(request);
}

void op_forget_multi(fuse_req_t request, size_t count, fuse_forget_data* forgets) {
  for (size_t i = 0; i < count; ++i)
    if (forgets[i].ino != FUSE_ROOT_ID)
      self(request).inodes.forget(inode_of(request, forgets[i].ino), forgets[i].nlookup);
  fuse_reply_none(request);
}

void reply_attributes(fuse_req_t request, const Inode& inode) {
  struct stat st {};
  if (::fstatat(inode.fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0)
    fuse_reply_attr(request, &st, self(request).cache_seconds);
  else
    fuse_reply_err(request, errno);
}

void op_getattr(fuse_req_t request, fuse_ino_t ino, fuse_file_info*) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "getattr", *inode);
  if (verdict.error() == 0) reply_attributes(request, *inode);
}

const char* name_of_setattr(int what) {
  if (what & FUSE_SET_ATTR_SIZE) return "truncate";
  if (what & FUSE_SET_ATTR_MODE) return "chmod";
  if (what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) return "chown";
  return "utimens";
}

bool set_size(const Inode& inode, off_t size, const fuse_file_info* info) {
  return info ? ::ftruncate(static_cast<int>(info->fh), size) == 0
              : ::truncate(inode.proc_path().c_str(), size) == 0;
}

bool set_times(const Inode& inode, const struct stat& wanted, int what) {
  timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  if (what & FUSE_SET_ATTR_ATIME_NOW)
    times[0].tv_nsec = UTIME_NOW;
  else if (what & FUSE_SET_ATTR_ATIME)
    times[0] = wanted.st_atim;
  if (what & FUSE_SET_ATTR_MTIME_NOW)
    times[1].tv_nsec = UTIME_NOW;
  else if (what & FUSE_SET_ATTR_MTIME)
    times[1] = wanted.st_mtim;
  return ::utimensat(inode.fd, "", times, AT_EMPTY_PATH) == 0;
}

void op_setattr(fuse_req_t request, fuse_ino_t ino, struct stat* wanted, int what,
                fuse_file_info* info) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, name_of_setattr(what), *inode);
  if (verdict.error() != 0) return;
  constexpr int kOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
  constexpr int kTimes = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME;
  bool good = true;
  if (what & kOwner) {
    uid_t uid = what & FUSE_SET_ATTR_UID ? wanted->st_uid : static_cast<uid_t>(-1);
    gid_t gid = what & FUSE_SET_ATTR_GID ? wanted->st_gid : static_cast<gid_t>(-1);
    good = ::fchownat(inode->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0;
  }
  if (good && (what & FUSE_SET_ATTR_MODE))
    good = ::chmod(inode->proc_path().c_str(), wanted->st_mode) == 0;
  if (good && (what & FUSE_SET_ATTR_SIZE)) good = set_size(*inode, wanted->st_size, info);
  if (good && (what & kTimes)) good = set_times(*inode, *wanted, what);
  if (good)
    reply_attributes(request, *inode);
  else
    fuse_reply_err(request, errno);
}

void op_readlink(fuse_req_t request, fuse_ino_t ino) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "readlink", *inode);
  if (verdict.error() != 0) return;
  char target[PATH_MAX + 1];
  ssize_t n = ::readlinkat(inode->fd, "", target, PATH_MAX);
  if (n < 0) {
    fuse_reply_err(request, errno);
    return;
  }
  target[n] = '\0';
  fuse_reply_readlink(request, target);
}

void reply_new(fuse_req_t request, const Inode& parent, const char* name, bool made) {
  int error = made ? give_to_caller(request, parent.fd, name) : errno;
  fuse_entry_param entry;
  if (error == 0) error = look_up(request, parent, name, entry);
  if (error != 0)
    fuse_reply_err(request, error);
  else
    fuse_reply_entry(request, &entry);
}

void op_mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  Inode* inode = inode_of(request, parent);
  auto verdict = judge(request, "mkdir", *inode, name);
  if (verdict.error() == 0) reply_new(request, *inode, name, ::mkdirat(inode->fd, name, mode) == 0);
}

void op_mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t device) {
  Inode* inode = inode_of(request, parent);
  auto verdict = judge(request, "mknod", *inode, name);
  if (verdict.error() == 0)
    reply_new(request, *inode, name, ::mknodat(inode->fd, name, mode, device) == 0);
}

void op_symlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  Inode* inode = inode_of(request, parent);
  auto verdict = judge(request, "symlink", *inode, name);
  if (verdict.error() == 0)
    reply_new(request, *inode, name, ::symlinkat(target, inode->fd, name) == 0);
}

void op_link(fuse_req_t request, fuse_ino_t ino, fuse_ino_t new_parent, const char* new_name) {
  Inode* inode = inode_of(request, ino);
  Inode* parent = inode_of(request, new_parent);
  auto verdict = judge(request, "link", *parent, new_name);
  if (verdict.error() != 0) return;
  fuse_entry_param entry;
  int error = 0;
  if (::linkat(AT_FDCWD, inode->proc_path().c_str(), parent->fd, new_name, AT_SYMLINK_FOLLOW) != 0)
    error = errno;
  else
    error = look_up(request, *parent, new_name, entry);
  if (error != 0)
    fuse_reply_err(request, error);
  else
    fuse_reply_entry(request, &entry);
}

void op_unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Inode* inode = inode_of(request, parent);
  auto verdict = judge(request, "unlink", *inode, name);
  if (verdict.error() == 0) reply_status(request, ::unlinkat(inode->fd, name, 0) == 0);
}

void op_rmdir(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Inode* inode = inode_of(request, parent);
  auto verdict = judge(request, "rmdir", *inode, name);
  if (verdict.error() == 0) reply_status(request, ::unlinkat(inode->fd, name, AT_REMOVEDIR) == 0);
}

void op_rename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
               const char* new_name, unsigned flags) {
  Inode* from = inode_of(request, parent);
  auto verdict = judge(request, "rename", *from, name);
  if (verdict.error() != 0) return;
  reply_status(request, ::renameat2(from->fd, name, inode_of(request, new_parent)->fd, new_name,
                                    flags) == 0);
}

void op_statfs(fuse_req_t request, fuse_ino_t ino) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "statfs", *inode);
  if (verdict.error() != 0) return;
  struct statvfs fs {};
  if (::fstatvfs(inode->fd, &fs) == 0)
    fuse_reply_statfs(request, &fs);
  else
    fuse_reply_err(request, errno);
}

void op_setxattr(fuse_req_t request, fuse_ino_t ino, const char* name, const char* value,
                 size_t size, int flags) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "setxattr", *inode);
  if (verdict.error() == 0)
    reply_status(request, ::setxattr(inode->proc_path().c_str(), name, value, size, flags) == 0);
}

void op_removexattr(fuse_req_t request, fuse_ino_t ino, const char* name) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "removexattr", *inode);
  if (verdict.error() == 0)
    reply_status(request, ::removexattr(inode->proc_path().c_str(), name) == 0);
}

// With size 0 the caller asks how much room it needs.
void reply_xattr(fuse_req_t request, ssize_t result, size_t size, const std::vector<char>& value) {
  if (result < 0)
    fuse_reply_err(request, errno);
  else if (size == 0)
    fuse_reply_xattr(request, static_cast<size_t>(result));
  else
    fuse_reply_buf(request, value.data(), static_cast<size_t>(result));
}

void op_getxattr(fuse_req_t request, fuse_ino_t ino, const char* name, size_t size) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "getxattr", *inode);
  if (verdict.error() != 0) return;
  std::vector<char> value(size);
  reply_xattr(request, ::getxattr(inode->proc_path().c_str(), name, value.data(), size), size,
              value);
}

void op_listxattr(fuse_req_t request, fuse_ino_t ino, size_t size) {
  Inode* inode = inode_of(request, ino);
  auto verdict = judge(request, "listxattr", *inode);
  if (verdict.error() != 0) return;
  std::vector<char> names(size);
  reply_xattr(request, ::listxattr(inode->proc_path().c_str(), names.data(), size), size, names);
}

}  // namespace

void add_metadata_ops(fuse_lowlevel_ops& ops) {
  ops.lookup = op_lookup;
  ops.forget = op_forget;
  ops.forget_multi = op_forget_multi;
  ops.getattr = op_getattr;
  ops.setattr = op_setattr;
  ops.readlink = op_readlink;
  ops.mkdir = op_mkdir;
  ops.mknod = op_mknod;
  ops.symlink = op_symlink;
  ops.link = op_link;
  ops.unlink = op_unlink;
  ops.rmdir = op_rmdir;
  ops.rename = op_rename;
  ops.statfs = op_statfs;
  ops.setxattr = op_setxattr;
  ops.removexattr = op_removexattr;
  ops.getxattr = op_getxattr;
  ops.listxattr = op_listxattr;
}

}  // namespace supervise::faults
