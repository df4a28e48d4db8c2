// Signals at every instruction: handlers that do I/O of their own while the interrupted code is in the middle
// of a call, that jump out of it, that restart it or don't.
#include <csetjmp>
#include <sys/time.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

#include "../stub_stress.h"

namespace stress {
namespace {

int handler_pipe[2] = {-1, -1};
int handler_file = -1;
std::atomic<long> handled{0}, handler_bytes{0};

// What a handler may do: its own calls, with results that it checks; errno stays the interrupted code's.
void busy_handler(int signal, siginfo_t*, void*) {
  const int error = errno;
  ++handled;
  const char text[8] = "handler";
  if (write(handler_pipe[1], text, 8) == 8) handler_bytes += 8;
  char back[8];
  if (pwrite(handler_file, text, 8, 0) != 8) bad("pwrite in a handler", -1, 8);
  if (pread(handler_file, back, 8, 0) != 8 || memcmp(back, text, 8) != 0) bad("pread in a handler", -1, 8);
  const int fd = dup(handler_file);
  if (fd < 0 || close(fd) != 0) bad("dup and close in a handler", fd, 0);
  if (signal == SIGUSR1) raise(SIGUSR2);
  else if (signal != SIGUSR2) raise(SIGUSR1);
  errno = error;
}

void handle(int signal, void (*f)(int, siginfo_t*, void*), int flags) {
  struct sigaction a{};
  a.sa_sigaction = f;
  a.sa_flags = SA_SIGINFO | flags;
  sigaction(signal, &a, nullptr);
}

void every_ms(double ms) {
  const long us = (long)(ms * 1000);
  itimerval t{{0, us}, {0, us}};
  setitimer(ITIMER_REAL, &t, nullptr);
}

void open_handler_files() {
  MUST(pipe2(handler_pipe, O_NONBLOCK), 0);
  handler_file = open((options.dir + "/handler").c_str(), O_CREAT | O_RDWR | O_TRUNC, 0600);
  handled = handler_bytes = 0;
}
void close_handler_files() {
  for (int fd : {handler_pipe[0], handler_pipe[1], handler_file}) close(fd);
}

// Reads and writes of known content; every result is what it would be without a signal.
void plain_work(int id, const std::atomic<bool>& end) {
  const std::string name = options.dir + "/work-" + std::to_string(id);
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600), null = open("/dev/null", O_WRONLY);
  const int zero = open("/dev/zero", O_RDONLY);
  for (int n = 0; !end; ++n) {
    Item r = make_item(id, n), got{};
    const off_t at = (n % 100) * (off_t)sizeof r;
    MUST(pwrite(fd, &r, sizeof r, at), sizeof r);
    errno = 4711;
    MUST(pread(fd, &got, sizeof got, at), sizeof got);
    MUST(errno, 4711);
    must("what was written is read", memcmp(&r, &got, sizeof r), 0);
    MUST(write(null, &r, 8), 8);
    iovec v{&got, 8};
    MUST(readv(zero, &v, 1), 8);
    MUST(got.writer, 0);
    errno = 0;
    MUST(fsync(-1), -1);
    MUST(errno, EBADF);
  }
  for (int f : {fd, null, zero}) close(f);
  unlink(name.c_str());
}

}  // namespace

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

namespace {
char* alt_from;
constexpr size_t kAlt = 64 << 10;
std::atomic<long> on_alt{0};
void deep_handler(int s, siginfo_t* i, void* u) {
  char big[8192];
  memset(big, 7, sizeof big);
  if (big < alt_from || big > alt_from + kAlt) bad("the handler's stack", 0, 1);
  const int error = errno;
  if (pwrite(handler_file, big, sizeof big, 0) != (ssize_t)sizeof big) bad("pwrite from there", -1, sizeof big);
  errno = error;
  for (char c : big) if (c != 7) { bad("the handler's stack keeps its content", c, 7); break; }
  ++on_alt;
  // The stack pointer of what was interrupted is the application's: never in the low 4 GiB.
  const auto sp = (unsigned long)((ucontext_t*)u)->uc_mcontext.gregs[REG_RSP];
  const auto ip = (unsigned long)((ucontext_t*)u)->uc_mcontext.gregs[REG_RIP];
  if (sp < (1ul << 32)) bad("stack pointer of the interrupted code", (long)sp, 0);
  // Nor is its instruction pointer: programs without PIE are not what this one is.
  if (ip < (1ul << 32)) bad("instruction pointer of the interrupted code", (long)ip, 0);
  (void)s, (void)i;
}
}  // namespace

