// Nanoseconds that single system calls take, in a loop: what bench/fastpath.py runs natively and under each tracer.
//
//   bench_micro DIRECTORY MILLISECONDS [NAME...]
//
// Prints a line "NAME NANOSECONDS" for each operation (or for those named): the median of five means, of about
// MILLISECONDS in all, after a warm-up that is long enough for a call site to be patched. Files are made in DIRECTORY.
// An operation that fails ends the program with its name and errno.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <vector>

namespace {

constexpr int kFileSize = 1 << 20;
constexpr int kBlock = 4096;
constexpr int kParts = 5;

const char* g_operation = "start";

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "%s: %s: %s\n", g_operation, what, strerror(errno));
  exit(1);
}

void must(bool good, const char* what) {
  if (!good) fail(what);
}

double now() {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);  // by the vDSO: no system call
  return static_cast<double>(at.tv_sec) * 1e9 + static_cast<double>(at.tv_nsec);
}

struct Operation {
  const char* name;
  int warm_up;                         // calls before anything is measured
  int batch;                           // calls between two looks at the clock
  std::function<void(int)> run;        // so many calls
  std::function<void()> before = {};   // before each batch, not measured
};

double measure(const Operation& operation, double nanoseconds) {
  g_operation = operation.name;
  if (operation.before) operation.before();
  operation.run(operation.warm_up);
  // Means: what comes once in thousands of calls (a full ring) must count. Of few of them the median: another
  // program's turn on the processor must not.
  std::vector<double> means;
  for (int part = 0; part < kParts; ++part) {
    double spent = 0;
    long calls = 0;
    const double end = now() + nanoseconds / kParts;
    do {
      if (operation.before) operation.before();
      const double began = now();
      operation.run(operation.batch);
      spent += now() - began;
      calls += operation.batch;
    } while (now() < end);
    means.push_back(spent / static_cast<double>(calls));
  }
  std::nth_element(means.begin(), means.begin() + kParts / 2, means.end());
  return means[kParts / 2];
}

std::atomic<unsigned> g_signals{0};
void on_signal(int) { g_signals.fetch_add(1, std::memory_order_relaxed); }

void handle(int number) {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  must(sigaction(number, &action, nullptr) == 0, "sigaction");
}

void set_timer(int microseconds) {
  itimerval timer = {};
  timer.it_interval.tv_usec = timer.it_value.tv_usec = microseconds;
  must(setitimer(ITIMER_REAL, &timer, nullptr) == 0, "setitimer");
}

void* nothing(void*) { return nullptr; }

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: bench_micro DIRECTORY MILLISECONDS [NAME...]\n");
    return 2;
  }
  const std::string name = std::string(argv[1]) + "/file", sequential_name = std::string(argv[1]) + "/sequential";
  const double nanoseconds = atof(argv[2]) * 1e6;
  std::vector<char> buffer(kFileSize, 'x');
  const int file = open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  const int sequential = open(sequential_name.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int null = open("/dev/null", O_WRONLY);
  must(file >= 0 && sequential >= 0 && null >= 0, "open");
  must(pwrite(file, buffer.data(), kFileSize, 0) == kFileSize, "pwrite");
  handle(SIGUSR1);
  handle(SIGALRM);
  // Every block of the file in turn.
  off_t at = 0;
  const auto next = [&at] {
    at = (at + kBlock) % kFileSize;
    return at;
  };
  const auto write_blocks = [&](int count) {
    for (int i = 0; i < count; ++i) must(pwrite(file, buffer.data(), kBlock, next()) == kBlock, "pwrite");
  };
  const pid_t self = getpid();

  const std::vector<Operation> operations = {
      {"pread_1", 500, 200,
       [&](int count) {
         for (int i = 0; i < count; ++i) must(pread(file, buffer.data(), 1, next()) == 1, "pread");
       }},
      {"pread_4k", 500, 200,
       [&](int count) {
         for (int i = 0; i < count; ++i) must(pread(file, buffer.data(), kBlock, next()) == kBlock, "pread");
       }},
      {"pwrite_4k", 500, 200, write_blocks},
      {"write_null", 500, 200,
       [&](int count) {
         for (int i = 0; i < count; ++i) must(write(null, buffer.data(), 100) == 100, "write");
       }},
      {"write_seq_4k", 500, 200,
       [&](int count) {
         for (int i = 0; i < count; ++i) must(write(sequential, buffer.data(), kBlock) == kBlock, "write");
       },
       // Bounded, but new pages each time.
       [&, calls = 0]() mutable {
         if (++calls % 32 != 1) return;
         must(ftruncate(sequential, 0) == 0 && lseek(sequential, 0, SEEK_SET) == 0, "ftruncate");
       }},
      {"fsync", 500, 100,
       [&](int count) {
         for (int i = 0; i < count; ++i) must(fsync(file) == 0, "fsync");
       }},
      {"open_close", 500, 100,
       [&](int count) {
         for (int i = 0; i < count; ++i) {
           const int fd = open(name.c_str(), O_RDONLY | O_CLOEXEC);
           must(fd >= 0 && close(fd) == 0, "open");
         }
       }},
      {"open_close_outside", 500, 100,
       [&](int count) {
         for (int i = 0; i < count; ++i) {
           const int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
           must(fd >= 0 && close(fd) == 0, "open");
         }
       }},
      {"stat", 500, 100,
       [&](int count) {
         struct stat status;
         for (int i = 0; i < count; ++i) must(stat(name.c_str(), &status) == 0, "stat");
       }},
      {"getpid", 500, 500,
       [&](int count) {
         for (int i = 0; i < count; ++i) must(syscall(SYS_getpid) == self, "getpid");
       }},
      {"signal", 100, 100,
       [&](int count) {
         const unsigned before = g_signals.load();
         for (int i = 0; i < count; ++i) must(raise(SIGUSR1) == 0, "raise");
         must(g_signals.load() == before + static_cast<unsigned>(count), "signals were lost");
       }},
      {"pwrite_4k_storm", 500, 200, write_blocks},  // 2,000 signals a second meanwhile
      {"thread", 50, 20,
       [&](int count) {
         for (int i = 0; i < count; ++i) {
           pthread_t thread;
           errno = pthread_create(&thread, nullptr, nothing, nullptr);
           must(errno == 0, "pthread_create");
           pthread_join(thread, nullptr);
         }
       }},
      {"fork", 20, 10,
       [&](int count) {
         for (int i = 0; i < count; ++i) {
           const pid_t child = fork();
           if (child == 0) _exit(0);
           must(child > 0 && waitpid(child, nullptr, 0) == child, "fork");
         }
       }},
  };
  for (const Operation& operation : operations) {
    const bool wanted = argc == 3 || std::any_of(argv + 3, argv + argc, [&](const char* a) { return !strcmp(a, operation.name); });
    if (!wanted) continue;
    const bool storm = !strcmp(operation.name, "pwrite_4k_storm");
    if (storm) set_timer(500);
    printf("%s %.1f\n", operation.name, measure(operation, nanoseconds));
    if (storm) set_timer(0);
    fflush(stdout);
  }
  unlink(name.c_str());
  unlink(sequential_name.c_str());
  return 0;
}
