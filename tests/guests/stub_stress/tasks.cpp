// Threads that are cancelled, processes of all kinds that begin and end while others are in the middle of calls,
// and tasks that share memory but not descriptors, or descriptors but not memory.
#include <sched.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../stub_stress.h"

extern char** environ;

namespace stress {
namespace {

std::atomic<int> cleaned{0};
void clean_up(void*) { ++cleaned; }
int idle[2];

void* blocked(void* arg) {
  pthread_cleanup_push(clean_up, nullptr);
  ((std::atomic<int>*)arg)->store(1);
  char c;
  for (;;) {
    if (read(idle[0], &c, 1) != -1) bad("read of an idle pipe", 0, -1);
  }
  pthread_cleanup_pop(0);
  return nullptr;
}

struct Writer {
  std::atomic<int> started{0};
  int fd;
};

void* running(void* arg) {
  pthread_cleanup_push(clean_up, nullptr);
  Writer& w = *(Writer*)arg;
  w.started = 1;
  Item r = make_item(3, 0);
  for (int last_state;;) {
    // Whether the file has the last one can't be told when it is cancelled: only that it is whole.
    if (write(w.fd, &r, sizeof r) != (ssize_t)sizeof r) bad("write of a thread that is to be cancelled", -1, sizeof r);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &last_state);
    r.number++;
    r.check = check_of(r);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &last_state);
  }
  pthread_cleanup_pop(0);
  return nullptr;
}

// Cancels 300 threads that read what never comes; `certain`: each has begun before.
void cancel_blocked(Random& random, bool certain) {
  cleaned = 0;
  for (int i = 0; i < 300; ++i) {
    std::atomic<int> started{0};
    pthread_t t;
    MUST(pthread_create(&t, nullptr, blocked, &started), 0);
    if (certain || i % 4) {
      while (!started) sched_yield();
    }
    // In the middle of the read, or on the way into it.
    spin(random.below(i % 2 ? 20000 : 1));
    if (i % 8 == 0) guest::pause_ms(2);
    MUST(pthread_cancel(t), 0);
    void* result = nullptr;
    MUST(pthread_join(t, &result), 0);
    must("it was cancelled", result == PTHREAD_CANCELED, 1);
  }
}

}  // namespace

void cancellations() {
  MUST(pipe(idle), 0);
  Random random(options.seed);
  cancel_blocked(random, false);
  must("clean-up handlers of the threads that had begun", cleaned >= 225 && cleaned <= 300, 1);
  cancel_blocked(random, true);
  must("clean-up handlers of 300", cleaned, 300);

  const std::string name = options.dir + "/cancelled";
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_APPEND, 0600);
  cleaned = 0;
  for (int i = 0; i < 100; ++i) {
    Writer writer{{0}, fd};
    pthread_t t;
    MUST(pthread_create(&t, nullptr, running, &writer), 0);
    while (!writer.started) sched_yield();
    spin(random.below(50000));
    MUST(pthread_cancel(t), 0);
    MUST(pthread_join(t, nullptr), 0);
  }
  must("clean-up handlers of writing threads", cleaned, 100);
  const long size = lseek(fd, 0, SEEK_END);
  must("whole records", size % (long)sizeof(Item), 0);
  for (long at = 0; at < size; at += (long)sizeof(Item) * (1 + size / 640000)) {
    Item r{};
    MUST(pread(fd, &r, sizeof r, at), sizeof r);
    if (!must("a record of a cancelled thread is whole", r.check == check_of(r), 1)) break;
  }
  close(fd);
  unlink(name.c_str());
  close(idle[0]), close(idle[1]);
}

namespace {

const char* self() { return "/proc/self/exe"; }

// What a child does: I/O on what it inherited and on what it opens, often enough to be off the slow way.
int child_work(const std::string& dir, int fd, int id) {
  const std::string name = dir + "/child-" + std::to_string(id);
  const int own = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
  if (own < 0) return 11;
  int wrong = 0;
  for (int i = 0; i < 100; ++i) {
    Item r = make_item(id, i), got{};
    wrong += write(own, &r, sizeof r) != (ssize_t)sizeof r;
    wrong += pread(own, &got, sizeof got, i * (off_t)sizeof r) != (ssize_t)sizeof r || memcmp(&r, &got, sizeof r) != 0;
    if (fd >= 0) wrong += write(fd, &r, sizeof r) != (ssize_t)sizeof r;
  }
  wrong += lseek(own, 0, SEEK_END) != 100 * (off_t)sizeof(Item);
  close(own);
  unlink(name.c_str());
  return wrong ? 12 : 40 + id % 10;
}

std::vector<std::string> child_words(int fd, int id) {
  return {"stub_stress", "--child", options.dir, std::to_string(fd), std::to_string(id), std::to_string(options.seed)};
}

struct Words {
  std::vector<std::string> text;
  std::vector<char*> pointers;
  explicit Words(std::vector<std::string> t) : text(std::move(t)) {
    for (auto& w : text) pointers.push_back(w.data());
    pointers.push_back(nullptr);
  }
};

bool ended_with(pid_t pid, int code) {
  const int status = wait_for(pid);
  return must("a child's end", WIFEXITED(status) ? WEXITSTATUS(status) : -status, code);
}

}  // namespace

// stub_stress --child DIR FD ID SEED
int child(int argc, char** argv) {
  if (argc != 6) return 13;
  const int id = atoi(argv[4]);
  if (id >= 1000) {  // exec once more, from a thread that is not the first
    std::thread([&] {
      const std::string next = std::to_string(id - 1000);
      char* words[] = {argv[0], argv[1], argv[2], argv[3], (char*)next.c_str(), argv[5], nullptr};
      execv(self(), words);
      _exit(14);
    }).join();
  }
  return child_work(argv[2], atoi(argv[3]), id);
}

