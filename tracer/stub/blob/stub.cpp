// What happens to a call at a patched site. Decides from the control block and the descriptor table: make
// it here, let the supervisor decide (a traced call), or make it here and report what came. The supervisor
// can take the thread out at any instruction (layout.h, Stage): nothing here may need to be finished.
#include <stddef.h>

#include "tracer/stub/blob/calls.h"
#include "tracer/stub/blob/names.h"
#include "tracer/stub/ring_writer.h"

namespace supervise::stub {
namespace {

static_assert(offsetof(Area, rax) == 0 && offsetof(Area, rdi) == 8 && offsetof(Area, r9) == 48);
static_assert(offsetof(Area, rsp) == 56 && offsetof(Area, rbx) == 64 && offsetof(Area, r15) == 104);
static_assert(offsetof(Area, slot) == 112 && offsetof(Area, result) == 120 && offsetof(Area, stage) == 128);
static_assert(offsetof(BootMap, size) == 8 && offsetof(BootMap, prot) == 16 && offsetof(BootMap, result) == 24);
static_assert(offsetof(Area, trap_kind) == 132 && kAreaSize == 8192 && kAreasSize == 1u << 25);

enum Way : int { kMade = 0, kThroughSlot = 1 };

bool told(const Control* c, long result) {
  if (result >= 0 || result < -255) return false;
  const auto e = static_cast<unsigned long>(-result);
  return (c->errnos[e / 64] >> (e % 64)) & 1;
}

int native(Area* a) {
  stub_native(a);
  a->stage = kDone;
  return kMade;
}

// The supervisor hears of an error that it may have to repair. stub_report does not return: the thread goes
// on at the site, or wherever the supervisor sends it.
int native_told(Area* a, Control* c) {
  stub_native(a);
  if (told(c, a->result)) stub_report(a);
  else a->stage = kDone;
  return kMade;
}

// By the supervisor, who says on the way what the descriptor is.
int traced(Area* a, int fd, uint32_t seen) {
  a->hint = 0;
  stub_traced(a);
  if (a->hint) learn(fd, seen, a->hint);
  return kMade;
}

struct Known {
  uint32_t cls = kUnknown;
  uint32_t seen = 0;
};

// kUnknown: only the supervisor can tell.
Known know(const Control* c, int fd) {
  Known k;
  k.seen = look(fd);
  k.cls = class_of(k.seen);
  if (k.cls != kUnknown || !(c->flags & kByMount)) return k;
  if (place_of_fd(fd, c).where == Place::Elsewhere) {
    learn(fd, k.seen, kForeign);
    k.cls = kForeign;
  }
  return k;
}

void mark(Area* a, const Control* c, uint32_t cls) {
  if (cls >= kFirstDescription) {
    const Description& d = c->descriptions[(cls - kFirstDescription) % kDescriptions];
    a->path = d.path + 1u;
    a->file = d.file + 1u;
  } else if (cls >= kDeclaredRead) {
    a->path = cls - kDeclaredRead + 1;
  }
}

// Calls on one descriptor. `own`: its success on a storage path is nobody's business.
int on_fd(Area* a, Control* c, long fd, bool own) {
  if (c->flags & kNoPaths) return native(a);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  const Known k = know(c, static_cast<int>(fd));
  if (k.cls == kForeign) return native(a);
  if (k.cls == kUnknown) return traced(a, static_cast<int>(fd), k.seen);
  if (!own || k.cls == kDeclaredSlow) return kThroughSlot;
  mark(a, c, k.cls);
  return native_told(a, c);
}

// A read that came short before the end of the file is continued by the supervisor.
bool ends_early(const Area* a) {
  if (a->result <= 0 || static_cast<uint64_t>(a->result) >= a->rdx) return false;
  struct statx sx;
  const int fd = static_cast<int>(a->rdi);
  if (stat_at(fd, "", kEmptyPath, STATX_TYPE | STATX_SIZE, sx) != 0) return true;
  if ((sx.stx_mode & 0170000) != 0100000) return false;
  const long pos = static_cast<long>(a->rax) == nr::pread64
                       ? static_cast<long>(a->r10) + a->result
                       : sys(nr::lseek, fd, 0, 1 /* SEEK_CUR */);
  return pos < 0 || static_cast<uint64_t>(pos) < sx.stx_size;
}

int on_read(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  if (c->flags & kNoPaths) return native(a);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  const Known k = know(c, static_cast<int>(fd));
  if (k.cls == kForeign) return native(a);
  if (k.cls == kUnknown) return traced(a, static_cast<int>(fd), k.seen);
  if (k.cls == kDeclaredSlow) return kThroughSlot;
  mark(a, c, k.cls);
  stub_native(a);
  const long number = static_cast<long>(a->rax);
  if (told(c, a->result) || ((number == nr::read || number == nr::pread64) && ends_early(a))) stub_report(a);
  else a->stage = kDone;
  return kMade;
}

int on_write(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  if (c->flags & kNoPaths) return native(a);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  const Known k = know(c, static_cast<int>(fd));
  if (k.cls == kForeign) return native(a);
  if (k.cls == kUnknown) return traced(a, static_cast<int>(fd), k.seen);
  if (k.cls < kFirstDescription) return kThroughSlot;
  mark(a, c, k.cls);
  if (!(c->flags & (kJournalContent | kJournalRanges))) return kThroughSlot;

  const Description d = c->descriptions[(k.cls - kFirstDescription) % kDescriptions];
  if (d.file >= kFiles) return kThroughSlot;
  File* file = &c->files[d.file];
  const long number = static_cast<long>(a->rax);
  const bool vectors = number == nr::writev || number == nr::pwritev || number == nr::pwritev2;
  const bool implicit = number == nr::write || number == nr::writev ||
                        (number == nr::pwritev2 && static_cast<long>(a->r10) == -1);
  if (!implicit && (d.flags & kAppend)) return kThroughSlot;
  if (number == nr::pwritev2 && a->r9 != 0) return kThroughSlot;
  const bool content = c->flags & kJournalContent;
  if (!vectors && content && a->rdx > kLargestWrite) return kThroughSlot;

  Env env;
  if (implicit) {
    a->file_held = d.file + 1u;
    lock(&file->lock, a->tid, env);
  }
  stub_native(a);
  const auto done = static_cast<uint64_t>(a->result);
  bool report = told(c, a->result);
  bool half = false;
  if (a->result > 0) {
    if ((!vectors && done < a->rdx) || (content && done > kLargestWrite)) {
      report = true;  // the rest is asked for by the supervisor
    } else {
      long at = static_cast<long>(a->r10);
      if (implicit) at = sys(nr::lseek, fd, 0, 1 /* SEEK_CUR */) - a->result;
      const bool durable = d.flags & kDataSync;
      Record* record = at < 0 ? nullptr : reserve_write(c, ring(), a, env, d.file, static_cast<uint64_t>(at), done,
                                                        content, durable, &half);
      if (!record) {
        report = true;
      } else {
        if (content && !vectors) copy_bytes(content_of(record), reinterpret_cast<const char*>(a->rsi), done);
        if (content && vectors) gather_bytes(content_of(record), reinterpret_cast<const IoVector*>(a->rsi), a->rdx, done);
        commit(a, record);
      }
    }
  }
  if (report) stub_report(a);  // which gives the lock back
  a->stage = kDone;
  if (a->file_held) {
    unlock(&file->lock, a->tid, env);
    a->file_held = 0;
  }
  if (half) stub_report(a);  // the supervisor takes what is there
  return kMade;
}

bool journaled(const Control* c) { return c->flags & (kJournalContent | kJournalRanges); }

int on_sync(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  if (c->flags & kNoPaths) return native(a);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  const Known k = know(c, static_cast<int>(fd));
  if (k.cls == kForeign) return native(a);
  if (k.cls == kUnknown) return traced(a, static_cast<int>(fd), k.seen);
  Description d{};
  if (k.cls >= kFirstDescription) {
    d = c->descriptions[(k.cls - kFirstDescription) % kDescriptions];
    if (d.file >= kFiles) return kThroughSlot;
  } else if (k.cls >= kDeclaredRead && journaled(c)) {
    const Dir dir = known_dir(c, static_cast<int>(fd), nullptr);
    if (!dir.known) return kThroughSlot;
    d.file = static_cast<uint16_t>(dir.file);
  } else {
    return kThroughSlot;
  }
  mark(a, c, k.cls);
  Env env;
  enter_sync(c, a);
  stub_native(a);
  bool half = false;
  if (a->result < 0 ? told(c, a->result)
                    : !append_sync(c, ring(), a, env, d.file, a->entered,
                                   static_cast<long>(a->rax) == nr::fdatasync, &half)) {
    stub_report(a);
    return kMade;
  }
  a->stage = kDone;
  if (half) stub_report(a);
  return kMade;
}

int on_close(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  if (c->flags & kNoPaths) return native(a);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  const Known k = know(c, static_cast<int>(fd));
  if (k.cls == kUnknown || k.cls == kDeclaredSlow) {
    forget(static_cast<int>(fd));
    return kThroughSlot;
  }
  forget(static_cast<int>(fd));
  if (k.cls == kForeign) return native(a);
  if (c->flags & kSlow) return kThroughSlot;
  mark(a, c, k.cls);
  return native_told(a, c);
}

// What a new descriptor is: as `of`, when that was known and did not change meanwhile.
void inherit(long fd, int of, uint32_t before) {
  if (!fd_known(fd)) return;
  const uint32_t seen = look_at_new(static_cast<int>(fd));
  if (class_of(before) != kUnknown && look(of) == before) learn(static_cast<int>(fd), seen, class_of(before));
}

int on_dup(Area* a, Control* c) {
  if (c->flags & kNoPaths) return native(a);
  const long number = static_cast<long>(a->rax);
  const long from = static_cast<int>(a->rdi), to = static_cast<int>(a->rsi);
  if (!fd_known(from)) return from < 0 ? native(a) : kThroughSlot;
  const uint32_t before = look(static_cast<int>(from));
  if (number != nr::dup) {
    if (to < 0 || to == from) return native(a);
    if (!fd_known(to)) return kThroughSlot;
    forget(static_cast<int>(to));
  }
  native(a);
  // Others may have looked at what it replaces between the two.
  if (number != nr::dup) forget(static_cast<int>(to));
  if (a->result >= 0) inherit(a->result, static_cast<int>(from), before);
  return kMade;
}

int on_fcntl(Area* a, Control* c) {
  enum { kDupFd = 0, kSetFl = 4, kGetLk = 5, kSetLkW = 7, kOfdGetLk = 36, kOfdSetLkW = 38, kDupFdCloexec = 1030 };
  const long fd = static_cast<int>(a->rdi);
  const int command = static_cast<int>(a->rsi);
  if (c->flags & kNoPaths) return native(a);
  if (command == kDupFd || command == kDupFdCloexec) {
    if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
    const uint32_t before = look(static_cast<int>(fd));
    native(a);
    if (a->result >= 0) inherit(a->result, static_cast<int>(fd), before);
    return kMade;
  }
  const bool lock = (command >= kGetLk && command <= kSetLkW) || (command >= kOfdGetLk && command <= kOfdSetLkW);
  if (!lock && command != kSetFl) return native(a);
  return on_fd(a, c, fd, lock);
}

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

int on_map(Area* a, Control* c) {
  if (c->flags & kNoPaths || (a->r10 & 0x20 /* MAP_ANONYMOUS */)) return native(a);
  const long fd = static_cast<int>(a->r8);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  return know(c, static_cast<int>(fd)).cls == kForeign ? native(a) : kThroughSlot;
}

int on_close_range(Area* a) {
  const uint64_t first = static_cast<uint32_t>(a->rdi);
  uint64_t last = static_cast<uint32_t>(a->rsi);
  if (a->rdx & 2 /* CLOSE_RANGE_UNSHARE */) return kThroughSlot;
  const uint64_t high = __atomic_load_n(&process()->fd_high, __ATOMIC_RELAXED);
  if (last >= high) last = high ? high - 1 : 0;
  for (uint64_t fd = first; fd <= last && fd < kFds; ++fd) forget(static_cast<int>(fd));
  return native(a);
}

// The supervisor has made all classes void: a path was switched, flags of a description changed.
void renew(const Control* c) {
  Process* p = process();
  const uint32_t epoch = __atomic_load_n(&c->fd_epoch, __ATOMIC_ACQUIRE);
  if (p->fd_epoch == epoch) return;
  const uint32_t high = p->fd_high;
  for (uint32_t fd = 0; fd < high && fd < kFds; ++fd) forget(static_cast<int>(fd));
  __atomic_store_n(&p->fd_epoch, epoch, __ATOMIC_RELEASE);
}

}  // namespace

extern "C" int stub_main(Area* a) {
  Control* c = control();
  a->file = 0;
  a->path = 0;
  a->hint = 0;
  a->facts_known = 0;
  a->entered = 0;
  const uint64_t number = a->rax;
  if (number >= kModes) return kThroughSlot;
  renew(c);
  ++c->calls;
  const long fd = static_cast<int>(a->rdi);
  const uint8_t mode = c->modes[number];
  if (mode != kModeNative && (c->flags & kSlow) && mode != kModeClose && mode != kModeCloseRange && mode != kModeDup)
    return kThroughSlot;
  switch (mode) {
    case kModeNative: return native(a);
    case kModeFd: return on_fd(a, c, fd, true);
    case kModeFdChange: return on_fd(a, c, fd, false);
    case kModeTwoFds: return on_two_fds(a, c);
    case kModeName: return native_told(a, c);
    case kModeNameChange: return on_name_change(a, c);
    case kModeOpen: return on_open(a, c);
    case kModeClose: return on_close(a, c);
    case kModeCloseRange: return on_close_range(a);
    case kModeDup: return on_dup(a, c);
    case kModeFcntl: return on_fcntl(a, c);
    case kModeRead: return on_read(a, c);
    case kModeWrite: return on_write(a, c);
    case kModeSync: return on_sync(a, c);
    case kModeMap: return on_map(a, c);
    case kModeUnlink: return on_unlink(a, c);
    case kModeRename: return on_rename(a, c);
    case kModeResize:
    case kModeAttributes: return on_change_of_fd(a, c);
    default: return kThroughSlot;
  }
}

}  // namespace supervise::stub
