// Reads and writes, offsets, copies, mappings and locks.
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "../iocalls.h"

namespace iocalls {

void reads_and_writes() {
  line("# read and write");
  char b[256] = "0123456789abcdef";
  iovec two[2] = {{b, 3}, {b + 10, 4}};
  int f = OPEN(open("rw", O_RDWR | O_CREAT | O_EXCL, 0644));
  DO(write(f, "hello world", 11));
  DO(write(f, "", 0));
  DO(write(f, bad, 4));
  DO(write(f, bad, 0));
  DO(read(f, b, 10));
  DO(lseek(f, 0, SEEK_SET));
  DO(read(f, b, 5));
  DO(read(f, bad, 5));
  DO(read(f, b, 0));
  DO(read(f, b, 100));
  DO(read(f, b, 100));
  DO(pread(f, b, 5, 6));
  DO(pread(f, b, 5, 1000));
  DO(pread(f, b, 5, -1));
  DO(pwrite(f, "PWRITE", 6, 20));
  DO(pwrite(f, "x", 1, -5));
  DO(lseek(f, 0, SEEK_CUR));
  DO(writev(f, two, 2));
  DO(writev(f, two, -1));
  DO(writev(f, two, 1025));
  DO(writev(f, (iovec*)bad, 2));
  DO(lseek(f, 2, SEEK_SET));
  DO(readv(f, two, 2));
  DO(preadv(f, two, 2, 1));
  DO(pwritev(f, two, 2, 40));
  DO(preadv2(f, two, 2, -1, 0));
  DO(pwritev2(f, two, 2, 60, RWF_DSYNC));
  DO(pwritev2(f, two, 2, 0, RWF_APPEND));
  DO(pwritev2(f, two, 2, -1, RWF_SYNC));
  DO(pwritev2(f, two, 2, 0, 0x8000));
  contents("rw");
  iovec part[2] = {{(void*)"good", 4}, {bad, 4}};
  DO(writev(f, part, 2));
  char* edge = (char*)mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  DO(munmap(edge + 4096, 4096));
  memset(edge, 'e', 4096);
  DO(pwrite(f, edge + 4000, 200, 200));
  DO(pwrite(f, edge + 4096, 10, 200));
  DO(pread(f, edge + 4090, 20, 0));
  contents("rw");
  DO(write(-1, "x", 1));
  DO(write(999, "x", 1));
  DO(read(999, b, 1));
  DO(write(f, "x", (size_t)-1));
  DO(close(f));
  DO(close(f));
  f = OPEN(open("rw", O_RDONLY));
  DO(write(f, "x", 1));
  DO(ftruncate(f, 1));
  DO(close(f));
  f = OPEN(open("rw", O_WRONLY));
  DO(read(f, b, 1));
  DO(close(f));
  f = OPEN(open("rw", O_PATH));
  DO(read(f, b, 1));
  DO(close(f));
  f = OPEN(open(".", O_RDONLY));
  DO(read(f, b, 1));
  DO(close(f));
}

void offsets_and_append() {
  line("# offsets, append, dup, fork");
  int f = OPEN(open("append", O_WRONLY | O_CREAT | O_APPEND, 0644));
  DO(write(f, "first\n", 6));
  DO(lseek(f, 0, SEEK_SET));
  DO(write(f, "second\n", 7));
  DO(lseek(f, 0, SEEK_CUR));
  DO(pwrite(f, "third\n", 6, 0));
  int d = OPEN(dup(f));
  DO(lseek(d, 3, SEEK_SET));
  DO(lseek(f, 0, SEEK_CUR));
  DO(fcntl(f, F_SETFL, 0));
  DO(write(d, "MID", 3));
  DO(fcntl(d, F_SETFL, O_APPEND));
  DO(write(f, "fourth\n", 7));
  pid_t child = fork();
  if (child == 0) _exit(write(d, "child\n", 6) == 6 ? 0 : 1);
  int s = -1;
  waitpid(child, &s, 0);
  DO(s);
  DO(lseek(f, 0, SEEK_CUR));
  DO(dup2(f, 200));
  DO(dup3(f, 201, O_CLOEXEC));
  DO(dup3(f, f, 0));
  DO(dup2(f, -1));
  DO(dup2(998, 5));
  DO(fcntl(201, F_GETFD));
  DO(fcntl(200, F_GETFD));
  DO(fcntl(f, F_DUPFD, 300));
  DO(write(300, "by dup\n", 7));
  DO(syscall(SYS_close_range, 200, 300, 0));
  DO(write(300, "x", 1));
  DO(close(d));
  DO(close(f));
  contents("append");
  f = OPEN(open("sparse", O_RDWR | O_CREAT, 0600));
  DO(pwrite(f, "end", 3, 1 << 20));
  DO(lseek(f, 0, SEEK_END));
  DO(lseek(f, -10, SEEK_END));
  DO(lseek(f, -10, SEEK_SET));
  DO(lseek(f, 0, 77));
  DO(lseek(f, 0, SEEK_HOLE));
  DO(lseek(f, 1 << 20, SEEK_DATA));
  DO(lseek(f, (1 << 20) + 3, SEEK_DATA));
  DO(close(f));
}

void copies() {
  line("# copies");
  int from = OPEN(open("source", O_RDWR | O_CREAT | O_TRUNC, 0600)), to = OPEN(open("target", O_RDWR | O_CREAT | O_TRUNC, 0600));
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "line " + std::to_string(i) + "\n";
  DO(write(from, text.data(), text.size()));
  loff_t a = 100, b = 10;
  DO(copy_file_range(from, &a, to, &b, 5000, 0));
  line("  offsets %ld %ld", (long)a, (long)b);
  DO(lseek(from, 0, SEEK_SET));
  DO(copy_file_range(from, nullptr, to, nullptr, 300, 0));
  DO(lseek(from, 0, SEEK_CUR));
  DO(lseek(to, 0, SEEK_CUR));
  DO(copy_file_range(from, nullptr, to, nullptr, 10, 1));
  DO(copy_file_range(from, nullptr, 999, nullptr, 10, 0));
  contents("target");
  off_t at = 50;
  DO(sendfile(to, from, &at, 400));
  line("  offset %ld", (long)at);
  DO(sendfile(to, from, nullptr, 100));
  DO(lseek(from, 0, SEEK_CUR));
  DO(lseek(to, 0, SEEK_CUR));
  int p[2];
  DO(pipe(p));
  loff_t start = 200;
  DO(splice(from, &start, p[1], nullptr, 1000, 0));
  line("  offset %ld", (long)start);
  start = 7000;
  DO(splice(p[0], nullptr, to, &start, 600, 0));
  DO(splice(p[0], nullptr, to, nullptr, 400, 0));
  DO(lseek(to, 0, SEEK_CUR));
  DO(splice(from, nullptr, to, nullptr, 10, 0));
  DO(sendfile(p[1], from, nullptr, 2000));
  char drop[4096];
  DO(read(p[0], drop, sizeof drop));
  iovec v{drop, 500};
  DO(vmsplice(p[1], &v, 1, 0));
  int q[2];
  DO(pipe(q));
  DO(tee(p[0], q[1], 4096, 0));
  DO(splice(q[0], nullptr, to, nullptr, 4096, 0));
  for (int f : {p[0], p[1], q[0], q[1]}) close(f);
  contents("target");
  int appending = OPEN(open("target", O_WRONLY | O_APPEND));
  at = 0;
  DO(sendfile(appending, from, &at, 10));
  DO(copy_file_range(from, nullptr, appending, nullptr, 10, 0));
  DO(close(appending));
  DO(close(from));
  DO(fsync(to));
  DO(close(to));
}

void mappings() {
  line("# mappings");
  int f = OPEN(open("map", O_RDWR | O_CREAT | O_TRUNC, 0600));
  DO(ftruncate(f, 16384));
  char* m = (char*)mmap(nullptr, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  DO(m == MAP_FAILED);
  memset(m, 'm', 9000);
  char* p = (char*)mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 4096);
  DO(p == MAP_FAILED);
  memset(p, 'p', 10);
  DO(m[4096] == 'm');
  DO(pwrite(f, "by pwrite", 9, 8500));
  DO(memcmp(m + 8500, "by pwrite", 9));
  DO(msync(m, 16384, MS_SYNC));
  DO(msync(m, 16384, MS_ASYNC | MS_INVALIDATE));
  DO(msync(m + 1, 10, MS_SYNC));
  DO(msync(m, 16384, MS_SYNC | MS_ASYNC));
  DO(munmap(p, 8192));
  char* grown = (char*)mremap(m, 16384, 32768, MREMAP_MAYMOVE);
  DO(grown == MAP_FAILED);
  DO(ftruncate(f, 32768));
  memcpy(grown + 30000, "late", 4);
  DO(close(f));
  memcpy(grown + 31000, "after close", 11);
  DO(msync(grown, 32768, MS_SYNC));
  DO(munmap(grown, 32768));
  DO(msync(grown, 4096, MS_SYNC));
  contents("map");
  f = OPEN(open("map", O_RDONLY));
  DO(mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, f, 0) == MAP_FAILED ? -1 : 0);
  DO(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, f, 1) == MAP_FAILED ? -1 : 0);
  DO(mmap(nullptr, 0, PROT_READ, MAP_SHARED, f, 0) == MAP_FAILED ? -1 : 0);
  DO(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, 999, 0) == MAP_FAILED ? -1 : 0);
  char* r = (char*)mmap(nullptr, 4096, PROT_READ, MAP_SHARED, f, 28672);
  DO(memcmp(r + 31000 - 28672, "after close", 11));
  int out = OPEN(open("from-map", O_RDWR | O_CREAT, 0600));
  DO(write(out, r, 4096));
  DO(close(out));
  contents("from-map");
  DO(munmap(r, 4096));
  DO(close(f));
}

