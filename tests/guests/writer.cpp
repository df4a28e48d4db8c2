// The main job's guest: processes and threads that write, sync, map, rename, lock and append under one
// directory, in lock-step rounds over pipes. Every result is checked; what the tree holds in the end
// depends on ROUNDS and SEED alone, except for the order of records in shared*.log and append.log.
//
//   writer DIR ROUNDS SEED [--delay MS] [--big MIB] [--limit SECONDS] [--no-locks]
//   writer --expect DIR ROUNDS SEED [--big MIB]   the tree of an undisturbed run, quickly
//   writer --compare DIR EXPECTED                 both trees: names, sizes, bytes, records once each
//
// Each round takes about MS milliseconds. Exit: 0 all as expected, 1 not, 2 usage.
#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <poll.h>
#include <set>
#include <signal.h>
#include <string>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include "guest.h"

namespace {

using guest::line;
namespace fs = std::filesystem;

std::string dir;
long rounds, seed, delay_ms, big_mib;
bool locks = true;

struct Random {
  uint64_t state;
  explicit Random(uint64_t a, uint64_t b = 0, uint64_t c = 0)
      : state(a * 0x9E3779B97F4A7C15ULL ^ (b + 1) * 0xBF58476D1CE4E5B9ULL ^ (c + 1) * 0x94D049BB133111EBULL) {}
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ z >> 27) * 0x94D049BB133111EBULL;
    return z ^ z >> 31;
  }
  long below(long n) { return (long)(next() % (uint64_t)n); }
};

std::string bytes(Random& random, long n) {
  std::string s((size_t)n, 0);
  for (char& c : s) c = (char)('!' + random.below(94));
  return s;
}

// Reports a result that an undisturbed run would not have had.
long want(const char* who, const char* call, long got, long expected) {
  if (got == expected) return got;
  const int error = errno;
  __atomic_add_fetch(guest::failures, 1, __ATOMIC_SEQ_CST);
  line("FAIL %s: %s: expected %ld, got %ld%s%s", who, call, expected, got, got == -1 ? ": " : "",
       got == -1 ? strerror(error) : "");
  return got;
}

int want_fd(const char* who, const char* call, int fd) {
  if (fd < 0) want(who, call, fd, 0);
  return fd;
}

struct Worker {
  const char* name;
  explicit Worker(const char* n) : name(n) {}
  virtual ~Worker() = default;
  virtual void open_all() = 0;
  virtual void round(long r) = 0;
  virtual void close_all() {}
  void ok(const char* call, long got, long expected) { want(name, call, got, expected); }
  int fd(const char* call, int got) { return want_fd(name, call, got); }
  void close_fd(int f) { ok("close", ::close(f), 0); }
  void pace(int parts) {
    if (delay_ms) guest::pause_ms(std::max(1L, delay_ms / parts));
  }
};

std::string in(const char* file) { return dir + "/" + file; }

// pwrite at scattered, overlapping offsets; reads its own bytes back; irregular fsync and fdatasync.
struct Scatter : Worker {
  int file = -1;
  std::map<long, std::string> last;
  Scatter() : Worker("scatter") {}
  void open_all() override { file = fd("open", open(in("scatter.dat").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0640)); }
  void round(long r) override {
    Random random(seed, 1, r);
    for (int i = 0; i < 6; ++i) {
      const long at = random.below(64) * 1000, n = 1 + random.below(3000);
      const std::string data = bytes(random, n);
      ok("pwrite", pwrite(file, data.data(), data.size(), at), n);
      std::string back(data.size(), 0);
      ok("pread", pread(file, back.data(), back.size(), at), n);
      ok("bytes read back", back == data, 1);
      if (i % 3 == 1) pace(3);
    }
    if (r % 3 == 0) ok("fsync", fsync(file), 0);
    if (r % 5 == 1) ok("fdatasync", fdatasync(file), 0);
    if (r % 7 == 2) ok("sync_file_range", sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER), 0);
    ok("lseek", lseek(file, 0, SEEK_CUR), 0);
  }
  void close_all() override { ok("fsync", fsync(file), 0), close_fd(file); }
};

