// System calls of the other tables of the same machine: int 0x80 and x32 numbers, from 64-bit code.
// Prints each result; what matters is that it is the same with and without supervision, that nothing
// is killed, and that no write slips by unseen.  arch32 FILE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int old(int number, unsigned a, unsigned b, unsigned c) {
  int result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
  return result;
}

static long x32(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number | 0x40000000L), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}

static void show(const char* what, long r) {
  if (r < 0 && r > -4096) printf("%-24s -%s\n", what, strerrorname_np((int)-r));
  else printf("%-24s %ld\n", what, r);
  fflush(stdout);
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  alarm(20);
  setvbuf(stdout, NULL, _IONBF, 0);
  char* low = mmap((void*)0x10000000, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (low == MAP_FAILED) return 3;
  unsigned at = (unsigned)(uintptr_t)low;
  strcpy(low, argv[1]);
  strcpy(low + 4096, "by int 0x80\n");
  const int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  show("int 0x80 getpid", old(20, 0, 0, 0) == getpid());
  show("int 0x80 write", old(4, (unsigned)fd, at + 4096, 12));
  show("int 0x80 write, bad fd", old(4, 999, at + 4096, 12));
  show("int 0x80 write, bad buffer", old(4, (unsigned)fd, 16, 12));
  show("int 0x80 lseek", old(19, (unsigned)fd, 0, SEEK_CUR));
  int other = old(5, at, O_RDWR, 0);
  show("int 0x80 open", other < 0 ? other : 0);
  show("int 0x80 read", old(3, (unsigned)other, at + 8192, 100));
  show("int 0x80 fsync", old(118, (unsigned)fd, 0, 0));
  show("int 0x80 close", old(6, (unsigned)other, 0, 0));
  show("int 0x80 no such call", old(9999, 0, 0, 0));
  show("x32 getpid", x32(39, 0, 0, 0) == getpid() ? 1 : x32(39, 0, 0, 0));
  show("x32 write", x32(1, fd, (long)(low + 4096), 12));
  show("x32 fsync", x32(74, fd, 0, 0));
  pid_t child = old(2, 0, 0, 0);
  if (child == 0) {
    show("int 0x80 fork", 0);
    old(1, 7, 0, 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  show("its exit", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  show("write of x86-64", write(fd, "by syscall\n", 11));
  char text[100] = "";
  ssize_t n = pread(fd, text, sizeof text - 1, 0);
  printf("%zd bytes: %s", n, text);
  return 0;
}
