// Threads: storms of creation, cancellation and its clean-up, robust and process-shared mutexes, condition
// variables, barriers, thread-local storage, a thread's credentials and names, write calls from many threads.
//
//   threads [ROUNDS]
#include <atomic>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <string>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include "guest.h"

namespace {

thread_local long local = 7;
thread_local std::string text = "initial";

void creation(long rounds) {
  std::atomic<long> sum{0}, wrong{0};
  for (long r = 0; r < rounds; ++r) {
    std::vector<std::thread> all;
    for (long i = 0; i < 16; ++i)
      all.emplace_back([&, i] {
        wrong += local != 7 || text != "initial";
        local = i;
        text = std::to_string(i);
        sched_yield();
        wrong += local != i || text != std::to_string(i);
        sum += i;
      });
    for (auto& t : all) t.join();
  }
  IS("threads that ran", sum, rounds * 120);
  IS("wrong thread-local values", wrong, 0);
  pthread_attr_t a;
  pthread_attr_init(&a);
  pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
  static std::atomic<int> ended{0};
  for (int i = 0; i < 50; ++i) {
    pthread_t t;
    if (pthread_create(&t, &a, [](void*) -> void* { ++ended; return nullptr; }, nullptr) != 0) ++wrong;
  }
  for (int i = 0; i < 500 && ended < 50; ++i) guest::pause_ms(5);
  IS("detached threads", ended, 50);
}

std::atomic<int> cleaned{0};

void cancellation(long rounds) {
  static int p[2];
  IS("pipe", pipe(p), 0);
  long cancelled = 0;
  cleaned = 0;
  for (long i = 0; i < rounds * 10; ++i) {
    pthread_t t;
    static std::atomic<bool> ready;
    ready = false;
    pthread_create(&t, nullptr, [](void* kind) -> void* {
      pthread_cleanup_push([](void*) { ++cleaned; }, nullptr);
      ready = true;
      char c;
      timespec s{30, 0};
      switch ((long)kind % 3) {
        case 0: (void)!read(p[0], &c, 1); break;
        case 1: nanosleep(&s, nullptr); break;
        default: { sem_t sem; sem_init(&sem, 0, 0); sem_wait(&sem); }
      }
      pthread_cleanup_pop(0);
      return nullptr;
    }, (void*)i);
    while (!ready) sched_yield();
    if (i % 2) guest::pause_ms(1);
    pthread_cancel(t);
    void* result = nullptr;
    pthread_join(t, &result);
    cancelled += result == PTHREAD_CANCELED;
  }
  IS("cancelled threads", cancelled, rounds * 10);
  IS("that cleaned up", cleaned, rounds * 10);
  close(p[0]), close(p[1]);
}

// Cancelling a thread that is in the middle of storing and writing: the clean-up runs exactly once.
void cancel_writers(long rounds) {
  static int fd;
  char name[] = "/tmp/guest-threads-XXXXXX";
  fd = mkstemp(name);
  unlink(name);
  cleaned = 0;
  long cancelled = 0;
  for (long i = 0; i < rounds * 5; ++i) {
    pthread_t t;
    pthread_create(&t, nullptr, [](void*) -> void* {
      pthread_cleanup_push([](void*) { ++cleaned; }, nullptr);
      char block[64] = "x";
      for (;;) (void)!pwrite(fd, block, sizeof block, 0);
      pthread_cleanup_pop(0);
      return nullptr;
    }, nullptr);
    guest::pause_ms(2);
    pthread_cancel(t);
    void* result = nullptr;
    pthread_join(t, &result);
    cancelled += result == PTHREAD_CANCELED;
  }
  IS("cancelled writers", cancelled, rounds * 5);
  IS("that cleaned up", cleaned, rounds * 5);
  close(fd);
}

struct Shared {
  pthread_mutex_t robust, plain;
  pthread_cond_t turn;
  pthread_barrier_t barrier;
  long counter, whose;
};

void synchronisation(long rounds) {
  auto* s = (Shared*)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&s->plain, &a);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&s->robust, &a);
  pthread_condattr_t c;
  pthread_condattr_init(&c);
  pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED);
  pthread_cond_init(&s->turn, &c);
  pid_t child = fork();
  if (child == 0) {
    pthread_mutex_lock(&s->robust);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  IS("robust mutex of a dead process", pthread_mutex_lock(&s->robust), EOWNERDEAD);
  IS("made consistent", pthread_mutex_consistent(&s->robust), 0);
  IS("unlock", pthread_mutex_unlock(&s->robust), 0);
  std::thread([&] { pthread_mutex_lock(&s->robust); }).join();
  IS("robust mutex of a dead thread", pthread_mutex_lock(&s->robust), EOWNERDEAD);
  pthread_mutex_consistent(&s->robust);
  pthread_mutex_unlock(&s->robust);

  // Two processes in turn over a shared condition variable.
  child = fork();
  const long turns = rounds * 50, mine = child == 0;
  for (long i = 0; i < turns; ++i) {
    pthread_mutex_lock(&s->plain);
    while (s->whose != mine) pthread_cond_wait(&s->turn, &s->plain);
    ++s->counter;
    s->whose = !mine;
    pthread_cond_broadcast(&s->turn);
    pthread_mutex_unlock(&s->plain);
  }
  if (child == 0) _exit(0);
  int status = -1;
  waitpid(child, &status, 0);
  IS("the other process", status, 0);
  IS("turns taken", s->counter, turns * 2);

  std::atomic<long> meetings{0};
  pthread_barrier_init(&s->barrier, nullptr, 4);
  std::vector<std::thread> all;
  for (int i = 0; i < 4; ++i)
    all.emplace_back([&] {
      for (long r = 0; r < rounds * 5; ++r) meetings += pthread_barrier_wait(&s->barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
    });
  for (auto& t : all) t.join();
  IS("barriers passed", meetings, rounds * 5);
  munmap(s, 4096);
}

void parallel_writes(long rounds) {
  char name[] = "/tmp/guest-threads-XXXXXX";
  int fd = mkstemp(name);
  unlink(name);
  std::atomic<long> wrong{0};
  std::vector<std::thread> all;
  for (long t = 0; t < 8; ++t)
    all.emplace_back([&, t] {
      for (long i = 0; i < rounds * 20; ++i) {
        char block[100];
        memset(block, (int)('a' + t), sizeof block);
        wrong += pwrite(fd, block, sizeof block, (i * 8 + t) * 100) != 100;
        if (i % 10 == 0) wrong += fdatasync(fd) != 0;
      }
    });
  for (auto& t : all) t.join();
  IS("wrong results of parallel writes", wrong, 0);
  struct stat s{};
  fstat(fd, &s);
  IS("size", s.st_size, rounds * 20 * 800);
  std::string got((size_t)s.st_size, 0);
  IS("read back", pread(fd, got.data(), got.size(), 0), s.st_size);
  for (size_t i = 0; i < got.size(); ++i) wrong += got[i] != (char)('a' + i / 100 % 8);
  IS("wrong bytes", wrong, 0);
  close(fd);
}

void oddities() {
  std::thread t([] {
    pthread_setname_np(pthread_self(), "a-guest-thread");
    char name[32] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    IS("a thread's name", std::string(name) == "a-guest-thread", 1);
    IS("unshare(CLONE_FS)", unshare(CLONE_FS), 0);
    IS("its own working directory", chdir("/tmp"), 0);
  });
  t.join();
  char here[4096] = "";
  IS("main's is unchanged", getcwd(here, sizeof here) && std::string(here) != "/tmp", 1);
  IS("unshared descriptors", [] {
    int fd = -1;
    std::thread u([&] {
      if (unshare(CLONE_FILES) == 0) fd = open("/dev/null", O_RDONLY);
    });
    u.join();
    return fd >= 0 && fcntl(fd, F_GETFD) == -1 && errno == EBADF;
  }(), 1);
  IS("set_robust_list", syscall(SYS_get_robust_list, 0, here, here + 8), 0);
  cpu_set_t set;
  IS("affinity", sched_getaffinity(0, sizeof set, &set), 0);
}

}  // namespace

int main(int argc, char** argv) {
  alarm(120);
  const long rounds = argc > 1 ? atol(argv[1]) : 10;
  creation(rounds);
  cancellation(rounds);
  cancel_writers(rounds);
  synchronisation(rounds);
  parallel_writes(rounds);
  oddities();
  return guest::finish("threads");
}
