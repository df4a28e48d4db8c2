// Signals as a program sees them: handlers and their siginfo, masks, restarting and interrupted calls,
// queues, timers, alternate stacks, faults, deaths by signal, registers that survive a storm.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <thread>
#include <ucontext.h>

#include "guest.h"

namespace {

volatile int count, code, value, sender, nested, depth;
void* volatile address;
sigjmp_buf jump;

int bump() {
  const int before = count;
  count = before + 1;
  return before;
}

void note(int, siginfo_t* info, void*) {
  count = count + 1;
  code = info->si_code;
  value = info->si_value.sival_int;
  sender = info->si_pid;
  address = info->si_addr;
}

void handle(int signal, void (*f)(int, siginfo_t*, void*), int flags) {
  struct sigaction a{};
  a.sa_sigaction = f;
  a.sa_flags = SA_SIGINFO | flags;
  sigaction(signal, &a, nullptr);
  count = 0;
}

void timer_ms(long ms, long again = 0) {
  itimerval t{{again / 1000, again % 1000 * 1000}, {ms / 1000, ms % 1000 * 1000}};
  setitimer(ITIMER_REAL, &t, nullptr);
}

void delivery() {
  handle(SIGUSR1, note, 0);
  IS("kill self", kill(getpid(), SIGUSR1), 0);
  IS("delivered before kill returned", count, 1);
  IS("si_code of kill", code, SI_USER);
  IS("si_pid of kill", sender == getpid(), 1);
  IS("raise", raise(SIGUSR1), 0);
  IS("si_code of tgkill", code, SI_TKILL);
  sigval v{};
  v.sival_int = 4711;
  IS("sigqueue", sigqueue(getpid(), SIGUSR1, v), 0);
  IS("si_code of sigqueue", code, SI_QUEUE);
  IS("si_value", value, 4711);
  FAILS("kill of a missing process", kill(4194000, 0), ESRCH);
  FAILS("kill with a bad signal", kill(getpid(), 65), EINVAL);
  FAILS("handler for SIGKILL", signal(SIGKILL, SIG_IGN) == SIG_ERR ? -1 : 0, EINVAL);
}

void masks() {
  sigset_t set, old, pending;
  sigemptyset(&set), sigaddset(&set, SIGUSR1), sigaddset(&set, SIGRTMIN + 1);
  sigprocmask(SIG_BLOCK, &set, &old);
  handle(SIGUSR1, note, 0);
  kill(getpid(), SIGUSR1), kill(getpid(), SIGUSR1);
  IS("blocked signal is not delivered", count, 0);
  sigpending(&pending);
  IS("it is pending", sigismember(&pending, SIGUSR1), 1);
  sigprocmask(SIG_SETMASK, &old, nullptr);
  IS("a standard signal comes once", count, 1);

  static int order[8], arrived;
  arrived = 0;
  handle(SIGRTMIN + 1, [](int, siginfo_t* i, void*) { order[arrived++ & 7] = i->si_value.sival_int; }, 0);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  for (int i = 0; i < 5; ++i) {
    sigval v{};
    v.sival_int = i * 10;
    sigqueue(getpid(), SIGRTMIN + 1, v);
  }
  siginfo_t info{};
  IS("sigtimedwait takes one", sigtimedwait(&set, &info, nullptr), SIGRTMIN + 1);
  IS("the first queued", info.si_value.sival_int, 0);
  sigprocmask(SIG_SETMASK, &old, nullptr);
  IS("the others are delivered", arrived, 4);
  IS("in order", order[0] == 10 && order[1] == 20 && order[2] == 30 && order[3] == 40, 1);

  sigprocmask(SIG_BLOCK, &set, nullptr);
  int fd = signalfd(-1, &set, SFD_NONBLOCK);
  kill(getpid(), SIGUSR1);
  signalfd_siginfo s{};
  IS("read from a signalfd", read(fd, &s, sizeof s), sizeof s);
  IS("its signal", s.ssi_signo, SIGUSR1);
  FAILS("an empty signalfd", read(fd, &s, sizeof s), EAGAIN);
  close(fd);
  timespec zero{0, 20000000};
  FAILS("sigtimedwait ends", sigtimedwait(&set, nullptr, &zero), EAGAIN);
  sigprocmask(SIG_SETMASK, &old, nullptr);
}

void restarting() {
  int p[2];
  IS("pipe", pipe(p), 0);
  char c = 0;
  handle(SIGALRM, note, 0);
  timer_ms(30);
  FAILS("read is interrupted without SA_RESTART", read(p[0], &c, 1), EINTR);
  handle(SIGALRM, note, SA_RESTART);
  std::thread later([&] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    guest::pause_ms(150);
    if (write(p[1], "r", 1) != 1) _exit(97);
  });
  timer_ms(30);
  IS("read restarts with SA_RESTART", read(p[0], &c, 1), 1);
  IS("the handler ran", count, 1);
  later.join();
  timer_ms(30);
  FAILS("poll is interrupted anyway", poll(nullptr, 0, 2000), EINTR);
  timer_ms(30);
  int ep = epoll_create1(0);
  epoll_event e;
  FAILS("epoll_wait is interrupted anyway", epoll_wait(ep, &e, 1, 2000), EINTR);
  close(ep);
  timer_ms(30);
  FAILS("pause", pause(), EINTR);
  timer_ms(50);
  timespec t{5, 0}, rest{0, 0};
  FAILS("nanosleep is interrupted", nanosleep(&t, &rest), EINTR);
  IS("its remaining time", rest.tv_sec == 4 && rest.tv_nsec > 0, 1);
  timer_ms(30);
  IS("clock_nanosleep is interrupted", clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &rest), EINTR);
  sigset_t none;
  sigemptyset(&none);
  timer_ms(30);
  FAILS("sigsuspend", sigsuspend(&none), EINTR);
  signal(SIGALRM, SIG_IGN);
  timer_ms(20);
  t = {0, 120000000};
  IS("an ignored signal does not end nanosleep", nanosleep(&t, nullptr), 0);
  timer_ms(20);
  IS("an ignored signal does not end poll", poll(nullptr, 0, 120), 0);
  int sv[2];
  socketpair(AF_UNIX, SOCK_STREAM, 0, sv);
  handle(SIGALRM, note, SA_RESTART);
  timeval v{0, 150000};
  setsockopt(sv[0], SOL_SOCKET, SO_RCVTIMEO, &v, sizeof v);
  timer_ms(30);
  FAILS("recv with SO_RCVTIMEO is not restarted", recv(sv[0], &c, 1, 0), EINTR);
  close(sv[0]), close(sv[1]), close(p[0]), close(p[1]);
}

