#pragma once
// Shared by the parts of stub_stress: a random source of its own for each thread, a deadline, and failures that
// are told once for each place.
#include <atomic>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include "guest.h"

namespace stress {

struct Random {
  unsigned long state;
  explicit Random(unsigned long seed) : state(seed * 0x9e3779b97f4a7c15ul + 1) {}
  unsigned long next() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
  }
  long below(long n) { return (long)((next() >> 16) % (unsigned long)n); }
};

struct Options {
  std::string dir, outside;  // on the storage path, and not
  unsigned long seed = 1;
  double seconds = 2;        // of each part that goes on for a time
};
inline Options options;

inline double part_end;
inline bool time_left() { return guest::seconds() < part_end; }

// The first few of a kind are told; a part with one fails. Async-signal-safe.
inline std::atomic<int> told{0};
inline bool bad(const char* what, long got, long want) {
  __atomic_add_fetch(guest::failures, 1, __ATOMIC_SEQ_CST);
  if (told.fetch_add(1) < 20) guest::line("FAIL %s: expected %ld, got %ld (errno %d)", what, want, got, errno);
  return false;
}
inline bool must(const char* what, long got, long want) { return got == want || bad(what, got, want); }
#define MUST(got, want) stress::must(#got, (long)(got), (long)(want))

inline void spin(long n) {
  while (n-- > 0) asm volatile("" ::: "memory");
}

inline std::string file_name(int i) { return "file-" + std::to_string(1000 + i); }

// Runs n threads and waits for them.
template <typename F>
void in_threads(int n, F f) {
  std::vector<std::thread> all;
  for (int i = 0; i < n; ++i) all.emplace_back([=] { f(i); });
  for (auto& t : all) t.join();
}

inline int wait_for(pid_t pid) {
  int status = -1;
  while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR) {
  }
  return status;
}

// A record says who wrote it, and its check says whether all of it came.
struct Item {
  int writer, number;
  unsigned char text[52];
  unsigned check;
};
static_assert(sizeof(Item) == 64);
inline unsigned check_of(const Item& r) {
  unsigned sum = (unsigned)r.writer * 31 + (unsigned)r.number;
  for (unsigned char c : r.text) sum = sum * 33 + c;
  return sum;
}
inline Item make_item(int writer, int number) {
  Item r{writer, number, {}, 0};
  for (int i = 0; i < 52; ++i) r.text[i] = (unsigned char)(writer * 7 + number * 13 + i);
  r.check = check_of(r);
  return r;
}

// The parts: files.cpp, signals.cpp, frames.cpp, tasks.cpp.
void descriptors();
void positions();
void appends();
void errors();
void timers();
void interruptions();
void jumps();
void stacks();
void registers();
void storm();
void cancellations();
void processes();
void sharers();
int child(int argc, char** argv);

}  // namespace stress