// A log by writev and write, its offset and size known exactly at each step; dup'ed descriptors.
struct Log : Worker {
  int file = -1, copy = -1;
  long at = 0;
  Log() : Worker("log") {}
  void open_all() override {
    file = fd("open", open(in("log.txt").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644));
    copy = fd("dup", dup(file));
  }
  void round(long r) override {
    Random random(seed, 2, r);
    for (int i = 0; i < 4; ++i) {
      std::string a = "round " + std::to_string(r) + " part " + std::to_string(i) + " ", b = bytes(random, 200 + random.below(5000)), c = "\n";
      iovec v[3] = {{a.data(), a.size()}, {b.data(), b.size()}, {c.data(), c.size()}};
      const long n = (long)(a.size() + b.size() + c.size());
      ok("writev", writev(i % 2 ? copy : file, v, 3), n);
      at += n;
      ok("lseek of the dup", lseek(copy, 0, SEEK_CUR), at);
      struct stat s{};
      ok("fstat", fstat(file, &s), 0);
      ok("size", s.st_size, at);
      pace(4);
    }
    if (r % 2) ok("fdatasync", fdatasync(copy), 0);
    if (r % 6 == 5) {
      // A descriptor of a later round: its number is used again, its description is the same.
      close_fd(copy);
      copy = fd("fcntl(F_DUPFD)", fcntl(file, F_DUPFD_CLOEXEC, 40));
    }
  }
  void close_all() override { ok("fsync", fsync(file), 0), close_fd(copy), close_fd(file); }
};