void flags_and_stacks() {
  handle(SIGUSR1, [](int, siginfo_t*, void*) {
    nested = nested + 1;
    depth = depth < nested ? nested : depth;
    if (bump() < 3) raise(SIGUSR1);
    nested = nested - 1;
  }, SA_NODEFER);
  raise(SIGUSR1);
  IS("SA_NODEFER nests", depth, 4);
  depth = 0;
  nested = 0;
  handle(SIGUSR1, [](int, siginfo_t*, void*) {
    nested = nested + 1;
    depth = depth < nested ? nested : depth;
    if (bump() < 3) raise(SIGUSR1);
    nested = nested - 1;
  }, 0);
  raise(SIGUSR1);
  IS("without it they follow each other", depth, 1);
  IS("each of them", count, 4);
  handle(SIGUSR2, note, SA_RESETHAND);
  raise(SIGUSR2);
  struct sigaction a{};
  sigaction(SIGUSR2, nullptr, &a);
  IS("SA_RESETHAND", a.sa_handler == SIG_DFL, 1);

  static char stack[65536];
  stack_t s{stack, 0, sizeof stack}, off{};
  off.ss_flags = SS_DISABLE;
  sigaltstack(&s, nullptr);
  static volatile bool on_stack;
  handle(SIGUSR1, [](int, siginfo_t*, void*) {
    char here;
    on_stack = &here >= stack && &here < stack + sizeof stack;
  }, SA_ONSTACK);
  raise(SIGUSR1);
  IS("SA_ONSTACK", on_stack, 1);
  sigaltstack(&off, nullptr);
}

