#include "supervisor/handlers/call_context.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "tracer/memory.h"

namespace supervise {
namespace {

// Arguments of the calls by name: which are (dirfd, path), and whether a final link is followed.
struct NameArg {
  int dirfd = -1;  // argument index; -1: AT_FDCWD
  int path = -1;
  bool follow = true;
};

int int_arg(const Args& a, int i) { return static_cast<int>(a[static_cast<std::size_t>(i)]); }

NameArg name_arg(const SyscallRow& row, const Args& args, int which) {
  NameArg n;
  int seen = 0;
  for (int i = 0; i < 6; ++i) {
    if (row.args[static_cast<std::size_t>(i)] != ArgKind::Path) continue;
    if (seen++ != which) continue;
    n.path = i;
    if (i > 0 && row.args[static_cast<std::size_t>(i - 1)] == ArgKind::DirFd) n.dirfd = i - 1;
    break;
  }
  switch (row.number) {
    case SYS_lstat: case SYS_readlink: case SYS_readlinkat: case SYS_unlink: case SYS_unlinkat:
    case SYS_rmdir: case SYS_rename: case SYS_renameat: case SYS_renameat2: case SYS_symlink:
    case SYS_symlinkat: case SYS_link: case SYS_lchown: case SYS_lgetxattr: case SYS_lsetxattr:
    case SYS_lremovexattr: case SYS_llistxattr: case SYS_mkdir: case SYS_mkdirat: case SYS_mknod:
    case SYS_mknodat:
      n.follow = false;
      break;
    case SYS_linkat:
      n.follow = which == 0 && (int_arg(args, 4) & AT_SYMLINK_FOLLOW);
      break;
    case SYS_newfstatat: case SYS_utimensat:
      n.follow = !(int_arg(args, 3) & AT_SYMLINK_NOFOLLOW);
      break;
    case SYS_fchownat:
      n.follow = !(int_arg(args, 4) & AT_SYMLINK_NOFOLLOW);
      break;
    case SYS_statx:
      n.follow = !(int_arg(args, 2) & AT_SYMLINK_NOFOLLOW);
      break;
    case SYS_openat: n.follow = !(int_arg(args, 2) & O_NOFOLLOW); break;
    case SYS_open: n.follow = !(int_arg(args, 1) & O_NOFOLLOW); break;
    default: break;
  }
  return n;
}

}  // namespace

Target resolve_arg(const StoragePaths& paths, const Task& task, const Args& args, int which) {
  const NameArg n = name_arg(*task.call->row, args, which);
  if (n.path < 0) return {};
  const std::uint64_t at = args[static_cast<std::size_t>(n.path)];
  const int dirfd = n.dirfd < 0 ? AT_FDCWD : int_arg(args, n.dirfd);
  if (at == 0) return paths.resolve(task.tid, dirfd, "", true);  // utimensat(fd, NULL)
  auto text = read_cstring(task.tid, at);
  if (!text) return {};
  return paths.resolve(task.tid, dirfd, *text, n.follow);
}

namespace {

bool opens_for_change(const Task& task) {
  const Call& c = *task.call;
  std::uint64_t flags = 0;
  switch (c.nr) {
    case SYS_creat: return true;
    case SYS_open: flags = c.args[1]; break;
    case SYS_openat: flags = c.args[2]; break;
    case SYS_openat2: {
      auto how = read_value<std::uint64_t>(task.tid, c.args[2]);
      flags = how ? *how : 0;
      break;
    }
    default: return false;
  }
  return (flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE;
}

}  // namespace

CallContext begin_call(const StoragePaths& paths, const Task& task) {
  CallContext ctx;
  const Call& call = *task.call;
  const SyscallRow& row = *call.row;
  const int fd_at = arg_index(row, ArgKind::Fd);
  const int path_at = arg_index(row, ArgKind::Path);

  if (path_at >= 0) {
    ctx.by_name = true;
    const bool changes = row.io == IoClass::Names || row.io == IoClass::Attributes ||
                         row.io == IoClass::Resize ||
                         (row.io == IoClass::Open && opens_for_change(task));
    if (changes) {
      ctx.target = resolve_arg(paths, task, call.args, 0);
      if (row.io == IoClass::Names) ctx.second = resolve_arg(paths, task, call.args, 1);
      ctx.path = ctx.target ? ctx.target.path : ctx.second.path;
    }
    if (ctx.path) ctx.entered = ctx.path->journal.now();
    return ctx;
  }
  if (fd_at >= 0) {
    for (int i = fd_at; i < 6 && !ctx.path; ++i) {
      if (row.args[static_cast<std::size_t>(i)] != ArgKind::Fd) continue;
      const int fd = int_arg(call.args, i);
      ctx.path = paths.of_fd(task.tid, fd, ctx.at_entry);
      if (ctx.path) ctx.fd = fd;
    }
    if (!ctx.path) return ctx;
    ctx.entered = ctx.path->journal.now();
    if (row.io == IoClass::Write || row.io == IoClass::Read || row.io == IoClass::Sync ||
        row.io == IoClass::Copy || row.io == IoClass::Resize || row.io == IoClass::Close ||
        row.io == IoClass::Attributes) {
      if (auto facts = facts_of_fd(task.tid, ctx.fd)) ctx.facts = *facts;
    }
    if (row.io == IoClass::Write)
      ctx.implicit_offset = call.nr == SYS_write || call.nr == SYS_writev ||
                            (ctx.at_entry.flags & O_APPEND) ||
                            (call.nr == SYS_pwritev2 && static_cast<long>(call.args[3]) == -1);
    if (row.io == IoClass::Copy) ctx.implicit_offset = true;
    return ctx;
  }
  if (row.io == IoClass::Sync && (call.nr == SYS_sync || call.nr == SYS_msync)) {
    // sync: every path; msync: the mapping tells. Both are looked at by the session.
    return ctx;
  }
  return ctx;
}

bool needs_exit_stop(const StoragePaths& paths, const Task& task, const CallContext& ctx) {
  const SyscallRow& row = *task.call->row;
  if (paths.empty() || !row.exit_stop) return false;
  if (ctx.by_name || ctx.path) return true;
  return task.call->nr == SYS_sync || task.call->nr == SYS_msync;
}

void resolve_late(const StoragePaths& paths, const Task& task, CallContext& ctx) {
  if (ctx.path || !ctx.by_name) return;
  ctx.target = resolve_arg(paths, task, task.call->args, 0);
  ctx.path = ctx.target.path;
  if (!ctx.path) {
    ctx.second = resolve_arg(paths, task, task.call->args, 1);
    ctx.path = ctx.second.path;
  }
}

bool is_applications_own(const Task& task, const CallContext& ctx, int err) {
  const Call& call = *task.call;
  switch (err) {
    case ENXIO:
      // lseek SEEK_DATA/SEEK_HOLE past the end; open of a FIFO without reader, of a socket.
      if (call.row->io == IoClass::Seek) return true;
      if (call.row->io == IoClass::Open && (!ctx.target || !ctx.target.is_regular)) return true;
      return false;
    case ENODEV:
      // open of a device node, mmap of what can't be mapped.
      return call.row->io == IoClass::Map ||
             (call.row->io == IoClass::Open && ctx.target.exists && !ctx.target.is_regular);
    case ENOSPC:
      // Attributes that are too large give ENOSPC on some file systems, however empty they are.
      return call.row->io == IoClass::Attributes;
    case EROFS:
      return ctx.path && ctx.path->read_only_at_start;
    default:
      return false;
  }
}

}  // namespace supervise