void locking() {
  line("# locks");
  int f = OPEN(open("locked", O_RDWR | O_CREAT, 0600)), g = OPEN(open("locked", O_RDWR));
  const auto range = [](short type, long start, long length) {
    struct flock l{};
    l.l_type = type, l.l_whence = SEEK_SET, l.l_start = start, l.l_len = length;
    return l;
  };
  auto l = range(F_WRLCK, 0, 10);
  DO(fcntl(f, F_SETLK, &l));
  DO(fcntl(f, F_OFD_SETLK, &l));
  l = range(F_RDLCK, 20, 10);
  DO(fcntl(f, F_OFD_SETLK, &l));
  l = range(F_WRLCK, 25, 1);
  DO(fcntl(g, F_OFD_SETLK, &l));
  l = range(F_WRLCK, 25, 1);
  DO(fcntl(g, F_OFD_GETLK, &l));
  line("  type %d start %ld length %ld pid %d", l.l_type, (long)l.l_start, (long)l.l_len, l.l_pid);
  pid_t child = fork();
  if (child == 0) {
    auto c = range(F_WRLCK, 5, 1);
    DO(fcntl(g, F_SETLK, &c));
    c = range(F_WRLCK, 5, 1);
    DO(fcntl(g, F_GETLK, &c));
    line("  holder is the parent: %d, type %d, start %ld, length %ld", c.l_pid == getppid(), c.l_type, (long)c.l_start, (long)c.l_len);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  DO(close(g));  // a POSIX lock goes with any descriptor of the file
  child = fork();
  if (child == 0) {
    auto c = range(F_WRLCK, 5, 1);
    int h = open("locked", O_RDWR);
    DO(fcntl(h, F_SETLK, &c));
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  DO(flock(f, LOCK_SH));
  DO(flock(f, LOCK_EX | LOCK_NB));
  DO(flock(f, LOCK_UN));
  DO(flock(999, LOCK_EX));
  DO(flock(f, 77));
  DO(fcntl(f, F_SETLEASE, F_WRLCK) >= -1);
  DO(fcntl(f, F_SETLEASE, F_UNLCK) >= -1);
  DO(lockf(f, F_TEST, 0));
  DO(fcntl(f, 9999));
  DO(fcntl(999, F_GETFL));
  DO(close(f));
}

}  // namespace iocalls
