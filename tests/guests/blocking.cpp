// Processes and threads in every kind of blocking call. A call must return neither early, nor with
// EINTR, nor with a wrong result, whatever is done to the tree in between (stop, dump, restore).
//
//   blocking --log FILE --dir DIR (--timed SECONDS | --kick FILE)
//            [--slack SECONDS] [--limit SECONDS] [--only A,B] [--without A,B] [--tick FILE] [--list]
//
// --timed: calls with a timeout wait SECONDS and must take that long; the others are released then.
// --kick:  everything waits until FILE appears, then everybody is released.
// --tick:  meanwhile main appends numbered records to FILE, with fsync, and checks them at the end.
// DIR holds the FIFO, the lock files and the watched directory. Errors: log lines "ERR" and exit 1.
#include <algorithm>
#include <pthread.h>
#include <signal.h>
#include <sstream>
#include <sys/mman.h>
#include <sys/wait.h>

#include "blocking.h"

namespace blocking {

Shared* shared;
std::vector<Kind> kinds;
double wait_seconds = 3600;
bool timed_mode = false;
std::string dir;

namespace {

double slack_seconds = 2;
std::string log_path, kick_path, tick_path;

bool judge(const Kind& k, long r, int error, double elapsed, std::string& why) {
  const bool kicked = shared->kicked;
  if (k.ends == Ends::released) {
    errno = error;
    if (!kicked) why = "returned before it was released";
    else if (!k.good(r)) why = "wrong result";
  } else if (k.ends == Ends::timeout && timed_mode) {
    if (r != k.timeout_result || (r == -1 && error != k.timeout_error)) why = "wrong result";
    else if (elapsed < wait_seconds - 0.01) why = "too early";
    else if (elapsed > wait_seconds + slack_seconds) why = "too late";
  } else {
    if (!kicked) why = "returned before it was released";
    else if (!(r == -1 && error == EINTR)) why = "expected EINTR after the release";
  }
  return why.empty();
}

void run_kind(size_t index) {
  const Kind& k = kinds[index];
  Slot& slot = shared->slots[index];
  slot.pid = getpid();
  slot.tid = (pid_t)syscall(SYS_gettid);
  const double start = seconds(k.clock);
  slot.entered = 1;
  errno = 0;
  const long r = k.wait();
  const int error = errno;
  const double elapsed = seconds(k.clock) - start;
  std::string why;
  if (judge(k, r, error, elapsed, why)) {
    line("ok  %-26s ret=%ld elapsed=%.3f", k.name.c_str(), r, elapsed);
  } else {
    __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    line("ERR %-26s %s: ret=%ld errno=%d (%s) elapsed=%.3f", k.name.c_str(), why.c_str(), r, error, strerror(error), elapsed);
  }
  slot.done = 1;
}

void* run_thread(void* index) {
  run_kind((size_t)index);
  return nullptr;
}

// Computes all the time, so that registers and vector registers are proven to survive.
void* busy_thread(void*) {
  uint64_t x = 1, n = 0;
  volatile double d = 1.0;
  while (!shared->busy_stop) {
    for (int i = 0; i < 1000; ++i, ++n) {
      x = x * 6364136223846793005ULL + 1442695040888963407ULL;
      d = d * 1.0000001 > 2 ? 1.0 : d * 1.0000001;
    }
    timespec t{0, 20000000};
    if (nanosleep(&t, nullptr) != 0) {
      line("ERR busy thread: nanosleep: %s", strerror(errno));
      __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    }
  }
  uint64_t y = 1;
  for (uint64_t i = 0; i < n; ++i) y = y * 6364136223846793005ULL + 1442695040888963407ULL;
  if (x != y) __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
  line("%s busy thread: %llu steps", x == y ? "ok " : "ERR", (unsigned long long)n);
  return nullptr;
}

int run_process(int process) {
  std::vector<pthread_t> threads;
  std::vector<size_t> mine;
  for (size_t i = 0; i < kinds.size(); ++i)
    if (kinds[i].process == process) mine.push_back(i);
  for (size_t i = 1; i < mine.size(); ++i) {
    threads.emplace_back();
    must(pthread_create(&threads.back(), nullptr, run_thread, (void*)mine[i]) == 0, "pthread_create");
  }
  run_kind(mine[0]);
  for (auto t : threads) pthread_join(t, nullptr);
  return 30 + process;
}

struct Ticker {
  int fd = -1;
  int count = 0;
  int errors = 0;
  std::string record(int i) {
    char b[64];
    snprintf(b, sizeof b, "tick %08d from the blocking guest\n", i);
    return b;
  }
  void complain(const char* what, long r) {
    ++errors;
    line("ERR tick %d: %s: ret=%ld errno=%d (%s)", count, what, r, errno, strerror(errno));
  }
  void start() {
    if (tick_path.empty()) return;
    fd = open(tick_path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0, "open tick file");
  }
  void tick() {
    if (fd < 0) return;
    std::string r = record(count);
    long n = write(fd, r.data(), r.size());
    if (n != (long)r.size()) complain("write", n);
    if (count % 3 == 0 && (n = fsync(fd)) != 0) complain("fsync", n);
    ++count;
  }
  void verify() {
    if (fd < 0) return;
    for (int i = 0; i < count; ++i) {
      std::string want = record(i), got(want.size(), 0);
      long n = pread(fd, got.data(), got.size(), i * (off_t)want.size());
      if (n != (long)want.size() || got != want) complain("read back", n), i = count;
    }
    if (lseek(fd, 0, SEEK_END) != (off_t)(count * record(0).size())) complain("size", 0);
    line("%s %d ticks", errors ? "ERR" : "ok ", count);
  }
};

std::vector<std::string> split(const char* text) {
  std::vector<std::string> out;
  std::stringstream in(text);
  for (std::string s; std::getline(in, s, ',');) out.push_back(s);
  return out;
}

void on_signal(int) {}

}  // namespace
}  // namespace blocking

