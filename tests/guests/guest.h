#pragma once
// Shared by the guests alone: checks that say what was expected and what came, one line each,
// written with one write(2) so that lines of several processes never mix. The failure count lives
// in memory shared over fork, so a child's failure reaches main's exit status.
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace guest {

inline int* failures = [] {
  void* p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<int*>(p);
}();

inline int out = 1;

inline void line(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline void line(const char* format, ...) {
  char text[2048];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(text, sizeof text - 1, format, args);
  va_end(args);
  if (n < 0) _exit(99);
  if (n > (int)sizeof text - 2) n = sizeof text - 2;
  text[n++] = '\n';
  for (int at = 0; at < n;) {
    ssize_t r = write(out, text + at, n - at);
    if (r < 0 && errno != EINTR && errno != EAGAIN) _exit(98);
    if (r > 0) at += r;
  }
}

inline double seconds(clockid_t clock = CLOCK_MONOTONIC) {
  timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

inline void pause_ms(long ms) {
  timespec t{ms / 1000, ms % 1000 * 1000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR) {
  }
}

inline bool check(bool good, const char* what, long got, long want, int error) {
  if (good) {
    line("ok   %s", what);
  } else {
    __atomic_add_fetch(failures, 1, __ATOMIC_SEQ_CST);
    line("FAIL %s: expected %ld, got %ld (errno %d, %s)", what, want, got, error, strerror(error));
  }
  return good;
}

inline int finish(const char* name) {
  line("%s: %d failures", name, *failures);
  return *failures ? 1 : 0;
}

}  // namespace guest

// IS(what, got, want): one check of a value. FAILS(what, call, error): -1 with that errno.
#define IS(what, got, want)                                            \
  ({                                                                   \
    errno = 0;                                                         \
    long got_ = (long)(got);                                           \
    int error_ = errno;                                                \
    long want_ = (long)(want);                                         \
    guest::check(got_ == want_, what, got_, want_, error_);            \
  })
#define FAILS(what, got, error)                                                 \
  ({                                                                            \
    errno = 0;                                                                  \
    long got_ = (long)(got);                                                    \
    int error_ = errno;                                                         \
    guest::check(got_ == -1 && error_ == (error), what, got_ == -1 ? -error_ : got_, \
                 -(long)(error), error_);                                       \
  })
