// Fills memory, says "ready", and then does one of:
//   ticker [--mib M] [--ticks N]   a line "tick K pid P" every 20 ms, N in all (default 100); checks its memory
//   ticker [--mib M] --gap         spins on the clock; after the first gap of more than 100 ms it prints
//                                  "woke NS" (CLOCK_REALTIME right behind the gap) and waits for a signal
//   ticker --time PROGRAM ARGS...  runs it; prints its output and the milliseconds from posix_spawn to its reaped end
// SIGUSR1 prints "seed". Exit: 0, or 1 when the memory is not what was written.
#include <csignal>
#include <spawn.h>
#include <sys/wait.h>
#include <string>
#include <vector>

#include "guest.h"

namespace {

int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

uint64_t word(size_t i) { return (i + 1) * 0x9E3779B97F4A7C15ull; }

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 && argv[1] == std::string("--time")) {
    const int64_t began = now_ns();
    pid_t pid = 0;
    int status = 0;
    if (posix_spawn(&pid, argv[2], nullptr, nullptr, argv + 2, environ) != 0) return 127;
    waitpid(pid, &status, 0);
    guest::line("spawn_ms: %.3f", (double)(now_ns() - began) / 1e6);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  }
  long mib = 1, ticks = 100;
  bool gap = false;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--gap") gap = true;
    else if (option == "--mib" && i + 1 < argc) mib = atol(argv[++i]);
    else if (option == "--ticks" && i + 1 < argc) ticks = atol(argv[++i]);
    else return 2;
  }
  std::vector<uint64_t> memory((size_t)mib << 17);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = word(i);
  signal(SIGUSR1, [](int) { (void)!write(1, "seed\n", 5); });
  guest::line("ready");
  if (gap) {
    for (int64_t last = now_ns();;) {
      const int64_t now = now_ns();
      if (now - last > 100000000) {
        guest::line("woke %lld", (long long)now);
        for (;;) pause();
      }
      last = now;
    }
  }
  for (long k = 1; k <= ticks; ++k) {
    const timespec pause{0, 20000000};
    nanosleep(&pause, nullptr);
    guest::line("tick %ld pid %d", k, (int)getpid());
  }
  for (size_t i = 0; i < memory.size(); ++i)
    if (memory[i] != word(i)) return 1;
  return 0;
}
