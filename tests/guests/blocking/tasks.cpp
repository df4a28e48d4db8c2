// Sleeps, futexes, children and signals.
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "../blocking.h"

namespace blocking {

void add_sleeps() {
  timed("nanosleep", 0, [] { timespec t = span(), rest{}; return nanosleep(&t, &rest); });
  timed("nanosleep(child)", 4, [] { timespec t = span(), rest{}; return nanosleep(&t, &rest); });
  auto sleep_as = [](clockid_t clock, int flags) {
    timespec t = flags ? after(clock, wait_seconds) : span();
    int r = clock_nanosleep(clock, flags, &t, nullptr);
    errno = r;
    return r ? -1L : 0L;
  };
  timed("clock_nanosleep(rel)", 0, [=] { return sleep_as(CLOCK_MONOTONIC, 0); });
  timed("clock_nanosleep(abs)", 0, [=] { return sleep_as(CLOCK_MONOTONIC, TIMER_ABSTIME); });
  timed("clock_nanosleep(abs real)", 4, [=] { return sleep_as(CLOCK_REALTIME, TIMER_ABSTIME); }, 0, 0, CLOCK_REALTIME);
  timed("clock_nanosleep(abs boot)", 4, [=] { return sleep_as(CLOCK_BOOTTIME, TIMER_ABSTIME); }, 0, 0, CLOCK_BOOTTIME);
}

void add_futexes() {
  static auto word = [](int i) { return &shared->futexes[i]; };
  static auto wake = [](int i) {
    *word(i) = 1;
    futex(word(i), FUTEX_WAKE, 100);
  };
  // A waiter that comes after the wake sees the changed word: EAGAIN is its right answer.
  static auto woken = [](long r) { return r == 0 || (r == -1 && errno == EAGAIN); };
  released("futex(thread)", 0, [] { return futex(word(0), FUTEX_WAIT, 0); }, woken, [] { wake(0); });
  released("futex(shared)", 1, [] { return futex(word(1), FUTEX_WAIT, 0); }, woken, [] { wake(1); });
  released("futex(bitset)", 0, [] { return futex(word(2), FUTEX_WAIT_BITSET, 0, nullptr, 4); }, woken, [] {
    *word(2) = 1;
    futex(word(2), FUTEX_WAKE_BITSET, 100, nullptr, 4);
  });
  timed("futex(timed)", 0, [] { timespec t = span(); return futex(word(3), FUTEX_WAIT, 0, &t); }, -1, ETIMEDOUT);
  timed("futex(bitset abs)", 5, [] {
    timespec t = after(CLOCK_MONOTONIC, wait_seconds);
    return futex(word(4), FUTEX_WAIT_BITSET, 0, &t, -1);
  }, -1, ETIMEDOUT);
  released("futex_waitv", 0, [] {
    struct { uint64_t value, address; uint32_t flags, reserved; } v{0, (uint64_t)word(5), FUTEX_32, 0};
    return syscall(449, &v, 1, 0, nullptr, CLOCK_MONOTONIC);
  }, woken, [] { wake(5); });

  static pthread_mutex_t pi;
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
  must(pthread_mutex_init(&pi, &a) == 0 && pthread_mutex_lock(&pi) == 0, "pi mutex");
  released("futex(pi mutex)", 0, [] { return pthread_mutex_lock(&pi); }, returns(0), [] { pthread_mutex_unlock(&pi); });

  static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
  static pthread_cond_t c = PTHREAD_COND_INITIALIZER, never = PTHREAD_COND_INITIALIZER;
  static bool flag = false;
  released("pthread_cond_wait", 0, [] {
    pthread_mutex_lock(&m);
    long r = 0;
    while (!flag && r == 0) r = pthread_cond_wait(&c, &m);
    pthread_mutex_unlock(&m);
    return r;
  }, returns(0), [] {
    pthread_mutex_lock(&m);
    flag = true;
    pthread_cond_broadcast(&c);
    pthread_mutex_unlock(&m);
  });
  if (timed_mode) {
    timed("pthread_cond_timedwait", 0, [] {
      static pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
      timespec t = after(CLOCK_REALTIME, wait_seconds);
      pthread_mutex_lock(&own);
      int r = 0;
      while (r == 0) r = pthread_cond_timedwait(&never, &own, &t);
      pthread_mutex_unlock(&own);
      return r;
    }, ETIMEDOUT, 0, CLOCK_REALTIME);
  }
  must(sem_init(&shared->semaphore, 1, 0) == 0, "sem_init");
  released("sem_wait", 5, [] { return sem_wait(&shared->semaphore); }, returns(0), [] { sem_post(&shared->semaphore); });
}

void add_children() {
  struct Gate { int fds[2]; };
  static Gate gates[3];
  for (auto& g : gates) must(pipe(g.fds) == 0, "pipe");
  static auto child = [](int gate, int code) {
    pid_t pid = fork();
    if (pid == 0) {
      char c;
      _exit(read(gates[gate].fds[0], &c, 1) == 1 ? code : 90);
    }
    return pid;
  };
  static auto open_gate = [](int gate) { must(write(gates[gate].fds[1], "g", 1) == 1, "write"); };
  released("wait4", 9, [] {
    pid_t pid = child(0, 5);
    int status = 0;
    pid_t r = waitpid(pid, &status, 0);
    return r == pid && WIFEXITED(status) && WEXITSTATUS(status) == 5 ? 0L : -1L;
  }, returns(0), [] { open_gate(0); });
  released("waitid", 10, [] {
    pid_t pid = child(1, 6);
    siginfo_t info{};
    int r = waitid(P_PID, pid, &info, WEXITED);
    return r == 0 && info.si_pid == pid && info.si_status == 6 ? 0L : -1L;
  }, returns(0), [] { open_gate(1); });
  static pid_t watched = child(2, 7);
  static int pidfd = (int)syscall(SYS_pidfd_open, watched, 0);
  must(pidfd >= 0, "pidfd_open");
  released("poll(pidfd)", 0, [] {
    pollfd p{pidfd, POLLIN, 0};
    long r = poll(&p, 1, -1);
    int status = 0;
    if (waitpid(watched, &status, 0) != watched || WEXITSTATUS(status) != 7) return -1L;
    return r;
  }, returns(1), [] { open_gate(2); });
}

void add_signals() {
  signalled("pause", 11, [] { return pause(); });
  signalled("sigsuspend", 12, [] {
    sigset_t none;
    sigfillset(&none);
    sigdelset(&none, SIGUSR1);
    return sigsuspend(&none);
  });
  static sigset_t timed_set, wait_set, fd_set_;
  sigemptyset(&timed_set), sigaddset(&timed_set, SIGUSR2);
  sigemptyset(&wait_set), sigaddset(&wait_set, SIGRTMIN + 3);
  sigemptyset(&fd_set_), sigaddset(&fd_set_, SIGRTMIN + 4);
  timed("rt_sigtimedwait", 0, [] { timespec t = span(); return sigtimedwait(&timed_set, nullptr, &t); }, -1, EAGAIN);
  released("sigwaitinfo", 0, [] { return sigwaitinfo(&wait_set, nullptr); }, [](long r) { return r == SIGRTMIN + 3; },
           [] { kill(getpid(), SIGRTMIN + 3); });
  static int signal_fd = signalfd(-1, &fd_set_, 0);
  released("read(signalfd)", 0, [] { signalfd_siginfo i; return read(signal_fd, &i, sizeof i); },
           returns(sizeof(signalfd_siginfo)), [] { kill(getpid(), SIGRTMIN + 4); });
}

}  // namespace blocking