void processes() {
  const std::string name = options.dir + "/family";
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_APPEND, 0600);
  std::atomic<bool> end{false};
  std::atomic<long> written{0};
  std::vector<std::thread> busy;
  for (int i = 0; i < 2; ++i) {
    busy.emplace_back([&, i] {
      const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
      for (int n = 0; !end; ++n) {
        MUST(write(null, "busy", 4), 4);
        if (n % 64 == 0) {
          Item r = make_item(50 + i, n);
          MUST(write(fd, &r, sizeof r), sizeof r);
          ++written;
        }
      }
      close(null);
    });
  }
  long of_children = 0;
  for (int n = 0; time_left() || n < 10; ++n) {
    const int id = n % 10;
    pid_t pid = -1;
    switch (n % 5) {
      case 0:
        pid = fork();
        if (pid == 0) _exit(child_work(options.dir, fd, id));
        break;
      case 1: {
        Words w(child_words(fd, id));
        MUST(posix_spawn(&pid, self(), nullptr, nullptr, w.pointers.data(), environ), 0);
        break;
      }
      case 2: {
        Words w(child_words(fd, id));
        pid = vfork();
        if (pid == 0) {
          execv(self(), w.pointers.data());
          _exit(15);
        }
        break;
      }
      case 3: {
        Words w(child_words(fd, 1000 + id));
        pid = fork();
        if (pid == 0) {
          execv(self(), w.pointers.data());
          _exit(15);
        }
        break;
      }
      default:
        pid = fork();
        if (pid == 0) {  // threads of a child of a process with threads
          std::atomic<int> sum{0};
          in_threads(3, [&](int t) { sum += child_work(options.dir, t ? -1 : fd, 100 + id * 10 + t) - 40; });
          _exit(sum == 3 ? 40 + id : 16);
        }
    }
    if (!must("a child was made", pid > 0, 1)) break;
    if (ended_with(pid, 40 + id)) of_children += 100;
  }
  end = true;
  for (auto& t : busy) t.join();
  MUST(lseek(fd, 0, SEEK_END), (written + of_children) * (long)sizeof(Item));
  Item r{};
  MUST(lseek(fd, 0, SEEK_SET), 0);
  for (long n = written + of_children; n > 0; --n) {
    MUST(read(fd, &r, sizeof r), sizeof r);
    if (!must("a record of the family is whole", r.check == check_of(r), 1)) break;
  }
  close(fd);
  unlink(name.c_str());
}

namespace {

struct Sharer {
  int inside, outside, number;
  std::atomic<int> wrong{0};
};

// Takes the shared number for another file, in whatever table it has, and uses it often.
int use_number(void* arg) {
  Sharer& s = *(Sharer*)arg;
  int wrong = 0;
  wrong += dup2(s.outside, s.number) != s.number;
  Item r = make_item(8, 0), got{};
  for (int i = 0; i < 300; ++i) {
    wrong += pwrite(s.number, &r, sizeof r, i * (off_t)sizeof r) != (ssize_t)sizeof r;
    wrong += pread(s.number, &got, sizeof got, i * (off_t)sizeof r) != (ssize_t)sizeof r || got.writer != 8;
  }
  s.wrong += wrong;
  return 0;
}

void check_owner(Sharer& s, int writer) {
  Item r = make_item(writer, 0), got{};
  for (int i = 0; i < 300; ++i) {
    MUST(pwrite(s.number, &r, sizeof r, i * (off_t)sizeof r), sizeof r);
    MUST(pread(s.inside, &got, sizeof got, i * (off_t)sizeof r), sizeof r);
    MUST(got.writer, writer);
  }
}

}  // namespace

void sharers() {
  Sharer s;
  s.inside = open((options.dir + "/inside").c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
  s.outside = open((options.outside + "/outside").c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
  s.number = 250;
  constexpr size_t kStack = 256 << 10;
  char* stack = (char*)mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int round = 0; round < 8; ++round) {
    MUST(dup2(s.inside, s.number), s.number);
    check_owner(s, 9);
    bool shared_table = false;
    switch (round % 4) {
      case 0: {  // memory, but a table of its own
        const int pid = clone(use_number, stack + kStack, CLONE_VM | SIGCHLD, &s);
        if (must("clone with memory", pid > 0, 1)) must("its end", wait_for(pid), 0);
        break;
      }
      case 1: {  // the table, but memory of its own
        const int pid = clone(use_number, stack + kStack, CLONE_FILES | SIGCHLD, &s);
        if (must("clone with descriptors", pid > 0, 1)) must("its end", wait_for(pid), 0);
        shared_table = true;
        break;
      }
      case 2: {  // both
        const int pid = clone(use_number, stack + kStack, CLONE_VM | CLONE_FILES | SIGCHLD, &s);
        if (must("clone with both", pid > 0, 1)) must("its end", wait_for(pid), 0);
        shared_table = true;
        break;
      }
      default:  // a thread that takes a copy of the table
        std::thread([&] {
          MUST(unshare(CLONE_FILES), 0);
          use_number(&s);
        }).join();
    }
    Item got{};
    MUST(pread(s.number, &got, sizeof got, 0), sizeof got);
    must("which file the number stands for", got.writer, shared_table ? 8 : 9);
    MUST(dup2(s.inside, s.number), s.number);
    check_owner(s, 10);
    MUST(close(s.number), 0);
  }
  must("wrong results of the sharers", s.wrong, 0);
  munmap(stack, kStack);
  close(s.inside), close(s.outside);
  unlink((options.dir + "/inside").c_str());
  unlink((options.outside + "/outside").c_str());
}

}  // namespace stress
