// What a call that succeeded changed on a storage path, told to its journal.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "supervisor/base/unique_fd.h"
#include "supervisor/handlers/call_context.h"
#include "tracer/memory.h"

#ifndef RWF_DSYNC
#define RWF_DSYNC 0x2
#define RWF_SYNC 0x4
#endif

namespace supervise {
namespace {

// Inode numbers are unique within a path; the device is left out, since it changes at a switch.
InodeKey key_of(std::uint64_t ino) { return {0, ino}; }

struct Open {  // an open regular file on the path
  InodeKey key;
  std::string name;
  bool deleted = false;
  bool as_at_entry = false;  // facts are those before the call
  FileFacts facts;
};

// `at_entry`: in its stead where the file system was shut down since, and tells nothing any more.
std::optional<Open> open_file(const StoragePath& path, pid_t tid, int fd,
                              const FileFacts* at_entry = nullptr) {
  Open f;
  auto facts = facts_of_fd(tid, fd);
  if (!facts && at_entry && at_entry->ino != 0) {
    FileFacts known = *at_entry;
    const FileState* state = path.journal.find(key_of(known.ino));
    if (state && state->size) known.size = std::max(known.size, *state->size);
    facts = known;
    f.as_at_entry = true;
  }
  if (!facts || !S_ISREG(facts->mode)) return std::nullopt;
  auto name = StoragePaths::name_of_fd(tid, fd, path, f.deleted);
  if (!name) return std::nullopt;
  f.name = name.take();
  // FUSE and NFS drop a name that they could not look up: it reads "(deleted)" and is not.
  f.deleted = f.deleted && facts->nlink == 0;
  f.facts = *facts;
  f.key = key_of(facts->ino);
  return f;
}

// A file without a name stays known by its inode alone.
void note_deleted(Journal& journal, const Open& f) {
  if (!f.deleted) return;
  const FileState* state = journal.find(f.key);
  if (state && std::find(state->names.begin(), state->names.end(), f.name) != state->names.end())
    journal.unlinked(f.name);
}

// The kernel's own copy of what it wrote: for calls whose bytes are not in the caller's memory.
void learn_by_reading(Journal& journal, pid_t tid, int fd, const Open& f, std::uint64_t offset,
                      std::uint64_t length) {
  UniqueFd in(open(("/proc/" + std::to_string(tid) + "/fd/" + std::to_string(fd)).c_str(),
                   O_RDONLY | O_CLOEXEC));
  std::vector<std::byte> chunk;
  while (length > 0) {
    chunk.resize(std::min<std::uint64_t>(length, 1 << 20));
    const ssize_t n = in ? pread(in.get(), chunk.data(), chunk.size(), static_cast<off_t>(offset)) : -1;
    if (n <= 0) {
      journal.wrote_range(f.key, f.name, offset, length, f.facts.size);
      return;
    }
    chunk.resize(static_cast<std::size_t>(n));
    journal.wrote(f.key, f.name, offset, chunk, f.facts.size);
    offset += static_cast<std::uint64_t>(n);
    length -= static_cast<std::uint64_t>(n);
  }
}

void learn_write(const Task& task, const Args& args, CallContext& ctx, std::uint64_t done) {
  if (done == 0) return;
  auto f = open_file(*ctx.path, task.tid, ctx.fd, &ctx.facts);
  if (!f) return;
  const int nr = task.call->nr;
  auto info = fd_info(task.tid, ctx.fd);
  const int flags = info ? info->flags : ctx.at_entry.flags;
  const bool positioned = nr == SYS_pwrite64 || nr == SYS_pwritev ||
                          (nr == SYS_pwritev2 && static_cast<long>(args[3]) != -1);
  std::uint64_t offset = 0;
  if (!positioned) offset = (info ? info->pos : ctx.at_entry.pos + done) - done;
  else if (flags & O_APPEND)
    offset = f->as_at_entry ? f->facts.size : f->facts.size - std::min(done, f->facts.size);
  else offset = args[3];
  bool durable = flags & O_DSYNC;
  if (nr == SYS_pwritev2 && (args[5] & (RWF_DSYNC | RWF_SYNC))) durable = true;

  Journal& journal = ctx.path->journal;
  const std::uint64_t size = std::max(f->facts.size, offset + done);
  Result<std::vector<std::byte>> bytes = plain_error("");
  if (nr == SYS_write || nr == SYS_pwrite64) {
    bytes = gather(task.tid, {{args[1], done}}, done);
  } else if (auto vectors = read_iovecs(task.tid, args[1], args[2])) {
    bytes = gather(task.tid, *vectors, done);
  }
  if (bytes) journal.wrote(f->key, f->name, offset, *bytes, size, durable);
  else learn_by_reading(journal, task.tid, ctx.fd, *f, offset, done);
  note_deleted(journal, *f);
}

void learn_copy(StoragePaths& paths, const Task& task, const Args& args, std::uint64_t done) {
  int out = -1;
  std::uint64_t offset_ptr = 0;
  bool whole = false;
  switch (task.call->nr) {
    case SYS_sendfile: out = static_cast<int>(args[0]); break;
    case SYS_copy_file_range:
    case SYS_splice:
      out = static_cast<int>(args[2]);
      offset_ptr = args[3];
      break;
    case SYS_ioctl:
      out = static_cast<int>(args[0]);
      whole = true;
      break;
    default: return;
  }
  FdInfo info;
  StoragePath* path = paths.of_fd(task.tid, out, info);
  if (!path) return;
  auto f = open_file(*path, task.tid, out);
  if (!f) return;
  if (whole) {
    path->journal.resized(f->key, f->name, f->facts.size);
    learn_by_reading(path->journal, task.tid, out, *f, 0, f->facts.size);
  } else if (done > 0) {
    std::uint64_t end = info.pos;
    if (offset_ptr) {
      auto value = read_value<std::uint64_t>(task.tid, offset_ptr);
      if (value) end = *value;
    }
    learn_by_reading(path->journal, task.tid, out, *f, end - done, done);
  }
  note_deleted(path->journal, *f);
}

void learn_sync(const Task& task, CallContext& ctx) {
  if (!ctx.path || ctx.fd < 0) return;
  Journal& journal = ctx.path->journal;
  switch (task.call->nr) {
    case SYS_fsync:
    case SYS_fdatasync:
      if (S_ISDIR(ctx.facts.mode)) {
        bool deleted = false;
        auto name = StoragePaths::name_of_fd(task.tid, ctx.fd, *ctx.path, deleted);
        if (name && !deleted) journal.synced_directory(*name, ctx.entered);
      } else {
        journal.synced_file(key_of(ctx.facts.ino), ctx.entered, task.call->nr == SYS_fsync);
      }
      break;
    case SYS_syncfs: journal.synced_all(ctx.entered); break;
    default: break;  // sync_file_range and msync promise no durability of what is needed to find it
  }
}

void learn_resize(const Task& task, const Args& args, CallContext& ctx) {
  Journal& journal = ctx.path->journal;
  const int nr = task.call->nr;
  if (nr == SYS_truncate) {
    if (ctx.target.exists)
      journal.resized(key_of(ctx.target.ino), ctx.target.name, args[1]);
    return;
  }
  auto f = open_file(*ctx.path, task.tid, ctx.fd, &ctx.facts);
  if (!f) return;
  if (nr == SYS_ftruncate) {
    journal.resized(f->key, f->name, args[1]);
  } else if (nr == SYS_fallocate) {
    const int mode = static_cast<int>(args[1]);
    if (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) {
      journal.resized(f->key, f->name, f->facts.size);
      if (args[2] < f->facts.size)
        learn_by_reading(journal, task.tid, ctx.fd, *f, args[2], f->facts.size - args[2]);
    } else if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
      journal.zeroed(f->key, f->name, args[2], args[3], f->facts.size);
    } else if (!(mode & FALLOC_FL_KEEP_SIZE) && f->facts.size != ctx.facts.size) {
      journal.resized(f->key, f->name, f->facts.size);
    }
  }
  note_deleted(journal, *f);
}

void learn_open(StoragePaths& paths, const Task& task, const Args& args, CallContext& ctx,
                int fd) {
  std::uint64_t flags = 0;
  switch (task.call->nr) {
    case SYS_creat: flags = O_CREAT | O_TRUNC | O_WRONLY; break;
    case SYS_open: flags = args[1]; break;
    case SYS_openat: flags = args[2]; break;
    case SYS_openat2: flags = read_value<std::uint64_t>(task.tid, args[2]).value_or(0); break;
    default: break;
  }
  const bool tmpfile = (flags & O_TMPFILE) == O_TMPFILE;
  if (!tmpfile && !(flags & (O_CREAT | O_TRUNC))) return;
  FdInfo info;
  StoragePath* path = paths.of_fd(task.tid, fd, info);
  if (!path) return;
  auto f = open_file(*path, task.tid, fd);
  if (!f) return;
  const bool created = tmpfile || ((flags & O_CREAT) && !ctx.target.exists);
  if (created) {
    path->journal.created(f->key, f->name, NodeKind::Regular, f->facts.mode & 07777, f->facts.uid,
                          f->facts.gid);
    if (tmpfile) path->journal.unlinked(f->name);
  } else if (flags & O_TRUNC) {
    path->journal.resized(f->key, f->name, 0);
  }
}

NodeKind kind_of(mode_t mode) {
  if (S_ISREG(mode)) return NodeKind::Regular;
  if (S_ISDIR(mode)) return NodeKind::Directory;
  if (S_ISLNK(mode)) return NodeKind::Symlink;
  if (S_ISFIFO(mode)) return NodeKind::Fifo;
  return NodeKind::Other;
}

// Of the file that loses this name.
std::optional<std::uint64_t> links_left(const Target& t) {
  if (!t.exists || t.links == 0) return std::nullopt;
  return t.is_dir ? 0 : t.links - 1;
}

void learn_names(StoragePaths& paths, const Task& task, const Args& args, CallContext& ctx) {
  Journal& journal = ctx.path->journal;
  const Target& from = ctx.target;
  const Target& to = ctx.second;
  switch (task.call->nr) {
    case SYS_rename: case SYS_renameat: case SYS_renameat2: {
      if (!from || !to || (to.exists && to.ino == from.ino)) return;
      const bool exchange = task.call->nr == SYS_renameat2 && (args[4] & 2 /* RENAME_EXCHANGE */);
      if (from.exists) journal.seen(key_of(from.ino), from.name, kind_of(from.mode));
      if (exchange && to.exists) journal.seen(key_of(to.ino), to.name, kind_of(to.mode));
      journal.renamed(from.name, to.name, exchange, links_left(to));
      return;
    }
    case SYS_unlink: case SYS_unlinkat: case SYS_rmdir:
      if (from) {
        if (from.exists) journal.seen(key_of(from.ino), from.name, kind_of(from.mode));
        journal.unlinked(from.name, links_left(from));
      }
      return;
    case SYS_link: case SYS_linkat: {
      if (!to) return;
      const std::uint64_t ino = from.exists ? from.ino : resolve_arg(paths, task, args, 1).ino;
      if (from.exists) journal.seen(key_of(ino), from.name, kind_of(from.mode));
      journal.linked(key_of(ino), from.name, to.name);
      return;
    }
    case SYS_symlink: case SYS_symlinkat: {
      const Target now = resolve_arg(paths, task, args, 0);
      auto text = read_cstring(task.tid, args[0]);
      if (now && now.exists && text)
        journal.created(key_of(now.ino), now.name, NodeKind::Symlink, 0777, now.uid, now.gid,
                        *text);
      return;
    }
    case SYS_mkdir: case SYS_mkdirat: case SYS_mknod: case SYS_mknodat: {
      const Target now = resolve_arg(paths, task, args, 0);
      if (now && now.exists)
        journal.created(key_of(now.ino), now.name, kind_of(now.mode), now.mode & 07777, now.uid,
                        now.gid);
      return;
    }
    default: return;
  }
}

void learn_attributes(StoragePaths& paths, const Task& task, const Args& args, CallContext& ctx) {
  Journal& journal = ctx.path->journal;
  const SyscallRow& row = *task.call->row;
  Target now;
  if (ctx.by_name) {
    now = resolve_arg(paths, task, args, 0);
  } else {
    bool deleted = false;
    auto of = StoragePaths::name_of_fd(task.tid, ctx.fd, *ctx.path, deleted);
    auto facts = facts_of_fd(task.tid, ctx.fd);
    if (!of || !facts || deleted) return;
    now.path = ctx.path;
    now.name = *of;
    now.exists = true;
    now.ino = facts->ino;
    now.mode = facts->mode;
    now.uid = facts->uid;
    now.gid = facts->gid;
  }
  if (!now || !now.exists || now.path != ctx.path) return;
  const InodeKey key = key_of(now.ino);
  const std::string_view call = row.name;
  if (call.find("chmod") != call.npos) {
    journal.attributes(key, now.name, now.mode & 07777, std::nullopt, std::nullopt);
  } else if (call.find("chown") != call.npos) {
    journal.attributes(key, now.name, now.mode & 07777, now.uid, now.gid);
  } else if (call.find("xattr") != call.npos) {
    auto attribute = read_cstring(task.tid, args[1], 256);
    if (!attribute) return;
    if (call.find("remove") != call.npos) {
      journal.xattr(key, now.name, *attribute, std::nullopt);
    } else if (auto value = gather(task.tid, {{args[2], args[3]}}, args[3])) {
      journal.xattr(key, now.name, *attribute,
                    std::string(reinterpret_cast<const char*>(value->data()), value->size()));
    }
  } else if (call.find("utime") != call.npos) {
    journal.times(key, now.name, now.atime, now.mtime);
  }
}

}  // namespace

