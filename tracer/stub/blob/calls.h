// The stub's own system calls and what it knows of descriptors and names. Everything here runs in the
// application's threads, on the stub's own stack: no library, no vector registers, no thread-local data.
#pragma once

#include <linux/stat.h>

#include "tracer/stub/layout.h"

namespace supervise::stub {

extern "C" {
#pragma GCC visibility push(hidden)
extern char stub_areas[], stub_fd_table[], stub_process[], stub_control[], stub_ring[];
void stub_native(Area*);
void stub_traced(Area*);
void stub_report(Area*);
int stub_main(Area*);
#pragma GCC visibility pop
}

namespace nr {
enum : long { read = 0, write = 1, open = 2, lseek = 8, mmap = 9, ioctl = 16, pread64 = 17, pwrite64 = 18, readv = 19, writev = 20,
  dup = 32, dup2 = 33, sendfile = 40, fcntl = 72, fsync = 74, fdatasync = 75, ftruncate = 77, rename = 82, creat = 85, fchmod = 91, fchown = 93, futex = 202, splice = 275,
  tee = 276, openat = 257, unlinkat = 263, renameat = 264, utimensat = 280, dup3 = 292, preadv = 295, pwritev = 296, copy_file_range = 326, renameat2 = 316, preadv2 = 327,
  pwritev2 = 328, statx = 332 };
}

inline constexpr int kAtFdcwd = -100;
inline constexpr unsigned long kFiClone = 0x40049409;  // FICLONE
inline constexpr long kEnoent = -2, kEbadf = -9, kEfault = -14;
inline constexpr unsigned kSymlinkNofollow = 0x100, kEmptyPath = 0x1000, kDontSync = 0x4000;

inline Control* control() { return reinterpret_cast<Control*>(stub_control); }
inline Process* process() { return reinterpret_cast<Process*>(stub_process); }
inline char* ring() { return stub_ring; }

inline long sys(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}

// ---- descriptors: layout.h says how an entry is kept from outliving its descriptor

inline uint32_t* fd_entry(int fd) { return reinterpret_cast<uint32_t*>(stub_fd_table) + fd; }
inline bool fd_known(long fd) { return fd >= 0 && fd < static_cast<long>(kFds); }
inline uint32_t look(int fd) { return __atomic_load_n(fd_entry(fd), __ATOMIC_ACQUIRE); }
inline uint32_t class_of(uint32_t entry) { return entry & 0xffff; }

inline void forget(int fd) {
  uint32_t* at = fd_entry(fd);
  uint32_t was = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &was, ((was >> 16) + 1) << 16, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {}
}

// fd_high first: whatever has an entry is below it, wherever this ends.
// A number that the kernel has just given out: what is known of it is of one before, which somebody looked at
// while it was closed.
inline uint32_t look_at_new(int fd) {
  if (class_of(look(fd)) != kUnknown) forget(fd);
  return look(fd);
}

inline void learn(int fd, uint32_t seen, uint32_t cls) {
  if (class_of(seen) != kUnknown) return;
  uint32_t high = __atomic_load_n(&process()->fd_high, __ATOMIC_RELAXED);
  while (high <= static_cast<uint32_t>(fd) &&
         !__atomic_compare_exchange_n(&process()->fd_high, &high, static_cast<uint32_t>(fd) + 1, false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  __atomic_compare_exchange_n(fd_entry(fd), &seen, (seen & 0xffff0000) | cls, false, __ATOMIC_ACQ_REL,
                              __ATOMIC_RELAXED);
}

// ---- where something is

struct Place {
  enum { Elsewhere, OnPath, CantTell } where = CantTell;
  unsigned path = 0;  // index of the storage path
  unsigned mode = 0;  // st_mode
};

inline Place place_of(const struct statx& sx, const Control* c) {
  Place p;
  p.mode = sx.stx_mode;
  if (!(sx.stx_mask & STATX_MNT_ID)) return p;
  for (unsigned i = 0; i < c->mounts && i < kMounts; ++i) {
    if (c->mount_ids[i] != sx.stx_mnt_id) continue;
    p.where = Place::OnPath;
    p.path = c->mount_path[i];
    return p;
  }
  p.where = Place::Elsewhere;
  return p;
}

inline long stat_at(int dirfd, const char* path, unsigned flags, unsigned mask, struct statx& sx) {
  sx.stx_mask = 0;
  return sys(nr::statx, dirfd, reinterpret_cast<long>(path), static_cast<long>(flags | kDontSync), mask,
             reinterpret_cast<long>(&sx));
}

[[gnu::noinline]] inline Place place_of_fd(int fd, const Control* c) {
  struct statx sx;
  const long r = stat_at(fd, "", kEmptyPath, STATX_TYPE | STATX_MNT_ID, sx);
  if (r == 0) return place_of(sx, c);
  Place p;
  if (r == kEbadf) p.where = Place::Elsewhere;  // the call will say so itself
  return p;
}

// Of what a call by name would change: the file, or the directory that the name would be in.
[[gnu::noinline]] inline Place place_of_name(int dirfd, const char* path, bool follow, const Control* c) {
  struct statx sx;
  if (!path) return place_of_fd(dirfd, c);
  long r = stat_at(dirfd, path, follow ? 0 : kSymlinkNofollow, STATX_TYPE | STATX_MNT_ID, sx);
  if (r == 0) return place_of(sx, c);
  if (r != kEnoent) return {};
  if (follow && stat_at(dirfd, path, kSymlinkNofollow, STATX_TYPE, sx) == 0) return {};  // leads elsewhere
  // The kernel has read the name, so it can be read.
  char parent[1024];
  unsigned n = 0, end = 0;
  for (; n < sizeof parent && path[n]; ++n) parent[n] = path[n];
  if (n == 0 || n == sizeof parent) return {};
  while (n > 1 && parent[n - 1] == '/') --n;
  for (unsigned i = 0; i < n; ++i)
    if (parent[i] == '/') end = i + 1;
  if (end == 0) {
    r = dirfd == kAtFdcwd ? stat_at(dirfd, ".", 0, STATX_TYPE | STATX_MNT_ID, sx)
                          : stat_at(dirfd, "", kEmptyPath, STATX_TYPE | STATX_MNT_ID, sx);
  } else {
    parent[end] = 0;
    if (end > 1) parent[end - 1] = 0;
    r = stat_at(dirfd, parent, 0, STATX_TYPE | STATX_MNT_ID, sx);
  }
  return r == 0 ? place_of(sx, c) : Place{};
}

}  // namespace supervise::stub
