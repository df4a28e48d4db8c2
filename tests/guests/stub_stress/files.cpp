// Descriptors, offsets and contents: whatever the order of the calls, each must reach the file that its
// descriptor stands for at that moment, at the offset that it has.
#include <climits>
#include <sys/stat.h>
#include <sys/uio.h>

#include "../stub_stress.h"

// Bad buffers are the point here.
#pragma GCC diagnostic ignored "-Wnonnull"
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wstringop-overread"

namespace stress {
namespace {

constexpr int kNamed = 24, kThreads = 4, kNumbers = 8, kFirstNumber = 200;

std::string place(int i) { return (i % 2 ? options.outside : options.dir) + "/" + file_name(i); }

// Each file holds its own number, again and again.
void make_named() {
  for (int i = 0; i < kNamed; ++i) {
    const int fd = open(place(i).c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (fd < 0) bad("create", fd, 0);
    for (int k = 0; k < 64; ++k) MUST(write(fd, &i, sizeof i), sizeof i);
    MUST(close(fd), 0);
  }
}

bool holds(int fd, int want, Random& random) {
  int got = -1;
  const off_t at = (off_t)random.below(64) * (off_t)sizeof got;
  switch (random.below(4)) {
    case 0: MUST(pread(fd, &got, sizeof got, at), sizeof got); break;
    case 1: {
      iovec v[2]{{&got, 2}, {(char*)&got + 2, 2}};
      MUST(preadv(fd, v, 2, at), sizeof got);
      break;
    }
    case 2: {
      // What belongs there: whoever reads it meanwhile sees the same.
      MUST(pwrite(fd, &want, sizeof want, at), sizeof want);
      MUST(pread(fd, &got, sizeof got, at), sizeof got);
      break;
    }
    default: {
      iovec v{&want, sizeof want};
      MUST(pwritev(fd, &v, 1, at), sizeof want);
      if (random.below(16) == 0) MUST(fdatasync(fd), 0);
      MUST(pread(fd, &got, sizeof got, at), sizeof got);
    }
  }
  return must("the file that a descriptor stands for", got, want);
}

struct Number {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  int file = -1;  // what stands there; -1: nothing
};
Number numbers[kNumbers];

// Numbers that all threads use in turn, and the kernel's own choice, which all threads race for.
void churn(int id) {
  Random random(options.seed * 100 + (unsigned long)id);
  while (time_left()) {
    const int file = (int)random.below(kNamed), k = (int)random.below(kNumbers), number = kFirstNumber + k;
    const int fd = open(place(file).c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) { bad("open", fd, 0); continue; }
    holds(fd, file, random);
    pthread_mutex_lock(&numbers[k].mutex);
    if (numbers[k].file >= 0) holds(number, numbers[k].file, random);
    switch (random.below(5)) {
      case 0:
        MUST(close(number), numbers[k].file >= 0 ? 0 : -1);
        numbers[k].file = -1;
        MUST(write(number, "x", 1), -1);
        break;
      case 1: {
        int ends[2];
        MUST(pipe(ends), 0);
        MUST(dup2(ends[1], number), number);
        MUST(write(number, "ab", 2), 2);
        char text[2];
        MUST(read(ends[0], text, 2), 2);
        MUST(close(ends[0]), 0);
        MUST(close(ends[1]), 0);
        MUST(close(number), 0);
        numbers[k].file = -1;
        break;
      }
      case 2: {
        MUST(close_range((unsigned)number, (unsigned)number, 0), 0);
        const int got = fcntl(fd, F_DUPFD, number);  // the lowest free one from there
        if (got != number) {
          MUST(close(got), 0);
          numbers[k].file = -1;
        } else {
          numbers[k].file = file;
        }
        break;
      }
      default:
        MUST(random.below(2) ? dup2(fd, number) : dup3(fd, number, O_CLOEXEC), number);
        numbers[k].file = file;
    }
    if (numbers[k].file >= 0) holds(number, numbers[k].file, random);
    pthread_mutex_unlock(&numbers[k].mutex);
    const int again = dup(fd);
    MUST(close(fd), 0);
    holds(again, file, random);
    MUST(close(again), 0);
  }
}

}  // namespace

void descriptors() {
  make_named();
  in_threads(kThreads, churn);
  for (int k = 0; k < kNumbers; ++k) close(kFirstNumber + k);
  for (int i = 0; i < kNamed; ++i) {
    const int fd = open(place(i).c_str(), O_RDONLY);
    int all[65];
    MUST(read(fd, all, sizeof all), 64 * sizeof(int));
    for (int k = 0; k < 64; ++k) must("a file holds only what was written to it", all[k], i);
    MUST(read(fd, all, sizeof all), 0);
    close(fd);
    unlink(place(i).c_str());
  }
}

// One file against a model of it: every kind of read and write, with the offset checked after each.
void positions() {
  Random random(options.seed * 3 + 5);
  const std::string name = options.dir + "/model";
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
  std::string model;
  long at = 0;
  const auto put = [&](long where, const std::string& text) {
    if (text.empty()) return;
    if ((long)model.size() < where + (long)text.size()) model.resize((size_t)where + text.size());
    model.replace((size_t)where, text.size(), text);
  };
  for (long n = 0; time_left() || n < 200; ++n) {
    std::string text((size_t)random.below(random.below(8) ? 200 : 70000), (char)('a' + random.below(26)));
    std::string got(text.size(), '?');
    const long where = random.below((long)model.size() + 100);
    const size_t half = text.size() / 2;
    iovec out[2]{{text.data(), half}, {text.data() + half, text.size() - half}};
    iovec in[2]{{got.data(), half}, {got.data() + half, got.size() - half}};
    const auto there = [&](long from) { return from < (long)model.size() ? model.substr((size_t)from, text.size()) : std::string(); };
    long result = 0;
    switch (random.below(12)) {
      case 0: MUST(write(fd, text.data(), text.size()), text.size()); put(at, text); at += (long)text.size(); break;
      case 1: MUST(writev(fd, out, 2), text.size()); put(at, text); at += (long)text.size(); break;
      case 2: MUST(pwrite(fd, text.data(), text.size(), where), text.size()); put(where, text); break;
      case 3: MUST(pwritev(fd, out, 2, where), text.size()); put(where, text); break;
      case 4: MUST(pwritev2(fd, out, 2, where, 0), text.size()); put(where, text); break;
      case 5: MUST(pwritev2(fd, out, 2, -1, 0), text.size()); put(at, text); at += (long)text.size(); break;
      case 6: result = read(fd, got.data(), got.size()); goto compare_here;
      case 7: result = readv(fd, in, 2); goto compare_here;
      case 8: result = pread(fd, got.data(), got.size(), where); goto compare_there;
      case 9: result = preadv(fd, in, 2, where); goto compare_there;
      case 10: at = where; MUST(lseek(fd, at, SEEK_SET), at); break;
      default:
        if (random.below(4) == 0) {
          MUST(ftruncate(fd, where), 0);
          model.resize((size_t)where);
        } else {
          MUST(random.below(2) ? fsync(fd) : fdatasync(fd), 0);
        }
    }
    goto position;
  compare_here:
    must("bytes read", result, (long)there(at).size());
    if (result > 0 && got.compare(0, (size_t)result, there(at)) != 0) bad("content at the offset", n, -1);
    at += result > 0 ? result : 0;
    goto position;
  compare_there:
    must("bytes read there", result, (long)there(where).size());
    if (result > 0 && got.compare(0, (size_t)result, there(where)) != 0) bad("content there", n, -1);
  position:
    MUST(lseek(fd, 0, SEEK_CUR), at);
    if (model.size() > 400000) {
      MUST(ftruncate(fd, 0), 0);
      model.clear();
    }
  }
  std::string all(model.size() + 1, '?');
  must("size at the end", pread(fd, all.data(), all.size(), 0), (long)model.size());
  all.resize(model.size());
  must("content at the end", all == model, 1);
  close(fd);
  unlink(name.c_str());
}

// Several processes of several threads write records to one file: at its end with O_APPEND, or at the offset
// that they share. Each record is there once, whole, and those of one writer in their order.
static void appending(int flags, int processes, int threads) {
  const std::string name = options.dir + (flags & O_APPEND ? "/appended" : "/shared");
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR | flags, 0600);
  const int each = options.seconds < 1 ? 60 : 250;
  std::vector<pid_t> children;
  for (int p = 0; p < processes; ++p) {
    const pid_t pid = fork();
    if (pid == 0) {
      in_threads(threads, [=](int t) {
        // With O_APPEND every other thread has a description of its own.
        const int mine = (flags & O_APPEND) && t % 2 ? open(name.c_str(), O_WRONLY | O_APPEND) : fd;
        for (int i = 0; i < each; ++i) {
          Item r = make_item(p * threads + t, i);
          iovec v[2]{{&r, 20}, {(char*)&r + 20, sizeof r - 20}};
          MUST(i % 3 ? write(mine, &r, sizeof r) : writev(mine, v, 2), sizeof r);
          if (i % 50 == 49) MUST(fdatasync(mine), 0);
        }
      });
      _exit(0);
    }
    children.push_back(pid);
  }
  for (pid_t pid : children) must("a writer's end", wait_for(pid), 0);
  std::vector<int> next((size_t)(processes * threads));
  const long total = (long)processes * threads * each;
  MUST(lseek(fd, 0, SEEK_END), total * (long)sizeof(Item));
  for (long i = 0; i < total; ++i) {
    Item r{};
    MUST(pread(fd, &r, sizeof r, i * (long)sizeof r), sizeof r);
    if (!must("a record is whole", check_of(r) == r.check, 1)) break;
    if (r.writer < 0 || r.writer >= processes * threads) { bad("a record's writer", r.writer, 0); break; }
    must("a writer's records are in order", r.number, next[(size_t)r.writer]++);
  }
  close(fd);
  unlink(name.c_str());
}

void appends() {
  appending(O_APPEND, 3, 3);
  appending(0, 3, 3);
  appending(O_APPEND | O_DSYNC, 2, 1);
}

// Failures and odd results are the kernel's.
void errors() {
  const std::string name = options.dir + "/errors";
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
  const int reading = open(name.c_str(), O_RDONLY), writing = open(name.c_str(), O_WRONLY);
  const int dir = open(options.dir.c_str(), O_RDONLY), full = open("/dev/full", O_RDWR);
  const long page = 4096;
  char* memory = (char*)mmap(nullptr, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(memory + 2 * page, page);
  memset(memory, 'm', 2 * page);
  char* edge = memory + 2 * page - 100;  // a hundred bytes and then nothing
  for (int round = 0; round < 60; ++round) {
    const auto fails = [](const char* what, long got, int error) {
      const int e = errno;
      if (got != -1 || e != error) bad(what, got == -1 ? -e : got, -error);
    };
#define ERR(call, error) (errno = 0, fails(#call, (long)(call), error))
    ERR(write(-1, "x", 1), EBADF);
    ERR(read(-1, edge, 1), EBADF);
    ERR(write(9999, "x", 1), EBADF);
    ERR(close(9999), EBADF);
    ERR(close(-1), EBADF);
    ERR(dup2(-1, 300), EBADF);
    ERR(dup2(fd, -1), EBADF);
    ERR(dup3(fd, fd, 0), EINVAL);
    ERR(write(reading, "x", 1), EBADF);
    ERR(read(writing, edge, 1), EBADF);
    ERR(read(dir, edge, 1), EISDIR);
    ERR(write(full, "x", 1), ENOSPC);
    ERR(write(fd, nullptr, 8), EFAULT);
    ERR(pwrite(fd, memory + 2 * page, 8, 0), EFAULT);
    ERR(pwrite(fd, "x", 1, -5), EINVAL);
    ERR(pread(fd, edge, 1, -5), EINVAL);
    ERR(writev(fd, (iovec*)(memory + 2 * page), 1), EFAULT);
    ERR(writev(fd, nullptr, -1), EINVAL);
    ERR(readv(fd, nullptr, IOV_MAX + 1), EINVAL);
    ERR(fsync(-1), EBADF);
    ERR(fcntl(-1, F_DUPFD, 0), EBADF);
    ERR(openat(AT_FDCWD, "/nowhere/x", O_RDONLY), ENOENT);
    ERR(openat(fd, "x", O_RDONLY), ENOTDIR);
    ERR(open((const char*)8, O_RDONLY), EFAULT);
    ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    int ends[2];
    MUST(pipe2(ends, O_NONBLOCK), 0);
    ERR(pwrite(ends[1], "x", 1, 0), ESPIPE);
    ERR(read(ends[0], edge, 1), EAGAIN);
    MUST(close(ends[1]), 0);
    MUST(read(ends[0], edge, 1), 0);
    MUST(close(ends[0]), 0);
    MUST(pwrite(fd, edge, 0, 0), 0);
    MUST(ftruncate(fd, 0), 0);
    MUST(pwrite(fd, edge, 200, 0), 100);  // what can be read of it
    MUST(lseek(fd, 0, SEEK_END), 100);
    MUST(lseek(fd, 0, SEEK_SET), 0);
    MUST(pread(fd, memory, 200, 0), 100);
    MUST(pread(fd, edge, 200, 0), 100);
    MUST(pread(fd, edge, 200, 100), 0);
    MUST(fcntl(fd, F_SETFL, O_APPEND), 0);
    MUST(write(fd, "end", 3), 3);
    MUST(lseek(fd, 0, SEEK_CUR), 103);
    MUST(fcntl(fd, F_SETFL, 0), 0);
    MUST(lseek(fd, 1, SEEK_SET), 1);
    MUST(write(fd, "xy", 2), 2);
    MUST(pread(fd, memory, 4, 0), 4);
    must("content", memcmp(memory, "mxym", 4), 0);
  }
  for (int f : {fd, reading, writing, dir, full}) close(f);
  munmap(memory, 2 * page);
  unlink(name.c_str());
}

}  // namespace stress
