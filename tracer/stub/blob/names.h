// Names in directories on storage paths: taken apart, looked up, changed under the directory's lock, so that
// changes are recorded in the order in which they happen. Only directories that the supervisor has put into
// the control block; the first change in another is its own.
#pragma once

#include "tracer/stub/blob/calls.h"
#include "tracer/stub/ring_writer.h"

namespace supervise::stub {

struct Env {
  void futex_wait(uint32_t* at, uint32_t value) {
    const long limit[2] = {0, 10'000'000};  // timespec: whoever should wake us may have been taken out before
    sys(nr::futex, reinterpret_cast<long>(at), 0 /* FUTEX_WAIT */, value, reinterpret_cast<long>(limit));
  }
  void futex_wake(uint32_t* at, int count) { sys(nr::futex, reinterpret_cast<long>(at), 1 /* FUTEX_WAKE */, count); }
};

inline bool is_dir(uint32_t mode) { return (mode & 0170000) == 0040000; }

// A path as its directory ("" is where a relative one begins) and its last name.
struct Split {
  char text[1024];
  const char* dir;
  const char* last;
  unsigned last_length;
};

// Of a path that the kernel could read. False: too long, or the last name is none ("/", "..", "a/").
[[gnu::noinline]] inline bool split(const char* path, Split& s) {
  if (!path) return false;
  unsigned n = 0, end = 0;
  for (; n < sizeof s.text - 1 && path[n]; ++n) s.text[n] = path[n];
  if (n == 0 || n == sizeof s.text - 1) return false;
  s.text[n] = 0;
  for (unsigned i = 0; i < n; ++i)
    if (s.text[i] == '/') end = i + 1;
  s.last = s.text + end;
  s.last_length = n - end;
  if (s.last_length == 0 || s.last_length > kLongestName) return false;
  if (s.last[0] == '.' && (s.last_length == 1 || (s.last[1] == '.' && s.last_length == 2))) return false;
  s.dir = end == 0 ? "" : end == 1 ? "/" : s.text;
  if (end > 1) s.text[end - 1] = 0;
  return true;
}

struct Dir {
  bool known = false;
  uint32_t file = 0;  // index in Control::files
  unsigned path = 0;  // of the storage path
  bool same(const Dir& o) const { return known && o.known && file == o.file; }
};

[[gnu::noinline]] inline Dir known_dir(const Control* c, int fd, const char* name) {
  Dir dir;
  struct statx sx;
  const bool open = !name || name[0] == 0;
  if (!(c->flags & kByMount) || stat_at(open && fd == kAtFdcwd ? kAtFdcwd : fd, open ? (fd == kAtFdcwd ? "." : "") : name,
                                        open && fd != kAtFdcwd ? kEmptyPath : 0, STATX_TYPE | STATX_INO | STATX_MNT_ID, sx) != 0)
    return dir;
  const Place p = place_of(sx, c);
  if (p.where != Place::OnPath || !is_dir(p.mode)) return dir;
  const uint32_t at = find_inode(c, sx.stx_ino, p.path);
  if (at == 0 || !(__atomic_load_n(&c->files[at - 1].flags, __ATOMIC_ACQUIRE) & kDirectory)) return dir;
  dir.known = true;
  dir.file = at - 1;
  dir.path = p.path;
  return dir;
}

inline Dir dir_of(const Control* c, int dirfd, const Split& s) { return known_dir(c, dirfd, s.dir); }

inline void acquire(Area* a, Control* c, const Dir& dir, Env& env) {
  a->path = dir.path + 1;
  a->file_held = dir.file + 1;
  lock(&c->files[dir.file].lock, a->tid, env);
}

inline void release(Area* a, Control* c, Env& env) {
  if (!a->file_held) return;
  unlock(&c->files[a->file_held - 1].lock, a->tid, env);
  a->file_held = 0;
  a->facts_known = 0;
}

// What the name stands for now, into the Area: the supervisor needs it when the thread is taken out behind its
// call. False: nobody can tell, or it is on no storage path, or another one.
[[gnu::noinline]] inline bool look_at_name(Area* a, const Control* c, const Dir& dir, int dirfd, const char* path, unsigned which) {
  a->facts[which] = {};
  struct statx sx;
  const long r = stat_at(dirfd, path, kSymlinkNofollow, STATX_BASIC_STATS | STATX_MNT_ID, sx);
  if (r == 0) {
    const Place p = place_of(sx, c);
    if (p.where != Place::OnPath || p.path != dir.path) return false;
    a->facts[which] = {sx.stx_ino, sx.stx_mode, sx.stx_nlink};
  } else if (r != kEnoent) {
    return false;
  }
  if (which == 0) a->facts[1] = {};
  a->facts_known = 1;
  return true;
}

[[gnu::noinline]] inline uint32_t new_description(Control* c, uint32_t file, uint8_t flags) {  // 1 + index; 0: there are none left
  if (__atomic_load_n(&c->descriptions_used, __ATOMIC_RELAXED) >= kDescriptions) return 0;
  const uint32_t n = __atomic_fetch_add(&c->descriptions_used, 1, __ATOMIC_ACQ_REL);
  if (n >= kDescriptions) return 0;
  File& f = c->files[file];
  c->descriptions[n] = {static_cast<uint16_t>(file), static_cast<uint8_t>(f.path), flags};
  __atomic_store_n(&f.described[flags & 3], static_cast<uint16_t>(n + 1), __ATOMIC_RELEASE);
  return n + 1;
}

// Numbers for a file that was just made; remember_inode() comes once its record is there. False: there are none
// left; the supervisor learns of it in its own time.
inline bool new_file(Control* c, uint64_t ino, const Dir& dir, const Split& name, uint8_t flags, NameChange& change) {
  if (__atomic_load_n(&c->files_used, __ATOMIC_RELAXED) >= kFiles) return false;
  const uint32_t file = __atomic_fetch_add(&c->files_used, 1, __ATOMIC_ACQ_REL);
  if (file >= kFiles) return false;
  File& f = c->files[file];
  f = {};
  f.ino = ino;
  f.path = static_cast<uint16_t>(dir.path);
  f.flags = kNamed;
  f.dir = dir.file + 1;
  f.name = name_hash(name.last, name.last_length);
  change.description = new_description(c, file, flags);
  change.file = file + 1;
  return change.description != 0;
}

// What an open file on a storage path is, when it has the name that it is known by: 0, or its class.
inline uint32_t class_of_named(Control* c, uint64_t ino, const Dir& dir, const Split& name, uint8_t flags) {
  const uint32_t at = find_inode(c, ino, dir.path);
  if (at == 0) return kUnknown;
  const File& f = c->files[at - 1];
  if (!(__atomic_load_n(&f.flags, __ATOMIC_ACQUIRE) & kNamed) || f.dir != dir.file + 1 || f.name != name_hash(name.last, name.last_length))
    return kUnknown;
  uint32_t n = __atomic_load_n(&f.described[flags & 3], __ATOMIC_ACQUIRE);
  if (n == 0) n = new_description(c, at - 1, flags);
  return n == 0 || n > kDescriptions ? uint32_t{kUnknown} : kFirstDescription + n - 1;
}

// It has lost a name: whoever opens the number next may be another file.
inline void lost_name(Control* c, uint64_t ino, unsigned path) {
  if (const uint32_t at = find_inode(c, ino, path))
    __atomic_fetch_and(&c->files[at - 1].flags, static_cast<uint16_t>(~unsigned{kNamed}), __ATOMIC_ACQ_REL);
}

}  // namespace supervise::stub
