// The journal's ring at each instruction of a writer.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <map>
#include <memory>
#include <vector>

#include "tests/tracer/ring_fixture.h"

namespace supervise::stub {
namespace {

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

}  // namespace
}  // namespace supervise::stub