using namespace blocking;

int main(int argc, char** argv) {
  std::vector<std::string> only, without;
  double limit = 0;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    std::string a = argv[i];
    const char* v = i + 1 < argc ? argv[i + 1] : "";
    if (a == "--list") { list = true; continue; }
    ++i;
    if (a == "--log") log_path = v;
    else if (a == "--dir") dir = v;
    else if (a == "--timed") timed_mode = true, wait_seconds = atof(v);
    else if (a == "--kick") kick_path = v;
    else if (a == "--slack") slack_seconds = atof(v);
    else if (a == "--limit") limit = atof(v);
    else if (a == "--only") only = split(v);
    else if (a == "--without") without = split(v);
    else if (a == "--tick") tick_path = v;
    else { line("unknown option %s", a.c_str()); return 2; }
  }
  if (dir.empty() || (!timed_mode && kick_path.empty() && !list)) {
    line("usage: blocking --dir DIR (--timed SECONDS | --kick FILE) [--log FILE]");
    return 2;
  }
  if (limit == 0) limit = timed_mode ? wait_seconds + slack_seconds + 60 : 600;
  alarm((unsigned)limit);
  if (!log_path.empty()) {
    guest::out = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (guest::out < 0) return 2;
  }
  shared = (Shared*)mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct sigaction action{};
  action.sa_handler = on_signal;
  sigaction(SIGUSR1, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int s : {SIGUSR2, SIGRTMIN + 3, SIGRTMIN + 4}) sigaddset(&blocked, s);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);

  const auto wanted = [&](const char* group) {
    const auto in = [&](const std::vector<std::string>& v) { return std::find(v.begin(), v.end(), group) != v.end(); };
    return only.empty() ? !in(without) : in(only);
  };
  const std::pair<const char*, void (*)()> groups[] = {
      {"children", add_children}, {"descriptors", add_descriptors}, {"polls", add_polls}, {"sleeps", add_sleeps},
      {"futexes", add_futexes}, {"sockets", add_sockets}, {"sysv", add_sysv}, {"mqueue", add_mqueue},
      {"aio", add_aio}, {"locks", add_locks}, {"signals", add_signals}};
  if (list) {
    for (auto& [name, add] : groups) line("%s", name);
    return 0;
  }
  for (auto& [name, add] : groups)
    if (wanted(name)) add();
  // A group's names can be single kinds too.
  std::erase_if(kinds, [&](const Kind& k) { return std::find(without.begin(), without.end(), k.name) != without.end(); });
  must(kinds.size() <= std::size(shared->slots), "too many kinds");

  std::vector<std::pair<int, pid_t>> children;
  for (int p = 1; p <= 12; ++p) {
    if (std::none_of(kinds.begin(), kinds.end(), [&](const Kind& k) { return k.process == p; })) continue;
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) _exit(run_process(p));
    children.emplace_back(p, pid);
  }
  std::vector<pthread_t> threads;
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i].process != 0) continue;
    threads.emplace_back();
    must(pthread_create(&threads.back(), nullptr, run_thread, (void*)i) == 0, "pthread_create");
  }
  pthread_t busy;
  must(pthread_create(&busy, nullptr, busy_thread, nullptr) == 0, "pthread_create");
  Ticker ticker;
  ticker.start();

  const auto all = [&](volatile int Slot::*field) {
    for (size_t i = 0; i < kinds.size(); ++i)
      if (!(shared->slots[i].*field)) return false;
    return true;
  };
  const auto nap = [&](long ms) {
    timespec t{ms / 1000, ms % 1000 * 1000000};
    if (nanosleep(&t, nullptr) != 0) {
      line("ERR main: nanosleep: %s", strerror(errno));
      __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    }
  };
  const double start = seconds();
  while (!all(&Slot::entered) && seconds() - start < 30) nap(10);
  must(all(&Slot::entered), "some thread never started");
  nap(200);
  size_t waiting = 0;
  for (auto& c : children) waiting += c.second > 0;
  line("ready: %zu kinds, %zu processes, %zu threads in main", kinds.size(), waiting + 1, threads.size() + 2);

  if (timed_mode) {
    while (seconds() - start < wait_seconds) nap(50), ticker.tick();
    nap(300);
  } else {
    while (access(kick_path.c_str(), F_OK) != 0) nap(50), ticker.tick();
  }
  shared->kicked = 1;
  line("kick");
  for (auto& k : kinds)
    if (k.ends == Ends::released) k.release();
  // A thread may be between two tries of its call: signal it until it is done.
  for (const double since = seconds(); !all(&Slot::done) && seconds() - since < 20; nap(20)) {
    for (size_t i = 0; i < kinds.size(); ++i) {
      Slot& s = shared->slots[i];
      const bool by_signal = kinds[i].ends == Ends::signalled || (kinds[i].ends == Ends::timeout && !timed_mode);
      if (by_signal && !s.done) syscall(SYS_tgkill, s.pid, s.tid, SIGUSR1);
    }
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (shared->slots[i].done) continue;
    __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    line("ERR %s: never returned", kinds[i].name.c_str());
  }
  remove_sysv();
  if (!all(&Slot::done)) {
    for (auto& c : children) kill(c.second, SIGKILL);
    _exit(1);
  }
  shared->busy_stop = 1;
  pthread_join(busy, nullptr);
  for (auto t : threads) pthread_join(t, nullptr);
  for (auto [p, pid] : children) {
    int status = 0;
    pid_t r = waitpid(pid, &status, 0);
    if (r != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 30 + p) {
      __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
      line("ERR child %d: waitpid=%d status=%x", p, r, status);
    }
  }
  ticker.verify();
  const int errors = shared->errors + ticker.errors;
  line("END %zu kinds, %d errors", kinds.size(), errors);
  return errors ? 1 : 0;
}