void faults() {
  volatile int zero = 0, sink = 0;
  handle(SIGSEGV, [](int, siginfo_t* i, void*) { code = i->si_code; address = i->si_addr; siglongjmp(jump, 1); }, 0);
  if (sigsetjmp(jump, 1) == 0) *(volatile char*)0x123 = 1;
  IS("SIGSEGV's address", (long)address, 0x123);
  IS("SIGSEGV's code", code, SEGV_MAPERR);
  void* page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (sigsetjmp(jump, 1) == 0) *(volatile char*)page = 1;
  IS("SIGSEGV on a read-only page", code, SEGV_ACCERR);
  munmap(page, 4096);
  handle(SIGFPE, [](int, siginfo_t* i, void*) { code = i->si_code; siglongjmp(jump, 1); }, 0);
  if (sigsetjmp(jump, 1) == 0) sink = 1000 / zero;
  IS("SIGFPE", code, FPE_INTDIV);
  handle(SIGILL, [](int, siginfo_t* i, void*) { code = i->si_code; siglongjmp(jump, 1); }, 0);
  code = 0;
  if (sigsetjmp(jump, 1) == 0) asm volatile("ud2");
  IS("SIGILL", code, ILL_ILLOPN);
  handle(SIGTRAP, note, 0);
  asm volatile("int3");
  IS("int3", count, 1);
  IS("its code", code, SI_KERNEL);
  handle(SIGTRAP, [](int, siginfo_t*, void* c) {
    count = count + 1;
    ((ucontext_t*)c)->uc_mcontext.gregs[REG_EFL] &= ~0x100L;
  }, 0);
  asm volatile("pushf; orq $0x100, (%%rsp); popf; nop; nop" ::: "cc", "memory");
  IS("single step by the program itself", count, 1);
  signal(SIGTRAP, SIG_DFL);
  char name[] = "/tmp/guest-signals-XXXXXX";
  int fd = mkstemp(name);
  unlink(name);
  void* map = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  handle(SIGBUS, [](int, siginfo_t* i, void*) { code = i->si_code; siglongjmp(jump, 1); }, 0);
  if (sigsetjmp(jump, 1) == 0) *(volatile char*)map = 1;
  IS("SIGBUS beyond the end of a file", code, BUS_ADRERR);
  munmap(map, 4096), close(fd);
  for (int s : {SIGSEGV, SIGFPE, SIGILL, SIGBUS}) signal(s, SIG_DFL);
  (void)sink;
}

int death(void (*how)()) {
  pid_t child = fork();
  if (child == 0) {
    rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    for (int s = 1; s < 32; ++s) signal(s, SIG_DFL);
    how();
    _exit(77);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

void deaths() {
  IS("death by SIGTERM", death([] { raise(SIGTERM); }), 1000 + SIGTERM);
  IS("death by SIGKILL", death([] { kill(getpid(), SIGKILL); }), 1000 + SIGKILL);
  IS("death by SIGSEGV", death([] { *(volatile int*)8 = 1; }), 1000 + SIGSEGV);
  IS("death by abort", death([] { abort(); }), 1000 + SIGABRT);
  IS("death by int3", death([] { asm volatile("int3"); }), 1000 + SIGTRAP);
  IS("death by SIGPIPE", death([] { int p[2]; if (pipe(p) == 0) { close(p[0]); (void)!write(p[1], "x", 1); } }), 1000 + SIGPIPE);
  IS("death by SIGALRM", death([] { timer_ms(10); for (;;) pause(); }), 1000 + SIGALRM);
  IS("death by a real-time signal", death([] { raise(SIGRTMIN + 7); }), 1000 + SIGRTMIN + 7);
  IS("death by SIGXCPU", death([] { rlimit l{1, 2}; setrlimit(RLIMIT_CPU, &l); for (;;) {} }), 1000 + SIGXCPU);
  IS("death by a blocked fault", death([] { sigset_t a; sigfillset(&a); sigprocmask(SIG_BLOCK, &a, nullptr); *(volatile int*)8 = 1; }), 1000 + SIGSEGV);
  IS("death of a thread ends all", death([] { std::thread([] { raise(SIGTERM); }).detach(); for (;;) pause(); }), 1000 + SIGTERM);
  IS("parent death signal", death([] {
    int p[2];
    if (pipe(p) != 0) _exit(1);
    pid_t middle = fork();
    if (middle == 0) {
      if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGUSR2);
        signal(SIGUSR2, [](int) { _exit(0); });
        close(p[0]);
        if (write(p[1], "r", 1) != 1) _exit(1);
        for (;;) pause();
      }
      guest::pause_ms(100);
      _exit(0);
    }
    close(p[1]);
    char c;
    waitpid(middle, nullptr, 0);
    _exit(read(p[0], &c, 1) == 1 && read(p[0], &c, 1) == 0 ? 5 : 6);
  }), 5);
}

