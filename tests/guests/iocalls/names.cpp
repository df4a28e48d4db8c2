// Opens, syncs and sizes, and everything by name.
#include <linux/fs.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <vector>

#include "../iocalls.h"

namespace iocalls {

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

}  // namespace iocalls
