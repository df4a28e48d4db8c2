#include "supervisor/ring_journal.h"

#include <gmock/gmock.h>

#include <random>

#include "tests/supervisor/ring_fixture.h"

namespace supervise {
namespace {

using namespace test;

class RingJournalTest : public testing::Test {
 protected:
  RingJournalTest() {
    paths.add(storage_path("data"));
    paths.add(storage_path("wal"));
  }
  StoragePath& path(std::size_t i = 0) { return *paths.all()[i]; }
  Journal& journal(std::size_t i = 0) { return path(i).journal; }
  unsigned file(std::uint64_t ino, const std::string& name, std::uint64_t size = 0, std::size_t p = 0) {
    return ring.register_file(path(p), ino, name, false, size).value();
  }
  void drain() {
    auto s = ring.drain(all_alive);
    ASSERT_TRUE(s.ok()) << s.error().message();
  }

  Memory memory;
  StoragePaths paths;
  RingJournal ring{memory.control(), memory.ring(), paths};
  Writer writer{memory}, second{memory, 6};
};

TEST_F(RingJournalTest, WritesArriveWithNameSizeAndContent) {
  const unsigned f = file(10, "log", 100);
  writer.write(f, 0, "hello");
  writer.write(f, 98, "world");
  EXPECT_FALSE(ring.empty());
  drain();
  EXPECT_TRUE(ring.empty());
  EXPECT_EQ(ring.records(), 2u);
  Journal direct;
  direct.wrote({0, 10}, "log", 0, bytes("hello"), 100);
  direct.wrote({0, 10}, "log", 98, bytes("world"), 103);
  EXPECT_EQ(describe(journal()), describe(direct));
}

TEST_F(RingJournalTest, SeveralPathsHaveTheirOwnJournals) {
  writer.write(file(10, "a", 0, 0), 0, "first");
  writer.write(file(10, "b", 0, 1), 0, "second");
  drain();
  EXPECT_EQ(journal(0).bytes(), 5u);
  EXPECT_EQ(journal(1).bytes(), 6u);
  EXPECT_EQ(journal(1).find({0, 10})->names.front(), "b");
}

TEST_F(RingJournalTest, TheSameFileAndDescriptionKeepTheirNumbers) {
  const unsigned a = file(10, "a"), b = file(11, "b"), c = file(10, "c", 0, 1);
  EXPECT_EQ(file(10, "a"), a);
  EXPECT_EQ(file(11, "b"), b);
  EXPECT_NE(a, c);
  const auto d = ring.describe(a, kAppend);
  EXPECT_EQ(ring.describe(a, kAppend), d);
  EXPECT_NE(ring.describe(a, 0), d);
  EXPECT_NE(ring.describe(c, kAppend), d);
  EXPECT_EQ(memory.control().descriptions[*ring.describe(c, 0)].path, 1);
  EXPECT_EQ(memory.control().descriptions[*ring.describe(c, 0)].file, c);
  EXPECT_EQ(memory.control().files[b].ino, 11u);
  const auto epoch = memory.control().fd_epoch;
  ring.reset();
  EXPECT_EQ(memory.control().fd_epoch, epoch + 1);
  EXPECT_FALSE(ring.find(path(), 10));
}

TEST_F(RingJournalTest, FullTablesAreSaid) {
  for (unsigned i = 0; i < kFiles; ++i) ASSERT_TRUE(ring.register_file(path(), 1000 + i, std::to_string(i), false, 0));
  EXPECT_FALSE(ring.register_file(path(), 1, "one more", false, 0));
  EXPECT_TRUE(ring.register_file(path(), 1000, "0", false, 0));
  for (unsigned i = 0; i < kDescriptions; ++i)
    ASSERT_TRUE(ring.describe(i % kFiles, static_cast<std::uint8_t>(i / kFiles)));
  EXPECT_FALSE(ring.describe(0, 99));
  EXPECT_TRUE(ring.describe(0, 0));
  EXPECT_FALSE(ring.describe(kFiles, 0));
}

TEST_F(RingJournalTest, ContentThatASyncCoversIsNotKept) {
  const unsigned f = file(10, "log");
  for (int i = 0; i < 100; ++i) writer.write(f, static_cast<std::uint64_t>(i) * 10, "0123456789");
  writer.sync(f);
  drain();
  EXPECT_TRUE(journal().empty());
  EXPECT_LT(journal().now(), 20u) << "they were told one by one";
}

TEST_F(RingJournalTest, ASyncCoversOnlyWhatWasThereAtItsEntry) {
  const unsigned f = file(10, "log");
  writer.write(f, 0, "before");
  enter_sync(&memory.control(), &writer.area);
  second.write(f, 100, "after");
  append_sync(&memory.control(), memory.ring(), &writer.area, writer.env, f, writer.area.entered, false, &writer.half);
  drain();
  ASSERT_NE(journal().find({0, 10}), nullptr);
  EXPECT_EQ(journal().bytes(), 5u);
  EXPECT_TRUE(journal().find({0, 10})->size_dirty);
}

// A change that the supervisor learns itself between the sync's entry and its end has the same ring position.
TEST_F(RingJournalTest, ASyncDoesNotCoverWhatTheSlowWayLearnedAfterItsEntry) {
  const unsigned f = file(10, "log");
  const auto slow = [&](std::uint64_t offset) {
    drain();
    journal().wrote({0, 10}, "log", offset, bytes("slow"), offset + 4);
    ring.resized(path(), 10, offset + 4);
    ring.mark(path());
  };
  slow(0);
  enter_sync(&memory.control(), &writer.area);
  slow(100);
  append_sync(&memory.control(), memory.ring(), &writer.area, writer.env, f, writer.area.entered, false, &writer.half);
  drain();
  EXPECT_EQ(journal().bytes(), 4u) << "the first is durable, the second is not";
  writer.sync(f);
  drain();
  EXPECT_TRUE(journal().empty());
}

TEST_F(RingJournalTest, ASyncThatDidNotLookAtTheNumberCoversLess) {
  const unsigned f = file(10, "log");
  journal().wrote({0, 10}, "log", 0, bytes("slow"), 4);
  ring.mark(path());
  EXPECT_EQ(ring.sequence_at(path(), 0), 0u);
  EXPECT_EQ(ring.sequence_at(path(), 0, 1), 1u);
  append_sync(&memory.control(), memory.ring(), &writer.area, writer.env, f, 0, false, &writer.half);
  drain();
  EXPECT_EQ(journal().bytes(), 4u);
  append_sync(&memory.control(), memory.ring(), &writer.area, writer.env, f, 64, false, &writer.half);
  drain();
  EXPECT_TRUE(journal().empty());
}

TEST_F(RingJournalTest, AWriteThatNobodyMarkedIsNoticed) {
  const unsigned f = file(10, "log");
  writer.write(f, 0, "x");
  drain();
  enter_sync(&memory.control(), &writer.area);
  journal().wrote({0, 10}, "log", 0, bytes("slow"), 4);
  append_sync(&memory.control(), memory.ring(), &writer.area, writer.env, f, writer.area.entered, false, &writer.half);
  drain();
  EXPECT_EQ(journal().bytes(), 4u);
}

TEST_F(RingJournalTest, SizesFollowWhatTheSlowWayDid) {
  const unsigned f = file(10, "log", 1000);
  writer.write(f, 0, "abc");
  drain();
  EXPECT_EQ(journal().find({0, 10})->size, 1000u);
  journal().resized({0, 10}, "log", 2);
  ring.resized(path(), 10, 2);
  ring.mark(path());
  // The stub looked at the size before the truncation.
  memory.control().files[f].size = 1000;
  writer.write(f, 0, "abcd");
  drain();
  EXPECT_EQ(journal().find({0, 10})->size, 4u);
  writer.sync(f);
  drain();
  EXPECT_EQ(journal().find({0, 10}), nullptr);
  ring.resized(path(), 10, 5000);
  writer.write(f, 0, "abcd");
  drain();
  EXPECT_EQ(journal().find({0, 10})->size, 5000u);
}

TEST_F(RingJournalTest, NamesFollow) {
  const unsigned a = file(1, "dir/a"), b = file(2, "dir/sub/b"), c = file(3, "dirt"), other = file(4, "dir/a", 0, 1);
  ring.renamed(path(), "dir", "new", false);
  EXPECT_EQ(ring.known(a)->name, "new/a");
  EXPECT_EQ(ring.known(b)->name, "new/sub/b");
  EXPECT_EQ(ring.known(c)->name, "dirt");
  EXPECT_EQ(ring.known(other)->name, "dir/a");
  ring.renamed(path(), "dirt", "new/a", false);
  EXPECT_TRUE(ring.known(a)->deleted);
  EXPECT_EQ(ring.known(c)->name, "new/a");
  EXPECT_FALSE(ring.known(c)->deleted);
  ring.renamed(path(), "new/a", "new/sub", true);
  EXPECT_EQ(ring.known(c)->name, "new/sub");
  EXPECT_EQ(ring.known(b)->name, "new/a/b");
  ring.unlinked(path(), "new/sub");
  EXPECT_TRUE(ring.known(c)->deleted);
  ring.linked(path(), 3, "again");
  EXPECT_EQ(ring.known(c)->name, "again");
  EXPECT_FALSE(ring.known(c)->deleted);
  ring.renamed(path(), "again", "x", false);
  EXPECT_EQ(ring.known(c)->name, "x");
  ring.rekeyed(path(), 3, 33);
  EXPECT_EQ(ring.find(path(), 33), c);
  EXPECT_FALSE(ring.find(path(), 3));
  writer.write(c, 0, "under its new number");
  drain();
  EXPECT_NE(journal().find({0, 33}), nullptr);
}

TEST_F(RingJournalTest, ADeletedFileIsKeptByItsInode) {
  const unsigned f = file(10, "gone");
  journal().wrote({0, 10}, "gone", 0, bytes("x"), 1);
  journal().unlinked("gone");
  ring.unlinked(path(), "gone");
  ring.mark(path());
  writer.write(f, 0, "still there");
  writer.sync(f);
  drain();
  const FileState* s = journal().find({0, 10});
  ASSERT_NE(s, nullptr);
  EXPECT_TRUE(s->unlinked());
  EXPECT_EQ(s->data.bytes(), 11u) << "no sync makes a file durable that has no name";
}

TEST_F(RingJournalTest, TornWritesAreReadBackOrKnownAsRanges) {
  const unsigned f = file(10, "log");
  writer.begin(f, 100, 50);
  ASSERT_TRUE(ring.drain(none_alive).ok());
  const FileState* s = journal().find({0, 10});
  ASSERT_NE(s, nullptr);
  EXPECT_TRUE(s->data.pieces().at(100).range_only());
  EXPECT_EQ(s->size, 150u);
  std::string told;
  ring.on_torn([&](StoragePath& p, const RingJournal::Torn& t) {
    told = p.name + " " + t.name + " " + std::to_string(t.offset) + " " + std::to_string(t.bytes);
    p.journal.wrote({0, t.ino}, t.name, t.offset, bytes(std::string(t.bytes, 'r')), t.size);
    return true;
  });
  writer.begin(f, 200, 10);
  ASSERT_TRUE(ring.drain(none_alive).ok());
  EXPECT_EQ(told, "data log 200 10");
  EXPECT_FALSE(s->data.pieces().at(200).range_only());
}

TEST_F(RingJournalTest, WhatIsFinishedLateDoesNotCoverWhatCameAfterIt) {
  const unsigned f = file(10, "log");
  Record* late = writer.begin(f, 0, 10);
  second.write(f, 2, "bb");
  second.write(f, 5, "cc");
  drain();
  EXPECT_EQ(journal().bytes(), 4u);
  second.write(f, 6, "dd");
  drain();
  writer.end(late, "aaaaaaaaaa");
  drain();
  Journal direct;
  direct.wrote({0, 10}, "log", 0, bytes("aabbacddaa"), 10);
  EXPECT_EQ(describe(journal()), describe(direct));
  EXPECT_TRUE(ring.empty());
}

TEST_F(RingJournalTest, ALateWriteIsKeptWhenASyncHasPassedIt) {
  const unsigned f = file(10, "log");
  Record* late = writer.begin(f, 0, 4);
  second.write(f, 10, "bb");
  second.sync(f);
  drain();
  writer.end(late, "aaaa");
  drain();
  EXPECT_EQ(journal().bytes(), 4u);
  second.sync(f);
  drain();
  EXPECT_TRUE(journal().empty());
}

TEST_F(RingJournalTest, ABrokenRingMakesAllContentUnknownAndGoesOn) {
  const unsigned f = file(10, "log", 500), g = file(11, "other", 10);
  writer.write(f, 0, "good");
  writer.write(f, 0, "bad");
  reinterpret_cast<Record*>(memory.ring() + 128)->length = 7;
  auto s = ring.drain(all_alive);
  ASSERT_FALSE(s.ok());
  EXPECT_THAT(s.error().message(), testing::HasSubstr("the journal's ring is broken"));
  EXPECT_TRUE(journal().find({0, 10})->data.pieces().at(0).range_only());
  EXPECT_EQ(journal().find({0, 10})->data.pieces().at(0).length, 500u);
  EXPECT_TRUE(journal().find({0, 11})->data.pieces().at(0).range_only());
  EXPECT_TRUE(ring.empty());
  writer.write(g, 0, "fine");
  drain();
  EXPECT_EQ(journal().bytes(), 4u);
  writer.sync(f);
  writer.sync(g);
  drain();
  EXPECT_TRUE(journal().empty());

  Record* r = writer.begin(f, 0, 4);
  r->file = 77;
  writer.end(r, "aaaa");
  s = ring.drain(all_alive);
  ASSERT_FALSE(s.ok());
  EXPECT_THAT(s.error().message(), testing::HasSubstr("names file 77"));
}

// Each directory has a lock of its own: what frees an inode in one can be told after what takes it in another.
TEST_F(RingJournalTest, AnInodeThatIsTakenBeforeItsLossIsToldIsTheNewFiles) {
  ASSERT_TRUE(ring.register_directory(path(), 1, "a"));
  ASSERT_TRUE(ring.register_directory(path(), 2, "b"));
  Control& c = memory.control();
  const unsigned a = *ring.find(path(), 1), b = *ring.find(path(), 2), old = file(12, "a/old", 3);
  const auto change = [&](RecordKind kind, unsigned dir, const std::string& name, unsigned number, std::uint32_t links) {
    NameChange facts{};
    facts.ino = 12;
    facts.mode = 0100600;
    facts.links = links;
    facts.file = number;
    facts.name = static_cast<std::uint16_t>(name.size());
    const Part parts[kParts] = {{&facts, sizeof facts}, {name.data(), name.size()}, {}};
    bool half = false;
    ASSERT_TRUE(append_change(&c, memory.ring(), &writer.area, writer.env, kind, 0, dir, parts, &half));
  };
  writer.write(old, 0, "old");
  const unsigned made = c.files_used++;
  c.files[made].ino = 12;
  change(kCreate, b, "new", made + 1, 1);
  change(kUnlink, a, "old", 0, 1);
  writer.write(made, 0, "content");
  drain();
  EXPECT_EQ(ring.find(path(), 12), made);
  EXPECT_FALSE(ring.known(made)->deleted);
  const FileState* f = journal().find({0, 12});
  ASSERT_NE(f, nullptr);
  EXPECT_EQ(f->names, std::vector<std::string>{"b/new"});
  EXPECT_EQ(f->data.bytes(), 7u);
  ASSERT_TRUE(journal().names().contains("a/old"));
  EXPECT_FALSE(journal().names().find("a/old")->second.file);
}

TEST_F(RingJournalTest, LocksAreSharedWithTheStub) {
  const unsigned f = file(10, "log");
  EXPECT_TRUE(ring.try_lock(path(), 99, 1)) << "no such file";
  EXPECT_TRUE(ring.try_lock(path(), 10, 1));
  EXPECT_TRUE(ring.try_lock(path(), 10, 1));
  EXPECT_FALSE(ring.try_lock(path(), 10, 2));
  EXPECT_EQ(memory.control().files[f].lock, 1u);
  ring.unlock_all(2);
  EXPECT_FALSE(ring.try_lock(path(), 10, 2));
  ring.unlock_all(1);
  lock(&memory.control().files[f].lock, 5, writer.env);
  EXPECT_FALSE(ring.try_lock(path(), 10, 2));
  release_locks_of(memory.control(), 5);
  EXPECT_TRUE(ring.try_lock(path(), 10, 2));
}

TEST(RingSequence, AnswersExactlyAndWhenThinnedNeverTooMuch) {
  std::mt19937 rng(9);
  for (int round = 0; round < 4; ++round) {
    RingSequence sequence;
    struct Change { Seq seq; std::uint64_t position, head, number; };
    std::vector<Change> changes;
    std::uint64_t position = 0, number = 0;
    Seq seq = 0;
    const std::size_t n = round < 2 ? 3000 : 60'000;
    for (std::size_t i = 0; i < n; ++i) {
      if (rng() % 4) {
        sequence.taken(seq, position);
        changes.push_back({++seq, position, 0, 0});
        position += 64 * (1 + rng() % 5);
      } else {
        sequence.learned(seq, position, ++number);
        changes.push_back({++seq, ~0ull, position, number});
      }
    }
    int useful = 0;
    for (int q = 0; q < 200; ++q) {
      // The state at some moment, as a sync's entry saw it.
      const std::size_t when = rng() % 5 ? n - rng() % (n / 8) - 1 : rng() % n;
      std::uint64_t head = 0, learned = 0;
      for (std::size_t i = 0; i <= when; ++i) {
        if (changes[i].number) learned = changes[i].number;
        else head = changes[i].position + 64;
      }
      const bool look = rng() % 2;
      const Seq upto = sequence.at(head, look ? learned : 0, seq);
      EXPECT_LE(upto, changes[when].seq);
      if (round < 2 && look) {
        EXPECT_EQ(upto, changes[when].seq);
      }
      useful += upto + 1000 > changes[when].seq;
    }
    EXPECT_GT(useful, 100);
  }
}

}  // namespace
}  // namespace supervise
