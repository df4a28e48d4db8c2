// What the parts of the guest `blocking` share: a kind of blocking call, and how it is told of.
#pragma once

#include <fcntl.h>
#include <functional>
#include <semaphore.h>
#include <string>
#include <vector>

#include "guest.h"

namespace blocking {

using guest::line;
using guest::seconds;

struct Slot {
  volatile pid_t pid, tid;
  volatile int entered, done;
};

struct Shared {
  volatile int kicked, errors, futex_shared, futex_infinite, busy_stop;
  volatile int futexes[16];
  sem_t semaphore;
  Slot slots[128];
};

// How a wait ends: by its release alone, after its time in timed mode (by a signal in kick mode),
// or always by a signal.
enum class Ends { released, timeout, signalled };

struct Kind {
  std::string name;
  int process;  // 0: a thread of main
  Ends ends;
  std::function<long()> wait;      // returns the call's result, errno set
  std::function<bool(long)> good;  // is this result as expected after the release
  std::function<void()> release;
  long timeout_result = 0;  // what a timed wait returns when its time is over
  int timeout_error = 0;
  double slack = 0;
  clockid_t clock = CLOCK_MONOTONIC;
};

extern Shared* shared;
extern std::vector<Kind> kinds;
extern double wait_seconds;
extern bool timed_mode;
extern std::string dir;

inline timespec after(clockid_t clock, double add) {
  timespec t;
  clock_gettime(clock, &t);
  t.tv_sec += (long)add;
  t.tv_nsec += (long)((add - (long)add) * 1e9);
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  return t;
}

inline timespec span() { return {(long)wait_seconds, (long)((wait_seconds - (long)wait_seconds) * 1e9)}; }

inline long futex(volatile int* word, int op, int value, const timespec* timeout = nullptr, int bits = 0) {
  return syscall(SYS_futex, word, op, value, timeout, nullptr, bits);
}

inline void must(bool good, const char* what) {
  if (good) return;
  line("ERR setup %s: %s", what, strerror(errno));
  _exit(97);
}

inline int fill_nonblocking(int fd) {
  std::vector<char> block(4096, 'f');
  int old = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, old | O_NONBLOCK);
  while (write(fd, block.data(), block.size()) > 0) {
  }
  while (write(fd, block.data(), 1) > 0) {
  }
  fcntl(fd, F_SETFL, old);
  return fd;
}

inline void drain(int fd, size_t bytes) {
  std::vector<char> block(bytes);
  must(read(fd, block.data(), block.size()) > 0, "drain");
}

inline auto returns(long want) {
  return [want](long r) { return r == want; };
}
inline auto at_least_zero() {
  return [](long r) { return r >= 0; };
}

inline void released(const char* name, int process, std::function<long()> wait,
              std::function<bool(long)> good, std::function<void()> release) {
  kinds.push_back({name, process, Ends::released, wait, good, release});
}

inline void timed(const char* name, int process, std::function<long()> wait, long result = 0,
           int error = 0, clockid_t clock = CLOCK_MONOTONIC) {
  kinds.push_back({name, process, Ends::timeout, wait, nullptr, nullptr, result, error, 0, clock});
}

inline void signalled(const char* name, int process, std::function<long()> wait) {
  kinds.push_back({name, process, Ends::signalled, wait, nullptr, nullptr});
}

// The groups: each adds its kinds.
void add_descriptors();
void add_polls();
void add_sleeps();
void add_futexes();
void add_sockets();
void add_sysv();
void remove_sysv();
void add_mqueue();
void add_aio();
void add_locks();
void add_children();
void add_signals();

}  // namespace blocking
