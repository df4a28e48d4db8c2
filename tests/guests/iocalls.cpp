// Every call on files, descriptors and names, with good and bad arguments; each result is printed without
// anything that differs from run to run (PIDs, times, inode numbers), so that two runs can be compared.
//
//   iocalls DIR [--wait FILE]
//
// DIR must be empty or new. With --wait some descriptors, a mapping, locks and the working directory are
// made first, then records are written and fsynced until FILE appears, then everything else is done: what
// it prints must be the same wherever DIR's storage is by then.
#include <cstdint>
#include <dirent.h>
#include <fcntl.h>
#include <functional>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <poll.h>
#include <set>
#include <signal.h>
#include <string>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <vector>

#include "guest.h"

// Bad buffers and sizes are the point here.
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wstringop-overread"
#pragma GCC diagnostic ignored "-Wnonnull"

namespace {

using guest::line;

long show(const char* what, long r) {
  const int error = errno;
  if (r == -1) line("%-44s -1 %s", what, strerrorname_np(error));
  else line("%-44s %ld", what, r);
  return r;
}

#define DO(call) (errno = 0, show(#call, (long)(call)))
// For results that are only known to be good or bad: descriptors, addresses.
#define OPEN(call) ({ errno = 0; int fd_ = (int)(call); int e_ = errno; show(#call, fd_ < 0 ? (errno = e_, -1L) : 0L); fd_; })

void contents(const char* name) {
  std::string text(70000, 0);
  const int fd = open(name, O_RDONLY);
  const ssize_t n = fd < 0 ? -1 : read(fd, text.data(), text.size());
  if (fd >= 0) close(fd);
  if (n < 0) {
    line("  %s: %s", name, strerrorname_np(errno));
    return;
  }
  text.resize((size_t)n);
  uint64_t hash = 1469598103934665603ULL;
  for (unsigned char c : text) hash = (hash ^ c) * 1099511628211ULL;
  std::string head;
  for (char c : text.substr(0, 40)) head += c >= ' ' && c <= '~' ? c : '.';
  line("  %s: %zd bytes, hash %016llx, %s", name, n, (unsigned long long)hash, head.c_str());
}

void status(const char* name, const struct stat& s) {
  line("  %s: mode %o, links %lu, size %ld, uid %u", name, s.st_mode, S_ISDIR(s.st_mode) ? 0UL : (unsigned long)s.st_nlink,
       S_ISDIR(s.st_mode) ? 0L : (long)s.st_size, s.st_uid);
}

void listing(const char* name) {
  std::set<std::string> names;
  const int fd = open(name, O_RDONLY | O_DIRECTORY);
  alignas(8) char buffer[512];
  long n;
  while ((n = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0) {
    for (long at = 0; at < n;) {
      struct { uint64_t inode; int64_t next; uint16_t length; uint8_t type; char name[]; }* e = nullptr;
      e = (decltype(e))(buffer + at);
      names.insert(std::string(e->name) + (e->type == DT_DIR ? "/" : e->type == DT_LNK ? "@" : e->type == DT_FIFO ? "|" : ""));
      at += e->length;
    }
  }
  close(fd);
  std::string all;
  for (auto& s : names) all += " " + s;
  line("  %s (getdents64 ended with %ld):%s", name, n, all.c_str());
}

char* const bad = (char*)8;
int kept, directory, held_offset;
char* mapping;

void prepare() {
  kept = OPEN(open("kept", O_RDWR | O_CREAT, 0644));
  DO(write(kept, "kept before\n", 12));
  held_offset = OPEN(open("offset", O_RDWR | O_CREAT | O_APPEND, 0600));
  DO(write(held_offset, "0123456789", 10));
  DO(lseek(held_offset, 4, SEEK_SET));
  DO(mkdir("held", 0755));
  directory = OPEN(open("held", O_RDONLY | O_DIRECTORY));
  int f = OPEN(open("mapped", O_RDWR | O_CREAT, 0600));
  DO(ftruncate(f, 8192));
  mapping = (char*)mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  DO(mapping == MAP_FAILED);
  memcpy(mapping + 4090, "across a page", 13);
  DO(close(f));
  DO(flock(kept, LOCK_EX));
  DO(mkdir("cwd", 0755));
  DO(chdir("cwd"));
}

void wait_for(const char* path) {
  const int f = open("warm", O_WRONLY | O_CREAT | O_TRUNC, 0600);
  line("waiting");
  for (int i = 0; access(path, F_OK) != 0; ++i) {
    const std::string text = "warm " + std::to_string(i) + "\n";
    errno = 0;
    const long n = write(f, text.data(), text.size());
    if (n != (long)text.size()) line("FAIL write while waiting: %ld %s", n, strerror(errno));
    if (fsync(f) != 0) line("FAIL fsync while waiting: %s", strerror(errno));
    guest::pause_ms(20);
  }
  close(f);
  unlink("warm");
  line("going on");
}

void held() {
  line("# what was open before");
  char b[64] = "";
  DO(read(held_offset, b, 3));
  line("  read %s", b);
  DO(lseek(held_offset, 0, SEEK_CUR));
  DO(write(held_offset, "appended", 8));
  DO(lseek(held_offset, 0, SEEK_CUR));
  DO(fcntl(held_offset, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC));
  DO(write(kept, "kept after\n", 11));
  DO(fsync(kept));
  contents("../kept");
  contents("../offset");
  DO(memcmp(mapping + 4090, "across a page", 13));
  memcpy(mapping + 100, "new store", 9);
  DO(msync(mapping, 8192, MS_SYNC));
  contents("../mapped");
  int f = OPEN(openat(directory, "inside", O_WRONLY | O_CREAT | O_EXCL, 0640));
  DO(write(f, "inside\n", 7));
  DO(close(f));
  listing("../held");
  int other = OPEN(open("../kept", O_RDWR));
  DO(flock(other, LOCK_SH | LOCK_NB));
  DO(flock(kept, LOCK_UN));
  DO(flock(other, LOCK_EX | LOCK_NB));
  DO(close(other));
  f = OPEN(open("relative", O_WRONLY | O_CREAT, 0600));
  DO(close(f));
  listing(".");
  DO(unlink("relative"));
  DO(fchdir(directory));
  listing(".");
  DO(chdir(".."));
  DO(rmdir("cwd"));
}

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

void opens() {
  line("# open");
  DO(open("missing", O_RDONLY));
  DO(open("missing/below", O_RDONLY | O_CREAT, 0600));
  DO(open("rw/below", O_RDONLY));
  DO(open("rw", O_RDWR | O_CREAT | O_EXCL, 0600));
  DO(open("rw", O_RDONLY | O_DIRECTORY));
  DO(open(".", O_WRONLY));
  DO(open("", O_RDONLY));
  DO(open(bad, O_RDONLY));
  DO(open(std::string(300, 'n').c_str(), O_CREAT | O_WRONLY, 0600));
  DO(open(std::string(5000, '/').c_str(), O_RDONLY));
  DO(symlink("loop", "loop"));
  DO(open("loop", O_RDONLY));
  DO(symlink("rw", "link"));
  DO(open("link", O_RDONLY | O_NOFOLLOW));
  DO(close(OPEN(open("link", O_RDONLY))));
  mode_t old = umask(077);
  int f = OPEN(creat("created", 0666));
  umask(old);
  struct stat s{};
  DO(fstat(f, &s));
  status("created", s);
  DO(close(f));
  f = OPEN(open("created", O_RDWR | O_TRUNC | O_DSYNC));
  DO(write(f, "durable", 7));
  DO(fcntl(f, F_GETFL) & (O_ACCMODE | O_DSYNC | O_TRUNC | O_CREAT));
  DO(close(f));
  open_how how{};
  how.flags = O_RDWR | O_CREAT, how.mode = 0640;
  f = OPEN(syscall(SYS_openat2, AT_FDCWD, "how", &how, sizeof how));
  DO(close(f));
  how.flags = O_RDONLY, how.mode = 0, how.resolve = RESOLVE_NO_SYMLINKS;
  DO(syscall(SYS_openat2, AT_FDCWD, "link", &how, sizeof how));
  how.resolve = RESOLVE_BENEATH;
  DO(syscall(SYS_openat2, AT_FDCWD, "../escape", &how, sizeof how));
  DO(syscall(SYS_openat2, AT_FDCWD, "link", &how, 4));
  DO(openat(directory, "../rw", O_RDONLY) < 0);
  DO(openat(999, "rw", O_RDONLY));
  DO(openat(kept, "rw", O_RDONLY));
  f = OPEN(open(".", O_TMPFILE | O_RDWR, 0600));
  if (f >= 0) {
    DO(write(f, "unnamed", 7));
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", f);
    DO(linkat(AT_FDCWD, self, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    DO(close(f));
    contents("named");
  }
  f = OPEN(open("gone", O_RDWR | O_CREAT, 0600));
  DO(unlink("gone"));
  DO(write(f, "still here", 10));
  char b[20] = "";
  DO(pread(f, b, 10, 0));
  DO(fstat(f, &s));
  DO(s.st_nlink);
  DO(fsync(f));
  DO(close(f));
  rlimit limit{}, low{};
  getrlimit(RLIMIT_NOFILE, &limit);
  low = limit;
  low.rlim_cur = 30;
  setrlimit(RLIMIT_NOFILE, &low);
  std::vector<int> many;
  for (;;) {
    const int x = open("rw", O_RDONLY);
    if (x < 0) break;
    many.push_back(x);
  }
  show("open until the limit", -1);
  DO(many.empty());
  for (int x : many) close(x);
  setrlimit(RLIMIT_NOFILE, &limit);
}

void durability() {
  line("# durability and size");
  int f = OPEN(open("size", O_RDWR | O_CREAT, 0600));
  DO(write(f, std::string(10000, 's').data(), 10000));
  DO(fsync(f));
  DO(fdatasync(f));
  DO(syncfs(f));
  DO(sync_file_range(f, 0, 4096, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
  DO(sync_file_range(f, -1, 4096, SYNC_FILE_RANGE_WRITE));
  DO(sync_file_range(f, 0, 4096, 0x80));
  DO(ftruncate(f, 5000));
  DO(ftruncate(f, 20000));
  DO(ftruncate(f, -1));
  contents("size");
  DO(truncate("size", 12000));
  DO(truncate("missing", 0));
  DO(truncate(".", 0));
  DO(fallocate(f, 0, 0, 30000));
  DO(fallocate(f, FALLOC_FL_KEEP_SIZE, 40000, 10000));
  struct stat s{};
  DO(fstat(f, &s));
  status("size", s);
  DO(fallocate(f, 0, -1, 10));
  DO(fallocate(f, 0, 0, 0));
  DO(posix_fallocate(f, 0, 35000));
  DO(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, 2000));
  contents("size");
  DO(posix_fadvise(f, 0, 0, POSIX_FADV_DONTNEED));
  DO(readahead(f, 0, 8192));
  DO(fsync(999));
  DO(fdatasync(-1));
  int p[2];
  DO(pipe(p));
  DO(fsync(p[0]));
  DO(ftruncate(p[1], 0));
  DO(fallocate(p[1], 0, 0, 10));
  DO(lseek(p[0], 0, SEEK_SET));
  DO(pread(p[0], &s, 1, 0));
  DO(close(p[0]));
  signal(SIGPIPE, SIG_IGN);
  DO(write(p[1], "x", 1));
  DO(close(p[1]));
  int d = OPEN(open(".", O_RDONLY | O_DIRECTORY));
  DO(fsync(d));
  DO(ftruncate(d, 0));
  DO(close(d));
  signal(SIGXFSZ, SIG_IGN);
  rlimit limit{}, low{};
  getrlimit(RLIMIT_FSIZE, &limit);
  low = limit;
  low.rlim_cur = 36000;
  setrlimit(RLIMIT_FSIZE, &low);
  DO(pwrite(f, std::string(2000, 'z').data(), 2000, 35000));
  DO(pwrite(f, "z", 1, 36000));
  DO(ftruncate(f, 40000));
  setrlimit(RLIMIT_FSIZE, &limit);
  signal(SIGXFSZ, SIG_DFL);
  contents("size");
  DO(close(f));
}

void names() {
  line("# names");
  DO(mkdir("d1", 0755));
  DO(mkdir("d1", 0755));
  DO(mkdir("missing/d", 0755));
  DO(mkdirat(directory, "d2", 0700));
  DO(mkdirat(999, "d2", 0700));
  DO(rename("rw", "d1/moved"));
  DO(rename("missing", "x"));
  DO(rename("d1", "d1/self"));
  DO(rename("d1", "append"));
  DO(rename("append", "d1"));
  DO(renameat(AT_FDCWD, "d1/moved", directory, "moved"));
  DO(renameat2(directory, "moved", AT_FDCWD, "append", RENAME_NOREPLACE));
  DO(renameat2(directory, "moved", AT_FDCWD, "append", RENAME_EXCHANGE));
  contents("append");
  DO(renameat2(directory, "moved", AT_FDCWD, "append", RENAME_EXCHANGE));
  DO(renameat2(directory, "moved", AT_FDCWD, "rw", 0));
  DO(renameat2(AT_FDCWD, "rw", AT_FDCWD, "rw", 0x100));
  DO(link("rw", "hard"));
  DO(link("rw", "hard"));
  DO(link("d1", "hard2"));
  DO(link("missing", "hard2"));
  DO(linkat(AT_FDCWD, "link", directory, "sym", 0));
  DO(linkat(AT_FDCWD, "link", directory, "followed", AT_SYMLINK_FOLLOW));
  char b[64] = "";
  DO(readlink("link", b, sizeof b));
  DO(readlink("link", b, 1));
  DO(readlink("rw", b, sizeof b));
  DO(readlinkat(directory, "sym", b, sizeof b));
  DO(symlinkat("nowhere", directory, "dangling"));
  DO(symlink("", "empty"));
  DO(mknod("fifo", S_IFIFO | 0600, 0));
  DO(mkfifoat(directory, "fifo", 0600));
  listing(".");
  listing("held");
  struct stat s{};
  DO(stat("link", &s));
  status("link", s);
  DO(lstat("link", &s));
  status("link", s);
  DO(fstatat(directory, "dangling", &s, 0));
  DO(fstatat(directory, "dangling", &s, AT_SYMLINK_NOFOLLOW));
  DO(fstatat(directory, "", &s, AT_EMPTY_PATH));
  status("held", s);
  DO(fstatat(directory, "", &s, 0));
  DO(stat("missing", &s));
  DO(stat("rw", (struct stat*)bad));
  DO(syscall(SYS_stat, "rw", &s));
  DO(syscall(SYS_lstat, "rw", &s));
  DO(syscall(SYS_fstat, directory, &s));
  struct statx x{};
  DO(statx(AT_FDCWD, "rw", 0, STATX_BASIC_STATS, &x));
  line("  statx: mode %o, links %u, size %lu", x.stx_mode, x.stx_nlink, (unsigned long)x.stx_size);
  DO(statx(AT_FDCWD, "rw", 0x80000, STATX_BASIC_STATS, &x));
  DO(access("rw", R_OK | W_OK));
  DO(access("missing", F_OK));
  DO(faccessat(directory, "moved", F_OK, 0));
  DO(syscall(SYS_faccessat2, directory, "inside", R_OK, AT_EACCESS));
  DO(chmod("rw", 0600));
  DO(fchmodat(directory, "inside", 0444, 0));
  DO(chown("rw", getuid(), getgid()));
  DO(lchown("link", getuid(), getgid()));
  timespec times[2] = {{1000, 0}, {2000, 5}};
  DO(utimensat(AT_FDCWD, "rw", times, 0));
  DO(stat("rw", &s));
  line("  mtime %ld, mode %o", s.st_mtim.tv_sec, s.st_mode);
  struct statfs fs{};
  DO(statfs(".", &fs));
  DO(fstatfs(directory, &fs));
  DO(statfs("missing", &fs));
  DO(setxattr("rw", "user.guest", "value", 5, 0));
  DO(getxattr("rw", "user.guest", b, sizeof b));
  DO(getxattr("rw", "user.none", b, sizeof b));
  DO(removexattr("rw", "user.guest"));
  DO(unlink("d1"));
  DO(rmdir("rw"));
  DO(rmdir("held"));
  DO(unlinkat(directory, "d2", AT_REMOVEDIR));
  DO(unlinkat(directory, "missing", 0));
  DO(unlinkat(directory, "sym", 0));
  DO(unlink("hard"));
  DO(rmdir("d1"));
  DO(rmdir("missing"));
  DO(chdir("rw"));
  DO(chdir("missing"));
  DO(mkdir("away", 0755));
  DO(chdir("away"));
  DO(rmdir("../away"));
  DO(getcwd(b, sizeof b) == nullptr ? -1 : 0);
  DO(open("x", O_CREAT | O_WRONLY, 0600));
  DO(chdir(".."));
  DO(fchdir(directory));
  DO(chdir(".."));
  listing(".");
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

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && !(argc == 4 && std::string(argv[2]) == "--wait")) {
    line("usage: iocalls DIR [--wait FILE]");
    return 2;
  }
  alarm(120);
  umask(022);
  mkdir(argv[1], 0755);
  if (chdir(argv[1]) != 0) {
    line("FAIL chdir %s: %s", argv[1], strerror(errno));
    return 1;
  }
  prepare();
  if (argc == 4) wait_for(argv[3]);
  held();
  reads_and_writes();
  offsets_and_append();
  opens();
  durability();
  names();
  copies();
  mappings();
  locking();
  listing(".");
  line("end");
  return 0;
}
