// The journal's ring with both of its sides: what is appended, found again, and made of a ring that was scribbled on.
#include <random>

#include "tests/tracer/ring_fixture.h"

namespace supervise::stub {
namespace {

using Ring = RingTest;

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

}  // namespace
}  // namespace supervise::stub
