// The journal's ring with both of its sides: many writers at once, some of them killed anywhere, and a ring
// that was scribbled on.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tracer/stub/ring_reader.h"

// As the stub has it: the order of its stores is what is tested.
#pragma GCC push_options
#pragma GCC optimize("O2")
#include "tracer/stub/ring_writer.h"
#pragma GCC pop_options

namespace supervise::stub {
namespace {

using std::chrono::steady_clock;

struct FutexEnv {
  void futex_wait(uint32_t* at, uint32_t value) {
    const timespec limit{0, 10'000'000};
    syscall(SYS_futex, at, FUTEX_WAIT, value, &limit, nullptr, 0);
  }
  void futex_wake(uint32_t* at, int count) { syscall(SYS_futex, at, FUTEX_WAKE, count, nullptr, nullptr, 0); }
};

template <class T>
class Shared {
 public:
  explicit Shared(std::size_t size = sizeof(T)) : size_(size) {
    at_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at_ == MAP_FAILED) abort();
  }
  ~Shared() { munmap(at_, size_); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* get() const { return static_cast<T*>(at_); }
  T* operator->() const { return get(); }
  T& operator*() const { return *get(); }

 private:
  std::size_t size_;
  void* at_;
};

bool all_alive(pid_t) { return true; }
bool none_alive(pid_t) { return false; }

class Ring : public testing::Test {
 protected:
  Ring() {
    area.tid = 7;
    other.tid = 8;
    control->files_used = kFiles;
    control->want_at = kRingSize / 2;
  }

  // A write of `text` at `offset`, committed unless told otherwise.
  Record* put(Area& a, std::uint32_t file, std::uint64_t offset, std::string_view text, bool whole = true) {
    Record* r = reserve_write(control.get(), ring.get(), &a, env, file, offset, text.size(), true, false, &half);
    if (!r) return nullptr;
    if (whole) {
      copy_bytes(content_of(r), text.data(), text.size());
      commit(&a, r);
    }
    return r;
  }

  // "file@offset:text" of what a look tells, '!' in front when torn, '<' when late.
  std::string look(bool (*alive)(pid_t) = all_alive, bool take = true) {
    RingReader::Look seen;
    status = reader.look(alive, seen);
    std::string out;
    for (const auto& r : seen.records) {
      out += out.empty() ? "" : " ";
      if (r.torn) out += "!";
      if (r.late) out += "<";
      if (r.head.kind == kSync) {
        out += "sync" + std::to_string(r.head.file) + "@" + std::to_string(r.head.size);
        continue;
      }
      out += std::to_string(r.head.file) + "@" + std::to_string(r.head.offset) + ":";
      out += r.torn || r.content.empty() ? std::to_string(r.head.bytes)
                                         : std::string(reinterpret_cast<const char*>(r.content.data()), r.content.size());
    }
    if (status && take) reader.take();
    return out;
  }

