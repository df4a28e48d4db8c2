// What a signal leaves alone: the stack that it is handled on, and the registers of the interrupted code.
#include <sys/syscall.h>
#include <ucontext.h>

#include "../stub_stress.h"
#include "handlers.h"

namespace stress {
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

}  // namespace stress