void learn_success(StoragePaths& paths, const Task& task, const Args& args, CallContext& ctx,
                   long result) {
  if (result < 0) return;
  switch (task.call->row->io) {
    case IoClass::Open:
      learn_open(paths, task, args, ctx, static_cast<int>(result));
      break;
    case IoClass::Copy:
      learn_copy(paths, task, args, static_cast<std::uint64_t>(result));
      break;
    case IoClass::Map:
      // A mapping of a descriptor that is open for writing can be made writable at any time.
      if (ctx.path && task.call->nr == SYS_mmap && (args[3] & MAP_TYPE) != MAP_PRIVATE &&
          (ctx.at_entry.flags & O_ACCMODE) == O_RDWR)
        ctx.path->mapped.insert(ctx.at_entry.ino);
      break;
    case IoClass::Sync: learn_sync(task, ctx); break;
    case IoClass::Write:
      if (ctx.path) learn_write(task, args, ctx, static_cast<std::uint64_t>(result));
      break;
    case IoClass::Resize:
      if (ctx.path) learn_resize(task, args, ctx);
      break;
    case IoClass::Names:
      if (ctx.path) learn_names(paths, task, args, ctx);
      break;
    case IoClass::Attributes:
      if (ctx.path) learn_attributes(paths, task, args, ctx);
      break;
    default: break;
  }
}

bool wants_more(const Task& task, const Args& original, const CallContext& ctx, long result,
                std::uint64_t done) {
  if (!ctx.path || ctx.fd < 0 || !S_ISREG(ctx.facts.mode) || result < 0) return false;
  const int nr = task.call->nr;
  const bool write = nr == SYS_write || nr == SYS_pwrite64;
  const bool read = nr == SYS_read || nr == SYS_pread64;
  if ((!write && !read) || done >= original[2]) return false;
  if (write) return result > 0;
  if (result == 0) return false;
  // A short read is complete at the end of the file only.
  auto facts = facts_of_fd(task.tid, ctx.fd);
  const std::uint64_t at = nr == SYS_pread64 ? original[3] + done : 0;
  auto info = fd_info(task.tid, ctx.fd);
  const std::uint64_t pos = nr == SYS_pread64 ? at : (info ? info->pos : 0);
  return facts && info && pos < facts->size;
}

}  // namespace supervise