  Shared<Control> control;
  Shared<char> ring{kRingSize};
  FutexEnv env;
  Area area{}, other{};
  RingReader reader{*control, ring.get()};
  Status status;
  bool half = false;
};

TEST_F(Ring, TellsWhatWasAppendedInOrder) {
  EXPECT_TRUE(reader.empty());
  put(area, 1, 0, "hello");
  area.learned = 5;
  ASSERT_TRUE(append_sync(control.get(), ring.get(), &area, env, 1, control->head, true, &half));
  put(other, 2, 4096, std::string(100, 'x'));
  EXPECT_FALSE(reader.empty());
  EXPECT_EQ(look(), "1@0:hello sync1@128 2@4096:" + std::string(100, 'x'));
  EXPECT_TRUE(status.ok());
  EXPECT_TRUE(reader.empty());
  EXPECT_EQ(control->tail, control->head);
  EXPECT_EQ(look(), "");
  EXPECT_FALSE(half);
}

TEST_F(Ring, ASyncCarriesWhatItsEntrySaw) {
  put(area, 1, 0, "a");
  control->learned = 9;
  enter_sync(control.get(), &area);
  put(other, 1, 0, "b");
  control->learned = 12;
  append_sync(control.get(), ring.get(), &area, env, 1, area.entered, false, &half);
  RingReader::Look seen;
  ASSERT_TRUE(reader.look(all_alive, seen).ok());
  ASSERT_EQ(seen.records.size(), 3u);
  EXPECT_EQ(seen.records[2].head.size, 128u);
  EXPECT_EQ(seen.records[2].head.offset, 9u);
}

TEST_F(Ring, WhatIsBeingWrittenStaysAndIsToldLater) {
  Record* first = put(area, 1, 0, "first", false);
  put(other, 1, 10, "second");
  EXPECT_EQ(look(), "1@10:second");
  EXPECT_EQ(control->tail, 0u) << "the first lies there still";
  EXPECT_FALSE(reader.empty());
  put(other, 2, 0, "third");
  EXPECT_EQ(look(), "2@0:third");
  copy_bytes(content_of(first), "first", 5);
  commit(&area, first);
  EXPECT_EQ(look(), "<1@0:first");
  EXPECT_EQ(control->tail, control->head);
  EXPECT_TRUE(reader.empty());
}

TEST_F(Ring, ARecordOfADeadThreadIsTorn) {
  put(area, 3, 77, "whole");
  put(area, 3, 4096, std::string(1000, 'x'), false);
  EXPECT_EQ(look(none_alive), "3@77:whole !3@4096:1000");
  EXPECT_EQ(control->tail, control->head);
  EXPECT_EQ(look(none_alive), "");
}

TEST_F(Ring, WithoutContentARecordIsWholeOncePublished) {
  reserve_write(control.get(), ring.get(), &area, env, 3, 0, 10'000'000, false, true, &half);
  RingReader::Look seen;
  ASSERT_TRUE(reader.look(all_alive, seen).ok());
  ASSERT_EQ(seen.records.size(), 1u);
  EXPECT_TRUE(seen.left.empty());
  EXPECT_EQ(seen.records[0].head.bytes, 10'000'000u);
  EXPECT_EQ(seen.records[0].head.flags, kRecordRange | kRecordDurable);
}

TEST_F(Ring, AVoidRecordIsSkipped) {
  put(area, 1, 0, "given up", false);
  put(other, 1, 0, "kept");
  EXPECT_EQ(fate_of(*control, ring.get(), area), Fate::Unfinished);
  void_record(*control, ring.get(), area.ring_pos, 8);
  EXPECT_EQ(fate_of(*control, ring.get(), area), Fate::Unfinished);
  EXPECT_EQ(look(all_alive, false), "1@0:kept") << "it is not that thread's";
  void_record(*control, ring.get(), area.ring_pos, 7);
  void_record(*control, ring.get(), 0, 8);
  void_record(*control, ring.get(), kNowhere, 7);
  void_record(*control, ring.get(), 3, 7);
  void_record(*control, ring.get(), 1 << 30, 7);
  EXPECT_EQ(look(none_alive), "1@0:kept");
  EXPECT_EQ(control->tail, control->head);
}

TEST_F(Ring, GoesOnAtItsBeginWhenItIsEmpty) {
  const std::string much(700 << 10, 'm');
  put(area, 1, 0, much);
  look();
  EXPECT_LT(control->head, kRingSize) << "there is little to go back for";
  put(area, 1, 0, much);
  put(other, 1, 5, "last", false);
  look();
  EXPECT_LT(control->head, kRingSize) << "one is being written";
  RingReader former = reader;  // of a supervisor that dies: what it knew stays behind
  Record* record = record_at(ring.get(), other.ring_pos);
  copy_bytes(content_of(record), "last", 4);
  commit(&other, record);
  EXPECT_EQ(look(), "<1@5:last");
  EXPECT_EQ(control->head, kRingSize);
  EXPECT_EQ(control->tail, kRingSize);
  EXPECT_EQ(control->ring_lock, 0u);
  EXPECT_TRUE(reader.empty());
  put(area, 2, 9, "next");
  EXPECT_EQ(area.ring_pos, kRingSize);
  RingReader::Look seen;
  ASSERT_TRUE(former.look(all_alive, seen).ok());
  ASSERT_EQ(seen.records.size(), 2u) << "what it had left, and what came behind the filler";
  EXPECT_EQ(seen.records[1].head.file, 2u);
}

TEST_F(Ring, StaysWhereItIsWhileSomebodyHasTheLock) {
  put(area, 1, 0, std::string(2 << 20, 'm'));
  control->ring_lock = 8;
  look();
  EXPECT_LT(control->head, kRingSize);
  EXPECT_EQ(control->tail, control->head);
  EXPECT_EQ(control->ring_lock, 8u);
}

TEST_F(Ring, FullIsSaidAndHalfFullOnce) {
  const std::string mib(1 << 20, 'm');
  int appended = 0, halves = 0;
  while (put(area, 1, 0, mib)) {
    ++appended;
    halves += half;
    half = false;
    ASSERT_LT(appended, 17);
  }
  EXPECT_EQ(appended, 15);
  EXPECT_EQ(halves, 1);
  EXPECT_EQ(area.ring_held, 0u);
  EXPECT_EQ(control->ring_lock, 0u);
  look();
  EXPECT_EQ(control->ring_wanted, 0u);
  EXPECT_TRUE(put(area, 1, 0, mib));
  EXPECT_EQ(look(), "1@0:" + mib) << "behind a pad";
  EXPECT_TRUE(reader.empty());
}

TEST_F(Ring, NoRecordWrapsWhateverTheLengths) {
  std::mt19937 rng(3);
  std::uint64_t count = 0, told = 0;
  for (int round = 0; round < 300; ++round) {
    for (int i = 0; i < 20; ++i) {
      std::string text(1 + rng() % (rng() % 8 ? 5000 : 700'000), static_cast<char>('a' + count % 26));
      if (!put(area, static_cast<std::uint32_t>(count % kFiles), count, text)) break;
      ++count;
    }
    RingReader::Look seen;
    ASSERT_TRUE(reader.look(all_alive, seen).ok());
    for (const auto& r : seen.records) {
      ASSERT_EQ(r.head.offset, told);
      const std::string text(reinterpret_cast<const char*>(r.content.data()), r.content.size());
      ASSERT_EQ(text, std::string(text.size(), static_cast<char>('a' + told % 26)));
      ++told;
    }
    reader.take();
  }
  EXPECT_EQ(told, count);
  EXPECT_GT(control->head, 2 * kRingSize);
}

TEST_F(Ring, VectorsAreGathered) {
  const std::string a = "hello, ", b = "world", c = "!!!";
  const IoVector v[] = {{reinterpret_cast<uint64_t>(a.data()), a.size()}, {0, 0},
                        {reinterpret_cast<uint64_t>(b.data()), b.size()}, {reinterpret_cast<uint64_t>(c.data()), c.size()}};
  char out[32] = {};
  gather_bytes(out, v, 4, 13);
  EXPECT_STREQ(out, "hello, world!");
}

TEST_F(Ring, LocksOfADeadThreadAreFreed) {
  lock(&control->ring_lock, 7, env);
  lock(&control->files[5].lock, 7, env);
  lock(&control->files[6].lock, 8, env);
  std::thread waiting([&] {
    lock(&control->files[5].lock, 9, env);
    unlock(&control->files[5].lock, 9, env);
  });
  release_locks_of(*control, 7);
  waiting.join();
  EXPECT_EQ(control->ring_lock, 0u);
  EXPECT_EQ(control->files[5].lock, 0u);
  EXPECT_EQ(control->files[6].lock, 8u);
}

TEST_F(Ring, AnUnlockOfWhatIsAnothersDoesNothing) {
  lock(&control->ring_lock, 8, env);
  unlock(&control->ring_lock, 7, env);
  EXPECT_EQ(control->ring_lock, 8u);
}

// ---- scribbled on

TEST_F(Ring, EachThingThatMakesNoSenseIsAnError) {
  struct Case {
    const char* what;
    void (*scribble)(Control&, Record&);
  };
  const Case cases[] = {
      {"another's", [](Control&, Record& r) { r.position += kRecordAlign; }},
      {"length", [](Control&, Record& r) { r.length = 0; }},
      {"length", [](Control&, Record& r) { r.length = 65; }},
      {"length", [](Control&, Record& r) { r.length = 32; }},
      {"published", [](Control&, Record& r) { r.length = 1 << 20; }},
      {"kind", [](Control&, Record& r) { r.kind = 9; }},
      {"kind", [](Control&, Record& r) { r.kind = 0; }},
      {"end", [](Control&, Record& r) { r.kind = kPad; }},
      {"sync", [](Control&, Record& r) { r.kind = kSync; }},
      {"file", [](Control&, Record& r) { r.file = kFiles; }},
      {"range", [](Control&, Record& r) { r.bytes = 0; }},
      {"range", [](Control&, Record& r) { r.offset = ~0ull; }},
      {"range", [](Control&, Record& r) { r.offset = 1ull << 62; r.bytes = 1ull << 62; }},
      {"content", [](Control&, Record& r) { r.bytes = kLargestWrite + 1; }},
      {"content", [](Control&, Record& r) { r.bytes += 64; }},
      {"content", [](Control&, Record& r) { r.flags |= kRecordRange; }},
      {"state", [](Control&, Record& r) { r.state = 77; }},
      {"state", [](Control&, Record& r) { r.state = kFree; }},
      {"filled", [](Control& c, Record&) { c.head += 1; }},
      {"filled", [](Control& c, Record&) { c.head = ~0ull; }},
      {"filled", [](Control& c, Record&) { c.head += 2 * kRingSize; }},
      {"another's", [](Control& c, Record&) { c.head += 4096; }},
  };
  for (const Case& c : cases) {
    put(area, 1, 0, "before");
    Record* r = put(area, 1, 0, std::string(200, 'x'));
    const auto place = r->position;
    c.scribble(*control, *r);
    look();
    ASSERT_FALSE(status.ok()) << c.what;
    EXPECT_NE(status.error().message().find("the journal's ring is broken"), std::string::npos);
    EXPECT_NE(status.error().message().find(c.what), std::string::npos) << status.error().message();
    reader.reset();
    EXPECT_TRUE(reader.empty());
    EXPECT_EQ(control->head % kRecordAlign, 0u) << place;
    put(area, 2, 0, "again");
    EXPECT_EQ(look(), "2@0:again") << c.what;
    ASSERT_TRUE(status.ok()) << c.what << ": " << status.error().message();
  }
  put(area, 1, 0, "x");
  append_sync(control.get(), ring.get(), &area, env, 1, control->head + 1, false, &half);
  look();
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message().find("covers what came after"), std::string::npos);
}

TEST_F(Ring, ALeftRecordMayNotChangeItsLength) {
  Record* r = put(area, 1, 0, "left", false);
  put(other, 1, 0, std::string(300, 'x'));
  look();
  r->bytes = 100;
  r->length = 192;
  r->state = kCommitted;
  look();
  EXPECT_FALSE(status.ok());
}

TEST_F(Ring, AnyScribblingEndsInAnErrorOrInRecordsWithinTheRing) {
  std::mt19937_64 rng(11);
  int broken = 0, sound = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t begin = control->head;
    for (int i = 0; i < 8; ++i)
      put(area, static_cast<std::uint32_t>(rng() % 4), rng() % 10000, std::string(1 + rng() % 400, 'x'), rng() % 4 != 0);
    const std::uint64_t length = control->head - begin;
    for (std::uint64_t i = 0, n = 1 + rng() % 4; i < n; ++i) {
      char* at = ring.get() + (begin + rng() % length) % kRingSize;
      if (rng() % 2) *at = static_cast<char>(rng());
      else memset(reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(at) & ~std::uintptr_t{7}), static_cast<int>(rng()), 8);
    }
    if (rng() % 16 == 0) control->head += rng() % 4096;
    RingReader::Look seen;
    status = reader.look(round % 2 ? all_alive : none_alive, seen);
    for (const auto& r : seen.records) {
      if (r.content.empty()) continue;
      const char* from = reinterpret_cast<const char*>(r.content.data());
      ASSERT_GE(from, ring.get());
      ASSERT_LE(from + r.content.size(), ring.get() + kRingSize);
    }
    if (status) {
      reader.take();
      ++sound;
    } else {
      ++broken;
    }
    if (!status || round % 5 == 0) reader.reset();
  }
  EXPECT_GT(broken, 100);
  EXPECT_GT(sound, 100);
}

// ---- every instruction

// The child appends one record, step by step. At each instruction the three shared places alone must tell what
// is the case, and what a supervisor then makes of it must be right.
TEST(RingSteps, AtEachInstructionItCanBeToldWhatBecameOfTheRecord) {
  Shared<Control> control;
  Shared<char> ring(kRingSize);
  Shared<Area> area;
  const std::string text(200, 'c');
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    FutexEnv env;
    bool half = false;
    Record* r = reserve_write(control.get(), ring.get(), area.get(), env, 3, 100, text.size(), true, false, &half);
    copy_bytes(content_of(r), text.data(), text.size());
    commit(area.get(), r);
    _exit(0);
  }
  area->tid = static_cast<std::uint32_t>(child);
  control->files_used = kFiles;
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSTOPPED(status));

  auto control_copy = std::make_unique<Control>();
  std::vector<char> ring_copy(kRingSize);
  std::map<Fate, int> fates;
  Fate before = Fate::None;
  bool unfinished_with_lock = false, was_published = false;
  int steps = 0;
  for (;; ++steps) {
    ASSERT_LT(steps, 2'000'000);
    ASSERT_EQ(ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr), 0);
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) break;
    const Fate fate = fate_of(*control, ring.get(), *area);
    const bool published = control->head > 0;
    was_published = was_published || published;
    ++fates[fate];
    // Nothing, then unfinished, then whole, then nothing that is pending.
    if (fate != before) {
      ASSERT_TRUE((before == Fate::None && fate == Fate::Unfinished) ||
                  (before == Fate::Unfinished && fate == Fate::Whole) || (before == Fate::Whole && fate == Fate::None))
          << "step " << steps;
      before = fate;
    }
    ASSERT_EQ(fate == Fate::Unfinished || fate == Fate::Whole, published && area->ring_held != 0);
    unfinished_with_lock = unfinished_with_lock || (fate == Fate::Unfinished && control->ring_lock);

    // Taken out here, and killed here, on copies.
    for (const bool killed : {false, true}) {
      memcpy(control_copy.get(), control.get(), sizeof(Control));
      memcpy(ring_copy.data(), ring.get(), 4096);
      if (!killed && area->ring_held) void_record(*control_copy, ring_copy.data(), area->ring_pos, area->tid);
      release_locks_of(*control_copy, area->tid);
      ASSERT_EQ(control_copy->ring_lock, 0u);
      RingReader reader(*control_copy, ring_copy.data());
      RingReader::Look seen;
      ASSERT_TRUE(reader.look(none_alive, seen).ok());
      const bool whole = fate == Fate::Whole || (fate == Fate::None && published);
      const std::size_t expected = !published ? 0 : whole ? 1 : killed ? 1 : 0;
      ASSERT_EQ(seen.records.size(), expected) << "step " << steps;
      if (expected == 0) continue;
      ASSERT_EQ(seen.records[0].torn, !whole);
      ASSERT_EQ(seen.records[0].head.offset, 100u);
      ASSERT_EQ(seen.records[0].head.bytes, text.size());
      ASSERT_EQ(seen.records[0].head.file, 3u);
      if (whole) {
        ASSERT_EQ(memcmp(seen.records[0].content.data(), text.data(), text.size()), 0);
      }
    }
  }
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(was_published);
  EXPECT_GT(fates[Fate::Unfinished], 3);
  EXPECT_GT(fates[Fate::Whole], 0);
  EXPECT_TRUE(unfinished_with_lock) << "no step was seen between publishing and unlocking";
}

// ---- many at once

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
