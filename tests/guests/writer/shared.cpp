// Workers that share: a file by O_APPEND, an open file description, locks.
#include <sys/file.h>

#include "../writer.h"

namespace writer {
namespace {

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

}  // namespace

Worker* appender(const char* id) { return new Appender(id); }
Worker* shared_offset(Partner& partner, bool is_child) { return new SharedOffset(partner, is_child); }
Worker* lock_holder() { return new Holder; }
Worker* refused(pid_t holder) { return new Refused(holder); }

}  // namespace writer
