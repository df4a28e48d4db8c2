// Every call on files, descriptors and names, with good and bad arguments; each result is printed without
// anything that differs from run to run (PIDs, times, inode numbers), so that two runs can be compared.
//
//   iocalls DIR [--wait FILE]
//
// DIR must be empty or new. With --wait some descriptors, a mapping, locks and the working directory are
// made first, then records are written and fsynced until FILE appears, then everything else is done: what
// it prints must be the same wherever DIR's storage is by then.
#include <dirent.h>
#include <set>
#include <sys/file.h>
#include <sys/mman.h>

#include "iocalls.h"

namespace iocalls {

int kept, directory, held_offset;
char* mapping;

long show(const char* what, long r) {
  const int error = errno;
  if (r == -1) line("%-44s -1 %s", what, strerrorname_np(error));
  else line("%-44s %ld", what, r);
  return r;
}

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

namespace {

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

}  // namespace
}  // namespace iocalls

using namespace iocalls;

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
