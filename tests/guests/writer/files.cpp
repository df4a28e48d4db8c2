// Workers on files of their own: scattered writes, a log, a mapping, state that is replaced whole, big blocks.
#include <map>
#include <sys/mman.h>
#include <sys/uio.h>
#include <vector>

#include "../writer.h"

namespace writer {
namespace {

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

}  // namespace

Worker* scatter() { return new Scatter; }
Worker* log_of_lines() { return new Log; }
Worker* mapped() { return new Mapped; }
Worker* state() { return new State; }
Worker* big() { return new Big; }

}  // namespace writer
