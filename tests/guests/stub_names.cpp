// Makes, writes, renames, truncates, links and removes files as fast as it can, in several processes and threads
// that share directories, until END exists; then prints what must be there: mode, size and a sum of every file.
// usage: stub_names DIR END SEED
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kProcesses = 2, kThreads = 3, kNames = 12;
std::string end_file;
std::mutex output;

[[noreturn]] void fail(const std::string& what) {
  printf("FAILED %s: %s\n", what.c_str(), strerror(errno));
  fflush(stdout);
  _exit(1);
}

struct File {
  std::string content;
  unsigned mode = 0600;
};

class Worker {
 public:
  Worker(std::string dir, int number, unsigned seed) : dir_(std::move(dir)), number_(number), rng_(seed) {}

  void run() {
    for (rounds_ = 0; rounds_ % 16 || access(end_file.c_str(), F_OK) != 0; ++rounds_) step();
    const std::lock_guard<std::mutex> lock(output);
    for (const auto& [name, f] : files_) {
      unsigned sum = 0;
      for (char c : f.content) sum = sum * 31 + static_cast<unsigned char>(c);
      printf("file %s %o %zu %u\n", name.c_str(), f.mode, f.content.size(), sum);
    }
    printf("rounds %d\n", rounds_);
    fflush(stdout);
  }

 private:
  std::size_t pick(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(rng_); }
  std::string some_name() {
    static const char* const dirs[] = {"", "a/", "b/", "b/c/"};
    return dirs[pick(4)] + std::to_string(number_) + "-" + std::to_string(pick(kNames));
  }
  std::string at(const std::string& name) const { return dir_ + "/" + name; }
  std::string bytes() {
    std::string s(pick(8) ? pick(200) + 1 : pick(20000) + 1, 0);
    for (char& c : s) c = static_cast<char>(rng_());
    return s;
  }

  void step() {
    switch (pick(10)) {
      case 0: case 1: case 2: create(); break;
      case 3: append(); break;
      case 4: remove(); break;
      case 5: case 6: move(); break;
      case 7: change(); break;
      case 8: sync(); break;
      default: exclude(); break;
    }
  }

  // As a program does that replaces a file: O_TRUNC, or O_EXCL under a name that may be free.
  void create() {
    const std::string name = some_name();
    const bool existed = files_.contains(name);
    const int flags = pick(2) ? O_EXCL : O_TRUNC;
    const int fd = open(at(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
    if (flags == O_EXCL && existed) {
      if (fd >= 0 || errno != EEXIST) fail("O_EXCL of what is there, " + name);
      return;
    }
    if (fd < 0) fail("open " + name);
    File f;
    if (existed) f.mode = files_[name].mode;
    for (std::size_t i = pick(4); i > 0; --i) {
      const std::string more = bytes();
      if (write(fd, more.data(), more.size()) != static_cast<ssize_t>(more.size())) fail("write " + name);
      f.content += more;
    }
    if (pick(20) == 0 && fsync(fd) != 0) fail("fsync " + name);
    close(fd);
    files_[name] = f;
  }
  std::string existing() {
    if (files_.empty()) create();
    if (files_.empty()) return "";
    auto it = files_.begin();
    std::advance(it, static_cast<long>(pick(files_.size())));
    return it->first;
  }
  void append() {
    const std::string name = existing();
    if (name.empty()) return;
    // Also with O_CREAT, as many programs open what is there.
    const int fd = open(at(name).c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | (pick(2) ? O_CREAT : 0), 0600);
    if (fd < 0) fail("open to append " + name);
    const std::string more = bytes();
    if (write(fd, more.data(), more.size()) != static_cast<ssize_t>(more.size())) fail("append " + name);
    files_[name].content += more;
    close(fd);
  }
  void remove() {
    const std::string name = existing();
    if (name.empty()) return;
    if (unlink(at(name).c_str()) != 0) fail("unlink " + name);
    files_.erase(name);
    if (unlink(at(name).c_str()) == 0 || errno != ENOENT) fail("unlink again " + name);
  }
  void move() {
    const std::string from = existing(), to = some_name();
    if (from.empty()) return;
    if (rename(at(from).c_str(), at(to).c_str()) != 0) fail("rename " + from + " to " + to);
    if (from == to) return;
    files_[to] = files_[from];
    files_.erase(from);
  }
  void change() {
    const std::string name = existing();
    if (name.empty()) return;
    const int fd = open(at(name).c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) fail("open " + name);
    File& f = files_[name];
    if (pick(2)) {
      f.mode = pick(2) ? 0640 : 0604;
      if (fchmod(fd, f.mode) != 0) fail("fchmod " + name);
    }
    if (pick(2)) {
      const std::size_t size = pick(300);
      if (ftruncate(fd, static_cast<off_t>(size)) != 0) fail("ftruncate " + name);
      f.content.resize(size);
    }
    if (fchown(fd, 0, 0) != 0) fail("fchown " + name);
    close(fd);
  }
  void sync() {
    if (pick(10)) return;
    static const char* const dirs[] = {"", "a", "b", "b/c"};
    const int fd = open(at(dirs[pick(4)]).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) fail("fsync of a directory");
    close(fd);
  }
  // A lock file that all fight for: whoever is first has it.
  void exclude() {
    const std::string name = at("b/lock");
    const int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
      if (errno != EEXIST) fail("lock");
      return;
    }
    if (write(fd, "x", 1) != 1) fail("write to the lock");
    close(fd);
    if (unlink(name.c_str()) != 0) fail("unlock");
  }

  std::string dir_;
  int number_;
  std::mt19937 rng_;
  int rounds_ = 0;
  std::map<std::string, File> files_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: stub_names DIR END SEED\n");
    return 2;
  }
  const std::string dir = argv[1];
  end_file = argv[2];
  const unsigned seed = static_cast<unsigned>(atoi(argv[3]));
  for (const char* sub : {"", "/a", "/b", "/b/c"})
    if (mkdir((dir + sub).c_str(), 0700) != 0) fail(std::string("mkdir ") + sub);
  printf("ready\n");
  fflush(stdout);
  for (int p = 0; p < kProcesses; ++p) {
    const pid_t pid = fork();
    if (pid < 0) fail("fork");
    if (pid > 0) continue;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i)
      threads.emplace_back([&dir, p, i, seed] {
        Worker(dir, p * kThreads + i, seed * 1000 + static_cast<unsigned>(p * kThreads + i)).run();
      });
    for (std::thread& t : threads) t.join();
    _exit(0);
  }
  int bad = 0, status = 0;
  while (wait(&status) > 0) bad |= status;
  printf(bad ? "FAILED\n" : "done\n");
  return bad ? 1 : 0;
}
