// The journal's ring with many writers at once, some of them killed anywhere.
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "tests/tracer/ring_fixture.h"

namespace supervise::stub {
namespace {

using std::chrono::steady_clock;

constexpr unsigned kProcesses = 4, kThreads = 3, kIds = 4096;

std::uint64_t checksum(const char* at, std::size_t n) {
  std::uint64_t h = 1469598103934665603u;
  for (std::size_t i = 0; i < n; ++i) h = (h ^ static_cast<unsigned char>(at[i])) * 1099511628211u;
  return h;
}

struct Content {
  std::uint32_t id, number;
  std::uint64_t sum;  // of what follows
};

struct Progress {
  std::uint32_t begun[kIds], whole[kIds];
  std::uint32_t stop;
};

void append_for_ever(Control* control, char* ring, Progress* progress, std::uint32_t id) {
  FutexEnv env;
  Area area{};
  area.tid = id;
  std::mt19937 rng(id);
  std::vector<char> buffer;
  for (std::uint32_t number = 0; !__atomic_load_n(&progress->stop, __ATOMIC_ACQUIRE);) {
    buffer.resize(sizeof(Content) + rng() % (rng() % 4 ? 300 : 8000));
    for (std::size_t i = sizeof(Content); i < buffer.size(); i += 7) buffer[i] = static_cast<char>(rng());
    const Content head{id, number, checksum(buffer.data() + sizeof(Content), buffer.size() - sizeof(Content))};
    memcpy(buffer.data(), &head, sizeof head);
    File* file = &control->files[id % 3];
    const bool with_lock = rng() % 2;
    if (with_lock) lock(&file->lock, id, env);
    __atomic_store_n(&progress->begun[id], number + 1, __ATOMIC_RELEASE);
    bool half = false;
    Record* r = reserve_write(control, ring, &area, env, id % 3, number, buffer.size(), true, false, &half);
    if (r) {
      copy_bytes(content_of(r), buffer.data(), buffer.size());
      commit(&area, r);
      __atomic_store_n(&progress->whole[id], ++number, __ATOMIC_RELEASE);
    }
    if (with_lock) unlock(&file->lock, id, env);
    if (!r) usleep(200);  // full: this is where the stub would trap
  }
}

struct Process {
  pid_t pid = -1;
  std::uint32_t first = 0;  // ids of its threads
};

TEST(RingCrowd, NothingIsTornOrLostWhenWritersAreKilledAnywhere) {
  Shared<Control> control;
  Shared<char> ring(kRingSize);
  Shared<Progress> progress;
  control->files_used = kFiles;
  std::uint32_t next = 1;
  std::mt19937 rng(5);
  std::vector<Process> processes(kProcesses);
  std::set<std::uint32_t> dead, killed;
  const auto start = [&](Process& p) {
    p.first = next;
    next += kThreads;
    p.pid = fork();
    if (p.pid != 0) return;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i)
      threads.emplace_back(append_for_ever, control.get(), ring.get(), progress.get(), p.first + i);
    for (auto& t : threads) t.join();
    _exit(0);
  };
  const auto ended = [&](Process& p) {
    for (std::uint32_t id = p.first; id < p.first + kThreads; ++id) {
      dead.insert(id);
      release_locks_of(*control, id);
    }
    p.pid = -1;
  };
  for (auto& p : processes) start(p);

  RingReader reader(*control, ring.get());
  std::map<std::uint32_t, std::uint32_t> told;  // id -> records
  std::map<std::uint32_t, int> torn;
  std::uint64_t records = 0, late = 0;
  const auto drain = [&] {
    RingReader::Look seen;
    const Status s = reader.look([&](pid_t id) { return !dead.contains(static_cast<std::uint32_t>(id)); }, seen);
    ASSERT_TRUE(s.ok()) << s.error().message();
    for (const auto& r : seen.records) {
      const std::uint32_t id = r.head.owner;
      ASSERT_EQ(torn[id], 0) << "a thread wrote on after its end";
      ASSERT_EQ(r.head.offset, told[id]) << "record of thread " << id;
      late += r.late;
      if (r.torn) {
        ASSERT_TRUE(killed.contains(id));
        ++torn[id];
        continue;
      }
      Content head;
      ASSERT_GE(r.content.size(), sizeof head);
      memcpy(&head, r.content.data(), sizeof head);
      ASSERT_EQ(head.id, id);
      ASSERT_EQ(head.number, told[id]++);
      ASSERT_EQ(head.sum, checksum(reinterpret_cast<const char*>(r.content.data()) + sizeof head, r.content.size() - sizeof head));
      ++records;
    }
    reader.take();
  };

  const auto began = steady_clock::now();
  auto last_progress = began;
  std::uint64_t last_head = 0;
  int kills = 0;
  std::string stuck;
  while (!HasFatalFailure() && kills < 30) {
    drain();
    const auto now = steady_clock::now();
    if (const auto head = __atomic_load_n(&control->head, __ATOMIC_ACQUIRE); head != last_head) {
      last_head = head;
      last_progress = now;
    } else if (now - last_progress > std::chrono::seconds(20)) {
      stuck = "nobody appends any more";
      break;
    }
    if (now - began > std::chrono::seconds(40)) break;
    Process& p = processes[rng() % kProcesses];
    if (rng() % 2 == 0) {
      usleep(rng() % 3000);
      kill(p.pid, SIGKILL);
      waitpid(p.pid, nullptr, 0);
      for (std::uint32_t id = p.first; id < p.first + kThreads; ++id) killed.insert(id);
      ended(p);
      start(p);
      ++kills;
    }
  }
  __atomic_store_n(&progress->stop, 1, __ATOMIC_RELEASE);
  for (auto& p : processes) {
    for (int i = 0; waitpid(p.pid, nullptr, WNOHANG) == 0; ++i) {
      if (i == 20'000 || !stuck.empty() || testing::Test::HasFatalFailure()) {
        if (stuck.empty() && !testing::Test::HasFatalFailure()) stuck = "a process does not end";
        kill(p.pid, SIGKILL);
        for (std::uint32_t id = p.first; id < p.first + kThreads; ++id) killed.insert(id);
        waitpid(p.pid, nullptr, 0);
        break;
      }
      drain();
      usleep(1000);
    }
    ended(p);
  }
  EXPECT_EQ(stuck, "");
  if (HasFatalFailure()) return;
  drain();
  EXPECT_EQ(control->tail, control->head);
  EXPECT_EQ(control->ring_lock, 0u);
  for (std::uint32_t id = 1; id < next; ++id) {
    ASSERT_GE(told[id], progress->whole[id]) << "a record is lost";
    ASSERT_LE(told[id] + static_cast<unsigned>(torn[id]), progress->begun[id]);
    ASSERT_LE(torn[id], 1);
    if (!killed.contains(id)) {
      ASSERT_EQ(told[id], progress->whole[id]);
    }
  }
  EXPECT_GT(records, 1000u);
  EXPECT_GT(kills, 2);
  RecordProperty("records", static_cast<int>(records));
  RecordProperty("late", static_cast<int>(late));
  RecordProperty("kills", kills);
  int torn_count = 0;
  for (const auto& [id, n] : torn) torn_count += n;
  printf("%lu records, %lu late, %d processes killed, %d records torn\n", records, late, kills, torn_count);
}

}  // namespace
}  // namespace supervise::stub