// Stores through a shared mapping, with and without msync; a read-only and a private mapping beside it.
struct Mapped : Worker {
  static constexpr size_t size = 512 * 1024;
  int file = -1;
  char *shared = nullptr, *second = nullptr;
  std::string model = std::string(size, 0);
  Mapped() : Worker("mapped") {}
  void open_all() override {
    file = fd("open", open(in("mapped.dat").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
    ok("ftruncate", ftruncate(file, size), 0);
    shared = (char*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    second = (char*)mmap(nullptr, size / 2, PROT_READ, MAP_SHARED, file, size / 2);
    ok("mmap", shared == MAP_FAILED || second == MAP_FAILED, 0);
  }
  void round(long r) override {
    Random random(seed, 3, r);
    for (int i = 0; i < 8; ++i) {
      const long n = 1 + random.below(6000), at = random.below((long)size - n);
      const std::string data = bytes(random, n);
      memcpy(shared + at, data.data(), data.size());
      model.replace((size_t)at, data.size(), data);
      if (i % 4 == 1) pace(2);
    }
    ok("second mapping", memcmp(second, model.data() + size / 2, size / 2), 0);
    const std::string mark = "round " + std::to_string(r) + ";";
    ok("pwrite beside the mapping", pwrite(file, mark.data(), mark.size(), 4096 * 3), (long)mark.size());
    model.replace(4096 * 3, mark.size(), mark);
    ok("mapping after pwrite", memcmp(shared, model.data(), size), 0);
    if (r % 3 == 1) ok("msync", msync(shared, size, MS_SYNC), 0);
    if (r % 3 == 2) ok("msync part", msync(shared + 8192, 65536, MS_ASYNC), 0);
    if (r % 4 == 3) ok("fsync", fsync(file), 0);
  }
  void close_all() override {
    ok("munmap", munmap(shared, size) | munmap(second, size / 2), 0);
    ok("fsync", fsync(file), 0), close_fd(file);
  }
};

// State replaced whole: temporary file, fsync, rename over, fsync of the directory.
struct State : Worker {
  int directory = -1;
  State() : Worker("state") {}
  void open_all() override {
    ok("mkdir", mkdir(in("state").c_str(), 0755), 0);
    directory = fd("open", open(in("state").c_str(), O_RDONLY | O_DIRECTORY));
  }
  void round(long r) override {
    Random random(seed, 4, r);
    const std::string data = "{\"round\": " + std::to_string(r) + ", \"data\": \"" + bytes(random, random.below(9000)) + "\"}\n";
    int file = fd("openat", openat(directory, "state.tmp", O_WRONLY | O_CREAT | O_TRUNC, 0644));
    ok("write", write(file, data.data(), data.size()), (long)data.size());
    pace(3);
    if (r % 4 != 2) ok("fsync", fsync(file), 0);
    close_fd(file);
    ok("renameat", renameat(directory, "state.tmp", directory, "state.json"), 0);
    if (r % 2) ok("fsync of the directory", fsync(directory), 0);
    pace(3);
    struct stat s{};
    ok("fstatat", fstatat(directory, "state.json", &s, 0), 0);
    ok("size", s.st_size, (long)data.size());
    ok("fstatat of the temporary file", fstatat(directory, "state.tmp", &s, 0) == -1 && errno == ENOENT, 1);
  }
  void close_all() override { ok("fsync", fsync(directory), 0), close_fd(directory); }
};

std::string record(const char* writer, long sequence, Random& random, long most) {
  std::string body = bytes(random, 16 + random.below(most));
  return std::string(writer) + " " + std::to_string(sequence) + " " + std::to_string(body.size()) + " " + body + "\n";
}

// Records of several processes in one file, by O_APPEND.
struct Appender : Worker {
  const char* id;
  int file = -1;
  long sequence = 0;
  Appender(const char* i) : Worker("append"), id(i) {}
  void open_all() override { file = fd("open", open(in("append.log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644)); }
  void round(long r) override {
    Random random(seed, 5 + (uint64_t)id[0], r);
    for (int i = 0; i < 5; ++i) {
      const std::string data = record(id, sequence++, random, 2500);
      ok("append", write(file, data.data(), data.size()), (long)data.size());
      if (i % 2) pace(3);
    }
    if ((r + id[0]) % 4 == 0) ok("fsync", fsync(file), 0);
    if ((r + id[0]) % 9 == 1) ok("fdatasync", fdatasync(file), 0);
  }
  void close_all() override { ok("fsync", fsync(file), 0), close_fd(file); }
};

// One open file description of two processes: strictly in turn (turns.log), and freely (shared.log).
struct Partner {
  int turns = -1, free = -1, to_child[2], to_parent[2];
};

struct SharedOffset : Worker {
  Partner& p;
  bool child;
  long sequence = 0;
  SharedOffset(Partner& partner, bool is_child) : Worker(is_child ? "shared B" : "shared A"), p(partner), child(is_child) {}
  void open_all() override {}
  void token(int out_fd, bool give) {
    char c = 't';
    ok(give ? "write(pipe)" : "read(pipe)", give ? write(out_fd, &c, 1) : read(out_fd, &c, 1), 1);
  }
  void round(long r) override {
    Random random(seed, child ? 7 : 6, r);
    for (int i = 0; i < 3; ++i) {
      if (child) token(p.to_child[0], false);
      const std::string turn = record(child ? "B" : "A", r * 3 + i, random, 900);
      const long before = lseek(p.turns, 0, SEEK_CUR);
      ok("write in turn", write(p.turns, turn.data(), turn.size()), (long)turn.size());
      ok("shared offset", lseek(p.turns, 0, SEEK_CUR), before + (long)turn.size());
      if (child) token(p.to_parent[1], true);
      else token(p.to_child[1], true), token(p.to_parent[0], false);
      const std::string any = record(child ? "B" : "A", sequence++, random, 900);
      ok("write freely", write(p.free, any.data(), any.size()), (long)any.size());
      pace(4);
    }
    if (r % 5 == (child ? 1 : 4)) ok("fsync", fsync(child ? p.turns : p.free), 0);
  }
  void close_all() override { ok("fsync", fsync(p.turns) | fsync(p.free), 0), close_fd(p.turns), close_fd(p.free); }
};

// Names: mkdir, create, unlink, link, symlink, relative paths, truncation, allocation, getdents.
struct Names : Worker {
  int top = -1, kept = -1;
  Names() : Worker("names") {}
  void open_all() override {
    ok("mkdir", mkdir(in("names").c_str(), 0755), 0);
    ok("chdir", chdir(in("names").c_str()), 0);
    top = fd("open(.)", open(".", O_RDONLY | O_DIRECTORY));
    kept = fd("open kept", open("kept", O_RDWR | O_CREAT, 0600));
  }
  void put(const char* path, const std::string& data, int flags) {
    int f = fd(path, open(path, flags, 0644));
    ok("write", write(f, data.data(), data.size()), (long)data.size());
    if (data.size() % 2) ok("fsync", fsync(f), 0);
    close_fd(f);
  }
  void round(long r) override {
    Random random(seed, 8, r);
    const std::string box = "box" + std::to_string(r % 4), item = box + "/item" + std::to_string(r);
    if (r < 4) ok("mkdir", mkdirat(top, box.c_str(), 0750), 0);
    put(item.c_str(), bytes(random, random.below(7000)), O_WRONLY | O_CREAT | O_EXCL);
    put("scratch", bytes(random, 500), O_RDWR | O_CREAT | O_TRUNC);
    pace(4);
    const std::string linked = "link" + std::to_string(r);
    ok("link", link("scratch", linked.c_str()), 0);
    ok("unlink", unlink("scratch"), 0);
    put(linked.c_str(), "tail of " + linked, O_WRONLY | O_APPEND);
    ok("symlink", symlink(item.c_str(), ("sym" + std::to_string(r)).c_str()), 0);
    if (r >= 2) {
      ok("unlink", unlink(("link" + std::to_string(r - 2)).c_str()), 0);
      ok("unlinkat", unlinkat(top, ("sym" + std::to_string(r - 2)).c_str(), 0), 0);
    }
    pace(4);
    int f = fd("creat", creat((box + "/sized").c_str(), 0600));
    const long size = 1000 + random.below(50000);
    ok("ftruncate up", ftruncate(f, size), 0);
    ok("ftruncate down", ftruncate(f, size / 2), 0);
    ok("fallocate", fallocate(f, 0, 0, size), 0);
    const std::string data = bytes(random, 300);
    ok("pwrite", pwrite(f, data.data(), data.size(), size - 100), 300);
    ok("lseek(SEEK_END)", lseek(f, 0, SEEK_END), size + 200);
    close_fd(f);
    const std::string line_ = "kept in round " + std::to_string(r) + "\n";
    ok("write kept", write(kept, line_.data(), line_.size()), (long)line_.size());
    if (r % 8 == 7) {
      ok("rename directory", rename("box3", "moved"), 0);
      pace(4);
      ok("rename back", rename("moved", "box3"), 0);
    }
    if (r % 3 == 0) ok("fsync of the directory", fsync(top), 0);
    char here[4096];
    ok("getcwd", getcwd(here, sizeof here) && std::string(here).ends_with("/names"), 1);
    std::error_code error;
    long entries = std::distance(fs::directory_iterator("box" + std::to_string(r % 4), error), fs::directory_iterator());
    ok("getdents64", entries, r / 4 + 2);
  }
  void close_all() override { ok("fsync", fsync(kept) | fsync(top), 0), close_fd(kept), close_fd(top), ok("chdir", chdir("/"), 0); }
};

// Three kinds of lock held from the first round to the last, and a process that must be refused.
struct Holder : Worker {
  int posix = -1, ofd = -1, whole = -1;
  Holder() : Worker("lock holder") {}
  static struct flock range() {
    struct flock f{};
    f.l_type = F_WRLCK, f.l_whence = SEEK_SET, f.l_start = 10, f.l_len = 20;
    return f;
  }
  void open_all() override {
    posix = fd("open", open(in("lock.posix").c_str(), O_RDWR | O_CREAT, 0600));
    ofd = fd("open", open(in("lock.ofd").c_str(), O_RDWR | O_CREAT, 0600));
    whole = fd("open", open(in("lock.flock").c_str(), O_RDWR | O_CREAT, 0600));
    auto f = range(), g = range();
    ok("F_SETLK", fcntl(posix, F_SETLK, &f), 0);
    ok("F_OFD_SETLK", fcntl(ofd, F_OFD_SETLK, &g), 0);
    ok("flock", flock(whole, LOCK_EX | LOCK_NB), 0);
  }
  void round(long r) override {
    const std::string data = std::to_string(r) + "\n";
    for (int f : {posix, ofd, whole}) ok("write", write(f, data.data(), data.size()), (long)data.size());
    if (r % 6 == 0) ok("fsync", fsync(posix), 0);
  }
  void close_all() override {
    for (int f : {posix, ofd, whole}) close_fd(f);
  }
};

struct Refused : Worker {
  pid_t holder;
  explicit Refused(pid_t h) : Worker("lock refused"), holder(h) {}
  void open_all() override {}
  void round(long) override {
    int posix = fd("open", open(in("lock.posix").c_str(), O_RDWR)), ofd = fd("open", open(in("lock.ofd").c_str(), O_RDWR)),
        whole = fd("open", open(in("lock.flock").c_str(), O_RDWR));
    auto f = Holder::range();
    ok("F_GETLK", fcntl(posix, F_GETLK, &f), 0);
    ok("F_GETLK's type", f.l_type, F_WRLCK);
    ok("F_GETLK's holder", f.l_pid, holder);
    f = Holder::range();
    ok("F_SETLK is refused", fcntl(posix, F_SETLK, &f) == -1 && (errno == EAGAIN || errno == EACCES), 1);
    f = Holder::range();
    ok("F_OFD_SETLK is refused", fcntl(ofd, F_OFD_SETLK, &f) == -1 && errno == EAGAIN, 1);
    f = Holder::range(), f.l_start = 100;
    ok("F_SETLK beside it", fcntl(posix, F_SETLK, &f), 0);
    ok("flock is refused", flock(whole, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK, 1);
    for (int x : {posix, ofd, whole}) close_fd(x);
  }
};

// A large file in big sequential writes.
struct Big : Worker {
  int file = -1;
  long block = 0;
  Big() : Worker("big") {}
  void open_all() override { file = fd("open", open(in("big.dat").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644)); }
  void round(long r) override {
    std::vector<uint64_t> data(1 << 17);
    for (const long end = big_mib * (r + 1) / rounds; block < end; ++block) {
      Random random(seed, 9, block);
      for (auto& d : data) d = random.next();
      ok("write 1 MiB", write(file, data.data(), 1 << 20), 1 << 20);
      if (block % 8 == 7) ok("fdatasync", fdatasync(file), 0);
    }
    ok("offset", lseek(file, 0, SEEK_CUR), block << 20);
  }
  void close_all() override { ok("fsync", fsync(file), 0), close_fd(file); }
};

// ---- rounds ---------------------------------------------------------------------------------

// A worker's place: its own process, or a thread of main; driven by one byte a round over pipes.
struct Seat {
  std::vector<std::unique_ptr<Worker>> workers;
  bool process;
  int go[2], done[2];
  pid_t pid = 0;
  std::thread thread;
};

void serve(Seat& seat) {
  for (auto& w : seat.workers) w->open_all();
  char c = 'r';
  want("worker", "write(done)", write(seat.done[1], &c, 1), 1);
  for (long r = 0; r < rounds; ++r) {
    if (want("worker", "read(go)", read(seat.go[0], &c, 1), 1) != 1) return;
    for (auto& w : seat.workers) w->round(r);
    want("worker", "write(done)", write(seat.done[1], &c, 1), 1);
  }
  // Closed when all have done their last round: a holder's locks are tested until then.
  if (want("worker", "read(end)", read(seat.go[0], &c, 1), 1) != 1) return;
  for (auto& w : seat.workers) w->close_all();
}

void wait_for(Seat& seat) {
  char c;
  errno = 0;
  if (want("main", "read(done)", read(seat.done[0], &c, 1), 1) != 1) exit(1);
}

int run() {
  Partner partner;
  if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) {
    line("FAIL mkdir %s: %s", dir.c_str(), strerror(errno));
    return 1;
  }
  partner.turns = want_fd("main", "open", open(in("turns.log").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644));
  partner.free = want_fd("main", "open", open(in("shared.log").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644));
  want("main", "pipe", pipe(partner.to_child) | pipe(partner.to_parent), 0);

  std::vector<std::unique_ptr<Seat>> seats;
  const auto seat = [&](bool process, auto... workers) {
    auto s = std::make_unique<Seat>();
    s->process = process;
    (s->workers.emplace_back(workers), ...);
    want("main", "pipe2", pipe2(s->go, 0) | pipe2(s->done, 0), 0);
    if (process) {
      s->pid = fork();
      want("main", "fork", s->pid >= 0, 1);
      if (s->pid == 0) {
        for (auto& other : seats) close(other->go[1]), close(other->done[0]);
        close(s->go[1]), close(s->done[0]);
        serve(*s);
        _exit(*guest::failures ? 1 : 0);
      }
      close(s->go[0]), close(s->done[1]);
    }
    seats.push_back(std::move(s));
  };
  seat(true, new Appender("a"));
  seat(true, new Appender("b"), new Mapped);
  seat(true, new SharedOffset(partner, true));
  seat(true, new Names);
  if (locks) {
    seat(true, new Holder);
    wait_for(*seats.back());
    const pid_t holder = seats.back()->pid;
    seat(true, new Refused(holder));
  }
  // Threads after the last fork.
  const size_t first_thread = seats.size();
  seat(false, new Scatter);
  seat(false, new Log, new Appender("c"));
  seat(false, new State);
  seat(false, new SharedOffset(partner, false));
  if (big_mib) seat(false, new Big);
  for (size_t i = first_thread; i < seats.size(); ++i)
    seats[i]->thread = std::thread([s = seats[i].get()] { serve(*s); });
  for (auto& s : seats)
    if (!(locks && s->process && dynamic_cast<Holder*>(s->workers[0].get()))) wait_for(*s);

  for (long r = 0; r < rounds; ++r) {
    char c = 'g';
    for (auto& s : seats) want("main", "write(go)", write(s->go[1], &c, 1), 1);
    for (auto& s : seats) wait_for(*s);
    line("round %ld", r + 1);
  }
  for (auto& s : seats) want("main", "write(end)", write(s->go[1], "e", 1), 1);
  for (auto& s : seats) {
    if (s->thread.joinable()) s->thread.join();
    if (!s->process) continue;
    int status = 0;
    want("main", "waitpid", waitpid(s->pid, &status, 0), s->pid);
    want("main", "a worker's exit", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), *guest::failures && WIFEXITED(status) ? WEXITSTATUS(status) & 1 : 0);
  }
  line("done: %ld rounds, %d failures", rounds, *guest::failures);
  return *guest::failures ? 1 : 0;
}

// ---- comparing ------------------------------------------------------------------------------

std::string slurp(const fs::path& path) {
  std::ifstream f(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(f), {}};
}

int differences = 0;

void differ(const std::string& what) {
  if (++differences <= 40) line("DIFF %s", what.c_str());
}

// Every record of every writer once, in its writer's order, with the same bytes as expected.
std::map<std::string, std::vector<std::string>> records(const fs::path& path) {
  std::map<std::string, std::vector<std::string>> out;
  std::map<std::string, long> next;
  const std::string all = slurp(path);
  for (size_t at = 0; at < all.size();) {
    char id[16] = "";
    long sequence = -1, size = -1;
    int used = 0;
    const std::string head = all.substr(at, 64);
    if (sscanf(head.c_str(), "%15s %ld %ld%n", id, &sequence, &size, &used) != 3 || size < 0 || size > 1 << 20 ||
        at + used + 1 + size >= all.size() || all[at + used + 1 + size] != '\n') {
      differ(path.string() + ": no record at offset " + std::to_string(at) + ": " + head.substr(0, 24));
      return out;
    }
    auto& list = out[id];
    if (sequence != next[id])
      differ(path.string() + ": writer " + id + ": record " + std::to_string(sequence) + " at offset " + std::to_string(at) +
             ", expected " + std::to_string(next[id]));
    next[id] = sequence + 1;
    list.push_back(all.substr(at, used + 1 + size));
    at += used + 2 + size;
  }
  return out;
}

std::map<std::string, fs::path> tree(const fs::path& top) {
  std::map<std::string, fs::path> out;
  for (auto& e : fs::recursive_directory_iterator(top)) {
    // Not fs::relative: it follows symbolic links.
    const std::string name = e.path().lexically_relative(top).string();
    if (name != "lost+found" && !name.starts_with("lost+found/")) out[name] = e.path();
  }
  return out;
}

int compare(const fs::path& got, const fs::path& expected) {
  const auto a = tree(got), b = tree(expected);
  for (auto& [name, path] : b)
    if (!a.count(name)) differ(name + ": missing");
  for (auto& [name, path] : a) {
    if (!b.count(name)) {
      differ(name + ": should not be there");
      continue;
    }
    struct stat s{}, t{};
    lstat(path.c_str(), &s), lstat(b.at(name).c_str(), &t);
    if (s.st_mode != t.st_mode) differ(name + ": other type or mode");
    if (S_ISREG(s.st_mode) && s.st_nlink != t.st_nlink) differ(name + ": " + std::to_string(s.st_nlink) + " links, expected " + std::to_string(t.st_nlink));
    if (S_ISLNK(s.st_mode) && fs::read_symlink(path) != fs::read_symlink(b.at(name))) differ(name + ": other target");
    if (!S_ISREG(s.st_mode)) continue;
    if (name == "append.log" || name == "shared.log") {
      const auto have = records(path), need = records(b.at(name));
      for (auto& [id, list] : need) {
        const auto found = have.find(id);
        const size_t n = found == have.end() ? 0 : found->second.size();
        if (n != list.size()) differ(name + ": writer " + id + " has " + std::to_string(n) + " records, expected " + std::to_string(list.size()));
        for (size_t i = 0; n == list.size() && i < n; ++i)
          if (found->second[i] != list[i]) differ(name + ": writer " + id + ": record " + std::to_string(i) + " has other bytes");
      }
      if (have.size() != need.size()) differ(name + ": other writers");
      continue;
    }
    const std::string x = slurp(path), y = slurp(b.at(name));
    if (x.size() != y.size()) differ(name + ": " + std::to_string(x.size()) + " bytes, expected " + std::to_string(y.size()));
    const auto where = std::mismatch(x.begin(), x.begin() + (long)std::min(x.size(), y.size()), y.begin()).first - x.begin();
    if ((size_t)where < std::min(x.size(), y.size())) differ(name + ": first other byte at offset " + std::to_string(where));
  }
  line("compare: %zu names, %d differences", b.size(), differences);
  return differences ? 1 : 0;
}

int usage() {
  line("usage: writer [--expect] DIR ROUNDS SEED [--delay MS] [--big MIB] [--limit SECONDS] [--no-locks]\n"
       "       writer --compare DIR EXPECTED");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> names;
  bool expect = false, comparing = false;
  long limit = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const char* v = i + 1 < argc ? argv[i + 1] : "0";
    if (a == "--expect") expect = true;
    else if (a == "--compare") comparing = true;
    else if (a == "--no-locks") locks = false;
    else if (a == "--delay") delay_ms = atol(v), ++i;
    else if (a == "--big") big_mib = atol(v), ++i;
    else if (a == "--limit") limit = atol(v), ++i;
    else if (a.starts_with("--")) return usage();
    else names.push_back(a);
  }
  if (comparing) return names.size() >= 2 ? compare(names[0], names[1]) : usage();
  if (names.size() != 3 || (rounds = atol(names[1].c_str())) < 1) return usage();
  std::error_code error;
  dir = fs::absolute(names[0], error).string();
  seed = atol(names[2].c_str());
  if (expect) delay_ms = 0;
  alarm((unsigned)(limit ? limit : 120 + rounds * delay_ms / 200));
  signal(SIGPIPE, SIG_IGN);
  return run();
}