void timers() {
  handle(SIGALRM, note, SA_RESTART);
  timer_ms(10, 10);
  while (count < 10) pause();
  timer_ms(0);
  IS("interval timer", count >= 10, 1);
  timer_t id;
  sigevent e{};
  e.sigev_notify = SIGEV_THREAD_ID;
  e.sigev_signo = SIGRTMIN + 2;
  e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
  handle(SIGRTMIN + 2, note, 0);
  IS("timer_create", timer_create(CLOCK_MONOTONIC, &e, &id), 0);
  itimerspec t{{0, 0}, {0, 20000000}};
  timer_settime(id, 0, &t, nullptr);
  timespec s{2, 0};
  FAILS("its signal ends nanosleep", nanosleep(&s, nullptr), EINTR);
  IS("its code", code, SI_TIMER);
  timer_delete(id);
}

void storm() {
  handle(SIGALRM, note, SA_RESTART);
  int null = open("/dev/null", O_WRONLY);
  int zero = open("/dev/zero", O_RDONLY);
  timer_ms(1, 1);
  long wrong = 0, calls = 0, failed = 0;
  for (const double until = guest::seconds() + 1.0; guest::seconds() < until;) {
    unsigned long a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, r;
    asm volatile(
        "mov %[n], %%rax\n mov %[nr], %%rdi\n syscall\n"
        : "=&a"(r), "+b"(a), "+d"(b), "+S"(c)
        : [n] "r"((unsigned long)SYS_getppid), [nr] "r"(0UL)
        : "rcx", "r11", "rdi", "memory");
    wrong += a != 1 || b != 2 || c != 3 || d != 4 || e != 5 || f != 6;
    char block[512];
    memset(block, 7, sizeof block);
    failed += write(null, block, sizeof block) != sizeof block;
    failed += read(zero, block, 100) != 100;
    failed += block[50] != 0 || block[200] != 7;
    ++calls;
  }
  timer_ms(0);
  IS("registers in a storm of signals", wrong, 0);
  IS("calls in a storm of signals", failed, 0);
  IS("there was a storm", count > 20 && calls > 100, 1);
  close(null), close(zero);
}

void threads() {
  static pthread_t target;
  static volatile int hit;
  hit = 0;
  handle(SIGUSR1, [](int, siginfo_t*, void*) { hit = pthread_equal(pthread_self(), target) ? hit + 1 : -100; }, 0);
  static volatile bool stop = false;
  std::thread t([] { while (!stop) guest::pause_ms(1); });
  target = t.native_handle();
  for (int i = 0; i < 50; ++i) {
    pthread_kill(target, SIGUSR1);
    guest::pause_ms(1);
  }
  for (int i = 0; i < 100 && hit < 1; ++i) guest::pause_ms(10);
  stop = true;
  t.join();
  IS("directed signals reach their thread", hit > 0, 1);
}

}  // namespace

int main() {
  alarm(60);
  delivery();
  masks();
  restarting();
  flags_and_stacks();
  faults();
  deaths();
  timers();
  storm();
  threads();
  return guest::finish("signals");
}
