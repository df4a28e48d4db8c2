// What the parts of the guest `writer` share: a worker, its random bytes, and how a result is judged.
#pragma once

#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <sys/stat.h>

#include "guest.h"

namespace writer {

using guest::line;
namespace fs = std::filesystem;

extern std::string dir;
extern long rounds, seed, delay_ms, big_mib;

struct Random {
  uint64_t state;
  explicit Random(uint64_t a, uint64_t b = 0, uint64_t c = 0)
      : state(a * 0x9E3779B97F4A7C15ULL ^ (b + 1) * 0xBF58476D1CE4E5B9ULL ^ (c + 1) * 0x94D049BB133111EBULL) {}
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ z >> 27) * 0x94D049BB133111EBULL;
    return z ^ z >> 31;
  }
  long below(long n) { return (long)(next() % (uint64_t)n); }
};

inline std::string bytes(Random& random, long n) {
  std::string s((size_t)n, 0);
  for (char& c : s) c = (char)('!' + random.below(94));
  return s;
}

// Reports a result that an undisturbed run would not have had.
inline long want(const char* who, const char* call, long got, long expected) {
  if (got == expected) return got;
  const int error = errno;
  __atomic_add_fetch(guest::failures, 1, __ATOMIC_SEQ_CST);
  line("FAIL %s: %s: expected %ld, got %ld%s%s", who, call, expected, got, got == -1 ? ": " : "",
       got == -1 ? strerror(error) : "");
  return got;
}

inline int want_fd(const char* who, const char* call, int fd) {
  if (fd < 0) want(who, call, fd, 0);
  return fd;
}

struct Worker {
  const char* name;
  explicit Worker(const char* n) : name(n) {}
  virtual ~Worker() = default;
  virtual void open_all() = 0;
  virtual void round(long r) = 0;
  virtual void close_all() {}
  void ok(const char* call, long got, long expected) { want(name, call, got, expected); }
  int fd(const char* call, int got) { return want_fd(name, call, got); }
  void close_fd(int f) { ok("close", ::close(f), 0); }
  void pace(int parts) {
    if (delay_ms) guest::pause_ms(std::max(1L, delay_ms / parts));
  }
};

inline std::string in(const char* file) { return dir + "/" + file; }

// One open file description of two processes: strictly in turn (turns.log), and freely (shared.log).
struct Partner {
  int turns = -1, free = -1, to_child[2], to_parent[2];
};

// Each a new one.
Worker* scatter();
Worker* log_of_lines();
Worker* mapped();
Worker* state();
Worker* big();
Worker* appender(const char* id);
Worker* shared_offset(Partner& partner, bool is_child);
Worker* lock_holder();
Worker* refused(pid_t holder);
Worker* names();

// 0: the trees are the same, as far as they must be.
int compare(const fs::path& got, const fs::path& expected);

}  // namespace writer
