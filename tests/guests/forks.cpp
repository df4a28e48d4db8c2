// Processes: fork, vfork, posix_spawn, clone, clone3, exec (also from a thread that is not the leader),
// orphans, zombies, sessions, process groups, group stops, wait forms.
//
//   forks [--storm ROUNDS] [--children N] [--delay MS]
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <thread>
#include <vector>

#include "forks.h"

extern char** environ;

namespace forks {

std::string self;

namespace {

long storm(long rounds, long children, long delay) {
  long wrong = 0;
  for (long r = 0; r < rounds; ++r) {
    std::vector<std::pair<pid_t, int>> all;
    for (long i = 0; i < children; ++i) {
      const int code = (int)((r * 7 + i) % 100);
      const std::string text = std::to_string(code);
      const char* const arguments[] = {self.c_str(), "exit", text.c_str(), nullptr};
      pid_t pid = -1;
      switch (i % 5) {
        case 0:
          pid = fork();
          if (pid == 0) _exit(code);
          break;
        case 1:
          pid = vfork();
          if (pid == 0) _exit(code);
          break;
        case 2:
          if (posix_spawn(&pid, self.c_str(), nullptr, nullptr, (char**)arguments, environ) != 0) pid = -1;
          break;
        case 3:
          pid = fork();
          if (pid == 0) {
            int inner = 0;
            std::thread a([&] { inner = exit_of(child_that([] { _exit(1); })); }), b([] { guest::pause_ms(1); });
            a.join(), b.join();
            _exit(inner == 1 ? code : 101);
          }
          break;
        default:
          pid = fork();
          if (pid == 0) {
            execv(self.c_str(), (char**)arguments);
            _exit(102);
          }
      }
      if (pid < 0) ++wrong;
      else all.emplace_back(pid, code);
    }
    for (auto [pid, code] : all) {
      const int got = exit_of(pid);
      if (got != code) ++wrong, guest::line("round %ld: expected exit %d, got %d", r, code, got);
    }
    if (delay) guest::pause_ms(delay);
  }
  return wrong;
}

// What this program does when it is executed by itself.
int as_child(int argc, char** argv) {
  const std::string mode = argv[1];
  if (mode == "exit") return atoi(argv[2]);
  if (mode == "exec-thread" || mode == "exec-busy") {
    if (mode == "exec-busy")
      for (int i = 0; i < 4; ++i) std::thread([] { for (;;) (void)getppid(); }).detach();
    std::thread([] { execl(self.c_str(), self.c_str(), "exit", "30", nullptr); }).detach();
    for (;;) pause();
  }
  if (mode == "exec-twice") execl(self.c_str(), self.c_str(), "exec-thread", nullptr);
  if (mode == "inherited") {
    struct sigaction a{};
    sigaction(SIGUSR1, nullptr, &a);
    sigset_t mask, pending;
    sigprocmask(SIG_BLOCK, nullptr, &mask);
    sigpending(&pending);
    return a.sa_handler == SIG_IGN && sigismember(&mask, SIGUSR2) && sigismember(&pending, SIGUSR2) ? 33 : 99;
  }
  if (mode == "descriptors" && argc == 4)
    return fcntl(atoi(argv[2]), F_GETFD) == -1 && fcntl(atoi(argv[3]), F_GETFD) == 0 ? 35 : 99;
  return 98;
}

}  // namespace
}  // namespace forks

using namespace forks;

int main(int argc, char** argv) {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0) return 2;
  self.assign(path, (size_t)n);
  long rounds = 3, children = 10, delay = 0;
  bool only_storm = false;
  alarm(120);
  if (argc > 1 && argv[1][0] != '-') return as_child(argc, argv);
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string a = argv[i];
    if (a == "--storm") rounds = atol(argv[i + 1]), only_storm = true;
    else if (a == "--children") children = atol(argv[i + 1]);
    else if (a == "--delay") delay = atol(argv[i + 1]);
    else return 2;
  }
  if (!only_storm) {
    basics();
    clones();
    execs();
    waits();
    sigchld();
    families();
  } else {
    alarm((unsigned)(120 + rounds * (delay + 200) / 1000));
  }
  IS("wrong results in the storm", storm(rounds, children, delay), 0);
  int status = 0;
  FAILS("no child is left", wait(&status), ECHILD);
  return guest::finish("forks");
}
