// Loads and stores through shared and private mappings of a file whose storage fails meanwhile.
//
//   sigbus FILE [--handler] [--rounds N] [--delay MS] [--evict]
//
// FILE gets a known content and is mapped. Each round stores to and loads from every page, checks it
// against what must be there, and prints a line. With --handler a SIGBUS handler is installed: it must
// not run. Without it SIGBUS ends the program. --evict asks the kernel to drop the pages each round, so
// that loads go to the storage. In the end FILE is msynced, closed, and read back with read(2).
#include <fcntl.h>
#include <signal.h>
#include <string>
#include <sys/stat.h>
#include <vector>

#include "guest.h"

namespace {

volatile int ran;
void on_bus(int, siginfo_t* info, void*) {
  ran = ran + 1;
  guest::line("FAIL SIGBUS was delivered, code %d", info->si_code);
  _exit(3);
}

}  // namespace

int main(int argc, char** argv) {
  long rounds = 10, delay = 20;
  bool evict = false, handler = false;
  for (int i = 2; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--handler") handler = true;
    else if (a == "--evict") evict = true;
    else if (a == "--rounds" && i + 1 < argc) rounds = atol(argv[++i]);
    else if (a == "--delay" && i + 1 < argc) delay = atol(argv[++i]);
    else argc = 0;
  }
  if (argc < 2) {
    guest::line("usage: sigbus FILE [--handler] [--rounds N] [--delay MS] [--evict]");
    return 2;
  }
  alarm((unsigned)(60 + rounds * delay / 200));
  if (handler) {
    struct sigaction a{};
    a.sa_sigaction = on_bus;
    a.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &a, nullptr);
  }
  const size_t page = 4096, pages = 256, size = page * pages;
  const std::string fixed = std::string(argv[1]) + ".fixed";
  std::string model(size, 0);
  for (size_t i = 0; i < size; ++i) model[i] = (char)(i * 31 + i / page);
  // Never written again: its pages can only come from the storage.
  int f = open(fixed.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600), w = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  for (int fd : {f, w}) {
    IS("write", write(fd, model.data(), size), size);
    IS("fsync", fsync(fd), 0);
  }
  auto* shared = (char*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, w, 0);
  auto* reading = (char*)mmap(nullptr, size, PROT_READ, MAP_SHARED, f, 0);
  auto* priv = (char*)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, f, 0);
  IS("mmap", shared == MAP_FAILED || reading == MAP_FAILED || priv == MAP_FAILED, 0);
  // A mapping lives on without its descriptor.
  IS("close", close(f), 0);
  long bad_shared = 0, bad_reading = 0, bad_private = 0;
  std::vector<std::pair<size_t, char>> dirtied;
  for (long r = 0; r < rounds; ++r) {
    if (evict) {
      int e = open(fixed.c_str(), O_RDONLY);
      if (e >= 0) {
        madvise(reading, size, MADV_DONTNEED);
        posix_fadvise(e, 0, 0, POSIX_FADV_DONTNEED);
        close(e);
      }
    }
    for (size_t p = 0; p < pages; ++p) {
      const size_t at = p * page + (size_t)(r * 17 + p) % page;
      bad_reading += reading[at] != (char)(at * 31 + at / page);
      bad_shared += shared[at] != model[at];
      shared[at] = model[at] = (char)(model[at] + 1);
      if (p % 32 == (size_t)r % 32) {
        priv[p * page + 7] = (char)r;
        bad_private += priv[p * page + 7] != (char)r;
      }
      bad_private += priv[p * page + 100] != (char)((p * page + 100) * 31 + p);
      if (p % 64 == 63 && delay) guest::pause_ms(delay / 4 + 1);
    }
    if (r % 3 == 1) IS("msync", msync(shared, size, MS_SYNC), 0);
    if (r % 4 == 2) {
      // A mapping as a system call's buffer.
      std::string got(100, 0);
      IS("pwrite from the mapping", pwrite(w, reading + 5000, 100, 5000 + (off_t)size), 100);
      IS("pread", pread(w, got.data(), 100, 5000 + (off_t)size), 100);
      IS("its bytes", memcmp(got.data(), reading + 5000, 100), 0);
    }
    guest::line("round %ld", r + 1);
  }
  IS("wrong loads from the shared mapping", bad_shared, 0);
  IS("wrong loads from the read-only mapping", bad_reading, 0);
  IS("wrong loads from the private mapping", bad_private, 0);
  IS("msync", msync(shared, size, MS_SYNC), 0);
  IS("munmap", munmap(shared, size), 0);
  std::string back(size, 0);
  IS("pread of all", pread(w, back.data(), size, 0), size);
  IS("all bytes as stored", back == model, 1);
  IS("fsync", fsync(w), 0);
  IS("close", close(w), 0);
  IS("SIGBUS handler runs", ran, 0);
  return guest::finish("sigbus");
}
