// Calls that make, remove, rename and open files by name, that change size or attributes of open ones, and that move
// bytes from one descriptor to another: under the lock of the directory or file. Part of stub.cpp.
#pragma once

#include "tracer/stub/blob/on_descriptors.h"

namespace supervise::stub {
namespace {

uint64_t argument(const Area* a, unsigned i) {
  switch (i) {
    case 0: return a->rdi;
    case 1: return a->rsi;
    case 2: return a->rdx;
    case 3: return a->r10;
    case 4: return a->r8;
    default: return a->r9;
  }
}

// Elsewhere only when none of the call's names is on a storage path.
bool names_elsewhere(const Area* a, const Control* c, unsigned names) {
  if (!(c->flags & kByMount)) return false;
  for (; names != 0; names >>= 7) {
    const unsigned dir = names & 7, path = (names >> 3) & 7;
    if (path == 0) continue;
    const int dirfd = dir ? static_cast<int>(argument(a, dir - 1)) : kAtFdcwd;
    const auto* text = reinterpret_cast<const char*>(argument(a, path - 1));
    if (place_of_name(dirfd, text, names & 64, c).where != Place::Elsewhere) return false;
  }
  return true;
}

int on_name_change(Area* a, Control* c) {
  if (c->flags & kNoPaths) return native(a);
  return names_elsewhere(a, c, c->names[a->rax]) ? native(a) : kThroughSlot;
}

// The end of a call that has the lock of a file or directory: `recorded` is false when the ring was full.
[[gnu::noinline]] int finish(Area* a, Control* c, bool recorded, bool half) {
  if (!recorded) stub_report(a);  // which gives the lock back
  a->stage = kDone;
  Env env;
  release(a, c, env);
  if (half) stub_report(a);  // the supervisor takes what is there
  return kMade;
}

// From one descriptor to another. What came to a storage path is nowhere in memory: the supervisor reads it
// back before the call returns.
int on_two_fds(Area* a, Control* c) {
  if (c->flags & kNoPaths) return native(a);
  const long number = static_cast<long>(a->rax);
  const bool clones = number == nr::ioctl;
  if (clones && a->rsi != kFiClone) return kThroughSlot;
  const bool out_first = number == nr::sendfile || clones;
  const int in = static_cast<int>(clones ? a->rdx : out_first ? a->rsi : a->rdi);
  const int out = static_cast<int>(out_first ? a->rdi : number == nr::tee ? a->rsi : a->rdx);
  if (!fd_known(in) || !fd_known(out)) return kThroughSlot;
  const uint32_t from = know(c, in).cls, to = know(c, out).cls;
  if (from == kForeign && to == kForeign) return native(a);
  const bool reads = from == kForeign || from >= kDeclaredRead;
  if (!reads || !journaled(c) || (to != kForeign && to < kFirstDescription)) return kThroughSlot;
  if (to == kForeign) {
    mark(a, c, from);
    return native_told(a, c);
  }
  mark(a, c, to);
  const Description d = c->descriptions[(to - kFirstDescription) % kDescriptions];
  if (d.file >= kFiles) return kThroughSlot;
  Env env;
  a->file_held = d.file + 1u;
  lock(&c->files[d.file].lock, a->tid, env);
  stub_native(a);
  return finish(a, c, a->result < 0 ? !told(c, a->result) : !clones && a->result == 0, false);
}

// The directory's lock is had, facts are known.
int finish_names(Area* a, Control* c, const Dir& dir, RecordKind kind, const Split& name, const Split* second) {
  if (a->result < 0) return finish(a, c, !told(c, a->result), false);
  lost_name(c, a->facts[0].ino, dir.path);
  if (a->facts[1].mode) lost_name(c, a->facts[1].ino, dir.path);
  NameChange change{};
  change.ino = a->facts[0].ino;
  change.mode = a->facts[0].mode;
  change.links = a->facts[0].links;
  change.replaced_ino = a->facts[1].ino;
  change.replaced_mode = a->facts[1].mode;
  change.replaced_links = a->facts[1].links;
  change.name = static_cast<uint16_t>(name.last_length);
  if (second) change.second = static_cast<uint16_t>(second->last_length);
  const Part parts[kParts] = {{&change, sizeof change},
                              {name.last, name.last_length},
                              {second ? second->last : nullptr, second ? second->last_length : 0}};
  Env env;
  bool half = false;
  const bool recorded = append_change(c, ring(), a, env, kind, 0, dir.file, parts, &half);
  return finish(a, c, recorded, half);
}

int on_unlink(Area* a, Control* c) {
  if (c->flags & kNoPaths) return native(a);
  const bool at = static_cast<long>(a->rax) == nr::unlinkat;
  const int dirfd = at ? static_cast<int>(a->rdi) : kAtFdcwd;
  const auto* path = reinterpret_cast<const char*>(at ? a->rsi : a->rdi);
  if (names_elsewhere(a, c, c->names[a->rax])) return native(a);
  Split name;
  Dir dir{};
  const bool here = journaled(c) && !(at && a->rdx != 0) && split(path, name) && (dir = dir_of(c, dirfd, name)).known;
  if (!here) return kThroughSlot;
  Env env;
  acquire(a, c, dir, env);
  if (!look_at_name(a, c, dir, dirfd, path, 0) || a->facts[0].mode == 0 || is_dir(a->facts[0].mode)) {
    release(a, c, env);
    return kThroughSlot;
  }
  stub_native(a);
  return finish_names(a, c, dir, kUnlink, name, nullptr);
}

int on_rename(Area* a, Control* c) {
  if (c->flags & kNoPaths) return native(a);
  const bool at = static_cast<long>(a->rax) != nr::rename;
  const int from_dir = at ? static_cast<int>(a->rdi) : kAtFdcwd, to_dir = at ? static_cast<int>(a->rdx) : kAtFdcwd;
  const auto* from = reinterpret_cast<const char*>(at ? a->rsi : a->rdi);
  const auto* to = reinterpret_cast<const char*>(at ? a->r10 : a->rsi);
  const bool plain = static_cast<long>(a->rax) != nr::renameat2 || (a->r8 & ~uint64_t{1} /* RENAME_NOREPLACE */) == 0;
  if (names_elsewhere(a, c, c->names[a->rax])) return native(a);
  Split name, second;
  Dir dir{};
  struct statx sx;
  const bool here = journaled(c) && plain && stat_at(to_dir, to, kSymlinkNofollow, STATX_TYPE, sx) != kEfault && split(from, name) &&
                    split(to, second) && (dir = dir_of(c, from_dir, name)).known && dir.same(dir_of(c, to_dir, second));
  if (!here) return kThroughSlot;
  Env env;
  acquire(a, c, dir, env);
  // Two links of one file: nothing happens.
  if (!look_at_name(a, c, dir, from_dir, from, 0) || a->facts[0].mode == 0 || is_dir(a->facts[0].mode) ||
      !look_at_name(a, c, dir, to_dir, to, 1) || is_dir(a->facts[1].mode) || a->facts[0].ino == a->facts[1].ino) {
    release(a, c, env);
    return kThroughSlot;
  }
  stub_native(a);
  return finish_names(a, c, dir, kRename, name, &second);
}

// Size and attributes of an open file.
int on_change_of_fd(Area* a, Control* c) {
  const long number = static_cast<long>(a->rax);
  const long fd = static_cast<int>(a->rdi);
  if (c->flags & kNoPaths) return native(a);
  if (number == nr::utimensat && a->rsi != 0) return on_name_change(a, c);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  const Known k = know(c, static_cast<int>(fd));
  if (k.cls == kForeign) return native(a);
  if (k.cls == kUnknown) return traced(a, static_cast<int>(fd), k.seen);
  if (k.cls < kFirstDescription || !journaled(c)) return kThroughSlot;
  mark(a, c, k.cls);
  const Description d = c->descriptions[(k.cls - kFirstDescription) % kDescriptions];
  if (d.file >= kFiles) return kThroughSlot;
  Env env;
  a->file_held = d.file + 1u;
  lock(&c->files[d.file].lock, a->tid, env);
  stub_native(a);
  if (a->result < 0) return finish(a, c, !told(c, a->result), false);
  bool half = false;
  if (number == nr::ftruncate) return finish(a, c, append_resize(c, ring(), a, env, d.file, a->rsi, &half), half);
  struct statx sx;
  if (stat_at(static_cast<int>(fd), "", kEmptyPath, STATX_BASIC_STATS, sx) != 0) return finish(a, c, false, false);
  Attributes now{};
  now.what = number == nr::fchmod ? kChangedMode : number == nr::fchown ? kChangedMode | kChangedOwner : kChangedTimes;
  now.mode = sx.stx_mode;
  now.uid = sx.stx_uid;
  now.gid = sx.stx_gid;
  now.atime_sec = sx.stx_atime.tv_sec;
  now.atime_nsec = sx.stx_atime.tv_nsec;
  now.mtime_sec = sx.stx_mtime.tv_sec;
  now.mtime_nsec = sx.stx_mtime.tv_nsec;
  const Part parts[kParts] = {{&now, sizeof now}, {}, {}};
  return finish(a, c, append_change(c, ring(), a, env, kAttributes, 0, d.file, parts, &half), half);
}

enum : uint64_t { kOpenCreate = 0100, kTruncate = 01000, kOpenAppend = 02000, kOpenDataSync = 010000, kAccess = 3,
                  kNoFollow = 0400000, kTmpfile = 020000000 };

// What came of an open in a directory whose lock is had: a file was made, truncated, or only opened. False: the
// supervisor has to look.
bool learn_opened(Area* a, Control* c, const Dir& dir, int dirfd, const Split& name, uint64_t flags, bool* half) {
  const bool existed = a->facts[0].mode != 0;
  const int fd = static_cast<int>(a->result);
  const bool table = fd_known(fd);
  const uint32_t seen = table ? look_at_new(fd) : 0;
  struct statx sx;
  if (stat_at(fd, "", kEmptyPath, STATX_BASIC_STATS | STATX_MNT_ID, sx) != 0) return false;
  const Place p = place_of(sx, c);
  // What the names lead to may have been changed meanwhile by who moves directories.
  if (p.where != Place::OnPath || p.path != dir.path || (p.mode & 0170000) != 0100000 || !dir.same(dir_of(c, dirfd, name)) ||
      (existed && sx.stx_ino != a->facts[0].ino))
    return false;
  const bool reads = (flags & kAccess) == 0 && kDeclaredRead + p.path < kFirstDescription;
  const uint8_t marks = (flags & kOpenAppend ? unsigned{kAppend} : 0u) | (flags & kOpenDataSync ? unsigned{kDataSync} : 0u);
  uint32_t cls = reads ? kDeclaredRead + p.path : existed ? class_of_named(c, sx.stx_ino, dir, name, marks) : uint32_t{kUnknown};
  if (existed && !(flags & kTruncate)) {
    if (table && cls != kUnknown) learn(fd, seen, cls);
    return true;
  }
  NameChange change{};
  change.ino = sx.stx_ino;
  change.mode = sx.stx_mode;
  change.links = sx.stx_nlink;
  change.uid = sx.stx_uid;
  change.gid = sx.stx_gid;
  change.name = static_cast<uint16_t>(name.last_length);
  if (!existed && new_file(c, sx.stx_ino, dir, name, marks, change) && !reads) cls = kFirstDescription + change.description - 1;
  const Part parts[kParts] = {{&change, sizeof change}, {name.last, name.last_length}, {}};
  Env env;
  if (!append_change(c, ring(), a, env, kCreate, existed ? unsigned{kRecordExisted} : 0u, dir.file, parts, half)) return false;
  if (change.file) remember_inode(c, change.file - 1);
  if (table && cls != kUnknown) learn(fd, seen, cls);
  return true;
}

// In a directory that the supervisor knows. kThroughSlot: it has to decide.
int open_in_dir(Area* a, Control* c, int dirfd, const char* path, const Split& name, const Dir& dir, uint64_t flags) {
  Env env;
  acquire(a, c, dir, env);
  if (!look_at_name(a, c, dir, dirfd, path, 0) || (a->facts[0].mode != 0 && (a->facts[0].mode & 0170000) != 0100000)) {
    release(a, c, env);
    return kThroughSlot;
  }
  stub_native(a);
  if (a->result < 0) return finish(a, c, !told(c, a->result), false);
  bool half = false;
  const bool learned = learn_opened(a, c, dir, dirfd, name, flags, &half);
  return finish(a, c, learned, half);
}

int on_open(Area* a, Control* c) {
  if (c->flags & kNoPaths) return native(a);
  if (!(c->flags & kByMount)) return kThroughSlot;
  const long number = static_cast<long>(a->rax);
  const uint64_t flags = number == nr::creat ? kOpenCreate | kTruncate | 1 : number == nr::open ? a->rsi : a->rdx;
  if (flags & (kOpenCreate | kTruncate | kTmpfile)) {
    const bool at = number == nr::openat;
    const int dirfd = at ? static_cast<int>(a->rdi) : kAtFdcwd;
    const auto* path = reinterpret_cast<const char*>(at ? a->rsi : a->rdi);
    Split name;
    Dir dir{};
    struct statx sx;
    const long r = stat_at(dirfd, path, kSymlinkNofollow, STATX_TYPE | STATX_MNT_ID, sx);
    if (path && (r == 0 || r == kEnoent) && journaled(c) && !(flags & kTmpfile) &&
        (r != 0 || place_of(sx, c).where == Place::OnPath) && split(path, name) && (dir = dir_of(c, dirfd, name)).known)
      return open_in_dir(a, c, dirfd, path, name, dir, flags);
    const bool plain = r == 0 && (sx.stx_mode & 0170000) != 0120000;
    if ((plain ? place_of(sx, c) : place_of_name(dirfd, path, !(flags & kNoFollow), c)).where != Place::Elsewhere) return kThroughSlot;
  }
  stub_native(a);
  if (a->result < 0) {
    if (told(c, a->result)) stub_report(a);
    else a->stage = kDone;
    return kMade;
  }
  if (fd_known(a->result)) {
    const int fd = static_cast<int>(a->result);
    const uint32_t seen = look_at_new(fd);
    const Place p = place_of_fd(fd, c);
    if (p.where == Place::Elsewhere) {
      learn(fd, seen, kForeign);
    } else if (flags & (kOpenCreate | kTruncate | kTmpfile)) {
      stub_report(a);  // the name has changed under us: it is on a path after all
      return kMade;
    } else if (p.where == Place::OnPath && (flags & kAccess) == 0 &&
               ((p.mode & 0170000) == 0100000 || (p.mode & 0170000) == 0040000) &&
               kDeclaredRead + p.path < kFirstDescription) {
      learn(fd, seen, kDeclaredRead + p.path);
    }
  }
  a->stage = kDone;
  return kMade;
}

}  // namespace
}  // namespace supervise::stub
