// Signals at every instruction: handlers that do I/O of their own while the interrupted code is in the middle
// of a call, that jump out of it, that restart it or don't.
#include <csetjmp>
#include <sys/syscall.h>

#include "../stub_stress.h"
#include "handlers.h"

namespace stress {

// A timer of the process and one of each thread, with and without SA_RESTART, nested three deep.
void timers() {
  open_handler_files();
  handle(SIGALRM, busy_handler, SA_RESTART);
  handle(SIGUSR1, busy_handler, 0);
  handle(SIGUSR2, busy_handler, SA_RESTART);
  handle(SIGRTMIN + 1, busy_handler, 0);
  every_ms(2);
  std::atomic<bool> end{false};
  std::thread clock([&] {
    while (time_left()) guest::pause_ms(20);
    end = true;
  });
  in_threads(3, [&](int id) {
    sigevent e{};
    e.sigev_notify = SIGEV_THREAD_ID;
    e.sigev_signo = SIGRTMIN + 1;
    e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    timer_t timer;
    MUST(timer_create(CLOCK_MONOTONIC, &e, &timer), 0);
    itimerspec t{{0, 3000000}, {0, 1000000}};
    MUST(timer_settime(timer, 0, &t, nullptr), 0);
    plain_work(id, end);
    MUST(timer_delete(timer), 0);
  });
  clock.join();
  every_ms(0);
  long drained = 0;
  char text[4096];
  for (ssize_t n; (n = read(handler_pipe[0], text, sizeof text)) > 0;) drained += n;
  must("what handlers wrote is in the pipe", drained, handler_bytes);
  must("signals came", handled > 5, 1);
  close_handler_files();
}

namespace {
std::atomic<int> caught{0};
void count_only(int, siginfo_t*, void*) { ++caught; }

// Sends a signal to the thread again and again until it is told to stop: one that comes before the call
// begins interrupts nothing.
template <typename F>
long interrupted_by(int signal, F call) {
  const pthread_t self = pthread_self();
  std::atomic<bool> done{false};
  std::thread sender([&] {
    while (!done) {
      guest::pause_ms(2);
      if (!done) pthread_kill(self, signal);
    }
  });
  const long result = call();
  const int error = errno;
  done = true;
  sender.join();
  errno = error;
  return result;
}
}  // namespace

// A blocked call ends with EINTR, or goes on, as the handler's flags say.
void interruptions() {
  int ends[2];
  MUST(pipe(ends), 0);
  handle(SIGUSR1, count_only, 0);
  handle(SIGUSR2, count_only, SA_RESTART);
  char c = 0;
  int interrupted = 0, restarted = 0;
  for (int i = 0; i < 40; ++i) {
    if (interrupted_by(SIGUSR1, [&] { return read(ends[0], &c, 1); }) == -1 && errno == EINTR) ++interrupted;
  }
  must("reads that a signal ended", interrupted, 40);
  for (int i = 0; i < 20; ++i) {
    std::thread later([&] {
      guest::pause_ms(12);
      MUST(write(ends[1], "r", 1), 1);
    });
    c = 0;
    if (interrupted_by(SIGUSR2, [&] { return read(ends[0], &c, 1); }) == 1 && c == 'r') ++restarted;
    later.join();
  }
  must("reads that went on after a signal", restarted, 20);
  // A pipe that is full: what was taken before the signal is the result.
  MUST(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
  std::string much(10000, 'w');
  const long wrote = interrupted_by(SIGUSR1, [&] { return write(ends[1], much.data(), much.size()); });
  must("a write that a signal ended", wrote, 4096);
  for (long n = 0; n < 4096;) {
    char text[4096];
    const ssize_t r = read(ends[0], text, sizeof text);
    if (r <= 0) { bad("reading it", r, 4096); break; }
    n += r;
  }
  // Every queued signal comes.
  sigset_t set, old;
  sigemptyset(&set), sigaddset(&set, SIGRTMIN + 2);
  handle(SIGRTMIN + 2, count_only, SA_RESTART);
  pthread_sigmask(SIG_BLOCK, &set, &old);
  caught = 0;
  for (int i = 0; i < 50; ++i) MUST(sigqueue(getpid(), SIGRTMIN + 2, {}), 0);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  for (int i = 0; i < 2000 && caught < 50; ++i) guest::pause_ms(1);
  must("queued signals", caught, 50);
  close(ends[0]), close(ends[1]);
}

namespace {
thread_local sigjmp_buf jump;
thread_local volatile sig_atomic_t may_jump = 0;
void jumping(int, siginfo_t*, void*) {
  if (may_jump) siglongjmp(jump, 1);
}
}  // namespace

// Handlers that never return: the call that they interrupted was made or was not, and nothing stays held.
void jumps() {
  handle(SIGALRM, jumping, 0);
  const std::string name = options.dir + "/jumps";
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
  std::atomic<bool> end{false};
  std::atomic<long> others{0};
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread other([&] {  // writes at the same offset: must never wait for one who is gone
    Item r = make_item(1, 0);
    while (!end) {
      MUST(write(fd, &r, sizeof r), sizeof r);
      if (++others % 512 == 0) guest::pause_ms(1);
    }
  });
  volatile long mine = 0, jumped = 0;
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  every_ms(2);
  while (time_left() || jumped < 20) {
    if (sigsetjmp(jump, 1) == 0) {
      may_jump = 1;
      for (;;) {
        Item r = make_item(2, 0);
        MUST(write(fd, &r, sizeof r), sizeof r);
        mine = mine + 1;
      }
    }
    may_jump = 0;
    jumped = jumped + 1;
    // A jump out of a handler that came between the write and the count has one more record written.
  }
  every_ms(0);
  end = true;
  other.join();
  long of[3] = {0, 0, 0};
  const long records = lseek(fd, 0, SEEK_END) / (long)sizeof(Item);
  must("whole records", lseek(fd, 0, SEEK_END) % (long)sizeof(Item), 0);
  std::vector<Item> all(4096);
  for (long i = 0; i < records; i += 4096) {
    const long n = pread(fd, all.data(), all.size() * sizeof(Item), i * (long)sizeof(Item)) / (long)sizeof(Item);
    for (long k = 0; k < n; ++k) {
      const Item& r = all[(size_t)k];
      if (!must("a record is whole", r.check == check_of(r) && (r.writer == 1 || r.writer == 2), 1)) return;
      ++of[r.writer];
    }
  }
  must("records of the other thread", of[1], others);
  if (of[2] < mine || of[2] > mine + jumped) bad("records of the jumping thread", of[2], mine);
  close(fd);
  unlink(name.c_str());
}

// Another process sends signals as fast as it can, to a process of several working threads.
void storm() {
  open_handler_files();
  handle(SIGUSR1, busy_handler, SA_RESTART);
  handle(SIGUSR2, busy_handler, SA_RESTART);
  handle(SIGALRM, busy_handler, SA_RESTART);
  const pid_t target = getpid();
  auto* end_all = (std::atomic<bool>*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  std::vector<pid_t> senders;
  for (int i = 0; i < 2; ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      while (!*end_all) {
        if (kill(target, i ? SIGUSR1 : SIGALRM) != 0) _exit(3);
        // Where each handler's calls stop (--stub=off, strace), signals come faster than they can be taken: no thread would
        // ever see that the time is over.
        if (time_left()) spin(3000);
        else guest::pause_ms(20);
      }
      _exit(0);
    }
    senders.push_back(pid);
  }
  std::thread clock([&] {
    while (time_left() || handled < 100) guest::pause_ms(20);
    *end_all = true;
  });
  in_threads(2, [&](int id) { plain_work(20 + id, *end_all); });
  clock.join();
  for (pid_t pid : senders) must("the sender's end", wait_for(pid), 0);
  munmap(end_all, 4096);
  close_handler_files();
}

}  // namespace stress