// An alternate stack, and a thread whose own stack is as small as it may be.
void stacks() {
  open_handler_files();
  alt_from = (char*)mmap(nullptr, kAlt, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::atomic<bool> end{false};
  std::thread clock([&] {
    while (time_left()) guest::pause_ms(20);
    end = true;
  });
  std::thread work([&] {
    stack_t s{alt_from, 0, kAlt};
    MUST(sigaltstack(&s, nullptr), 0);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    plain_work(7, end);
  });
  pthread_attr_t a;
  pthread_attr_init(&a);
  pthread_attr_setstacksize(&a, PTHREAD_STACK_MIN + 4096);
  pthread_t small;
  MUST(pthread_create(&small, &a, [](void* p) -> void* {
    const int null = open("/dev/null", O_WRONLY);
    while (!*(std::atomic<bool>*)p) MUST(write(null, "small", 5), 5);
    close(null);
    return nullptr;
  }, &end), 0);
  handle(SIGALRM, deep_handler, SA_ONSTACK);
  every_ms(2);
  work.join();
  every_ms(0);
  pthread_join(small, nullptr);
  clock.join();
  signal(SIGALRM, SIG_IGN);  // one may be pending: this thread is not on that stack
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  must("handlers ran on it", on_alt > 3, 1);
  munmap(alt_from, kAlt);
  close_handler_files();
}

namespace {
// The system call instruction keeps every register but rax, rcx and r11, and what lies below the stack pointer.
struct Seen {
  unsigned long regs[12], zone[14], result;
};
__attribute__((noinline)) void call_with_all(long nr, long fd, const char* text, long size, Seen* seen) {
  asm volatile(
      "lea -128(%%rsp),%%rsp\n push %%rbp\n push %%rbx\n push %[seen]\n sub $256,%%rsp\n"
      "mov $0x1111,%%rbx\n mov $0x2222,%%rbp\n mov $0x3333,%%r8\n mov $0x4444,%%r9\n mov $0x5555,%%r10\n"
      "mov $0x6666,%%r12\n mov $0x7777,%%r13\n mov $0x8888,%%r14\n mov $0x9999,%%r15\n"
      "movq %%r8,%%xmm3\n movq %%r9,%%xmm15\n"
      "movq $0x7a01,-8(%%rsp)\n movq $0x7a02,-64(%%rsp)\n movq $0x7a03,-128(%%rsp)\n"
      "syscall\n"
      "mov 256(%%rsp),%%rcx\n"
      "mov %%rax,208(%%rcx)\n"
      "mov %%rbx,0(%%rcx)\n mov %%rbp,8(%%rcx)\n mov %%r8,16(%%rcx)\n mov %%r9,24(%%rcx)\n mov %%r10,32(%%rcx)\n"
      "mov %%r12,40(%%rcx)\n mov %%r13,48(%%rcx)\n mov %%r14,56(%%rcx)\n mov %%r15,64(%%rcx)\n"
      "mov %%rdi,72(%%rcx)\n mov %%rsi,80(%%rcx)\n mov %%rdx,88(%%rcx)\n"
      "mov -8(%%rsp),%%rax\n mov %%rax,96(%%rcx)\n mov -64(%%rsp),%%rax\n mov %%rax,104(%%rcx)\n"
      "mov -128(%%rsp),%%rax\n mov %%rax,112(%%rcx)\n"
      "movq %%xmm3,%%rax\n mov %%rax,120(%%rcx)\n movq %%xmm15,%%rax\n mov %%rax,128(%%rcx)\n"
      "add $264,%%rsp\n pop %%rbx\n pop %%rbp\n lea 128(%%rsp),%%rsp\n"
      : "+a"(nr), "+D"(fd), "+S"(text), "+d"(size)
      : [seen] "c"(seen)
      : "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm3", "xmm15", "memory", "cc");
}

void check_registers(int fd) {
  const char text[] = "registers";
  Seen s{};
  call_with_all(SYS_write, fd, text, 9, &s);
  const unsigned long want[] = {0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, 0x8888, 0x9999,
                                (unsigned long)fd, (unsigned long)text, 9};
  for (int i = 0; i < 12; ++i) must("a register across a call", (long)s.regs[i], (long)want[i]);
  for (int i = 0; i < 3; ++i) must("the red zone", (long)s.zone[i], 0x7a01 + i);
  must("an xmm register", (long)s.zone[3], 0x3333);
  must("an xmm register", (long)s.zone[4], 0x4444);
  must("the result", (long)s.result, 9);
}
}  // namespace

void registers() {
  static_assert(offsetof(Seen, result) == 208);
  open_handler_files();
  handle(SIGALRM, busy_handler, SA_RESTART);
  handle(SIGUSR1, busy_handler, 0);
  handle(SIGUSR2, busy_handler, 0);
  const std::string name = options.dir + "/registers";
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_APPEND, 0600), null = open("/dev/null", O_WRONLY);
  every_ms(2);
  for (long n = 0; time_left() || n < 300; ++n) {
    check_registers(n % 2 ? fd : null);
    if (n % 20000 == 19999) MUST(ftruncate(fd, 0), 0);
  }
  every_ms(0);
  close(fd), close(null);
  unlink(name.c_str());
  close_handler_files();
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
        spin(3000);
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
