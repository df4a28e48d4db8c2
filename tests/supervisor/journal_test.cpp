#include "supervisor/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <string>

namespace supervise {
namespace {

using testing::ElementsAre;

std::span<const std::byte> bytes(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

const InodeKey kA{1, 10}, kB{1, 11}, kDir{1, 12};

// "a:5 b:-" for the names that were touched: file or absent.
std::string names(const Journal& j) {
  std::string out;
  for (const auto& [name, state] : j.names())
    out += (out.empty() ? "" : " ") + name + ":" + (state.file ? std::to_string(*state.file) : "-");
  return out;
}

TEST(Journal, KeepsWritesUntilTheFileIsSynced) {
  Journal j;
  j.wrote(kA, "log", 0, bytes("hello"), 5);
  j.wrote(kA, "log", 5, bytes(" world"), 11);
  EXPECT_EQ(j.bytes(), 11u);
  EXPECT_EQ(j.dirty_files(), 1u);
  EXPECT_EQ(j.find(kA)->size, 11u);
  j.synced_file(kA, j.now());
  EXPECT_TRUE(j.empty());
  EXPECT_EQ(j.bytes(), 0u);
  EXPECT_EQ(j.find(kA), nullptr);
}

TEST(Journal, ASyncCoversOnlyWhatCameBeforeIt) {
  Journal j;
  j.wrote(kA, "log", 0, bytes("aaaa"), 4);
  Seq upto = j.now();
  j.wrote(kA, "log", 100, bytes("bbbb"), 104);
  j.synced_file(kA, upto);
  EXPECT_EQ(j.bytes(), 4u);
  EXPECT_TRUE(j.find(kA)->size_dirty);
  EXPECT_EQ(j.find(kA)->data.pieces().begin()->first, 100u);
  j.synced_file(kB, j.now());
  EXPECT_EQ(j.bytes(), 4u) << "another file's sync";
}

TEST(Journal, DurableWritesReplaceOlderBytesAndLeaveNothing) {
  Journal j;
  j.wrote(kA, "wal", 0, bytes("aaaaaa"), 6);
  j.wrote(kA, "wal", 2, bytes("bb"), 6, true);
  EXPECT_EQ(j.bytes(), 4u);
  Journal k;
  k.wrote(kA, "wal", 0, bytes("aaaaaa"), 6, true);
  EXPECT_TRUE(k.empty());
  EXPECT_EQ(k.find(kA), nullptr);
}

TEST(Journal, RangesOnlyKeepsNoContent) {
  Journal j(false);
  j.wrote(kA, "log", 0, bytes("hello"), 5);
  EXPECT_EQ(j.bytes(), 0u);
  ASSERT_EQ(j.dirty_files(), 1u);
  EXPECT_TRUE(j.find(kA)->data.pieces().begin()->second.range_only());
}

TEST(Journal, WhatLiesBeyondATruncationIsZeros) {
  Journal j;
  j.wrote(kA, "f", 0, bytes("0123456789"), 10);
  j.resized(kA, "f", 4);
  EXPECT_EQ(j.bytes(), 4u);
  EXPECT_EQ(j.find(kA)->size, 4u);
  j.wrote(kA, "f", 8, bytes("xy"), 10);
  const auto& pieces = j.find(kA)->data.pieces();
  EXPECT_TRUE(pieces.at(4).zero);
  EXPECT_EQ(pieces.at(4).length, 4u);
}

TEST(Journal, ACreatedFileStaysUntilItsDirectoryIsSynced) {
  Journal j;
  j.created(kA, "d/f", NodeKind::Regular, S_IFREG | 0640, 5, 6);
  j.wrote(kA, "d/f", 0, bytes("x"), 1);
  EXPECT_TRUE(j.find(kA)->rebuilt());
  j.synced_file(kA, j.now());
  ASSERT_NE(j.find(kA), nullptr);
  EXPECT_FALSE(j.find(kA)->rebuilt()) << "its data is on the storage and not here any more";
  EXPECT_TRUE(j.find(kA)->created);
  EXPECT_EQ(names(j), "d/f:1");
  j.synced_directory("", j.now());
  EXPECT_EQ(names(j), "d/f:1") << "only what is directly in it";
  j.synced_directory("d", j.now());
  EXPECT_TRUE(j.empty());
  EXPECT_EQ(j.find(kA), nullptr);
}

TEST(Journal, RenamesKeepTrackOfNamesOldAndNew) {
  Journal j;
  j.created(kA, "f.tmp", NodeKind::Regular, 0644, 0, 0);
  j.seen(kB, "f", NodeKind::Regular);
  j.renamed("f.tmp", "f", false, 0);
  EXPECT_EQ(names(j), "f:1 f.tmp:-");
  EXPECT_THAT(j.find(kA)->names, ElementsAre("f"));
  EXPECT_THAT(j.find(kA)->old_names, ElementsAre("f.tmp"));
  EXPECT_TRUE(j.find(kB)->unlinked());
  j.wrote(kA, "f.tmp", 0, bytes("late"), 4);  // through a descriptor that was opened before
  EXPECT_EQ(j.find(kA)->data.bytes(), 4u);
  j.forget(kB);
  EXPECT_EQ(j.find(kB), nullptr);
}

TEST(Journal, RenamingOneLinkOverAnotherOfTheSameInodeDoesNothing) {
  Journal j;
  j.seen(kA, "x", NodeKind::Regular);
  j.seen(kA, "y", NodeKind::Regular);
  j.renamed("x", "y");
  EXPECT_EQ(names(j), "");
  EXPECT_THAT(j.find(kA)->names, ElementsAre("x", "y"));
}

TEST(Journal, RenamingADirectoryMovesEverythingBelow) {
  Journal j;
  j.seen(kDir, "d", NodeKind::Directory);
  j.wrote(kA, "d/log", 0, bytes("x"), 1);
  j.created(kB, "d/sub/new", NodeKind::Regular, 0644, 0, 0);
  j.unlinked("d/old");
  j.renamed("d", "e/d2");
  EXPECT_EQ(names(j), "d:- e/d2:1 e/d2/old:- e/d2/sub/new:3");
  EXPECT_THAT(j.find(kA)->names, ElementsAre("e/d2/log"));
  EXPECT_THAT(j.find(kA)->old_names, ElementsAre("d/log"));
  EXPECT_THAT(j.find(kB)->names, ElementsAre("e/d2/sub/new"));
}

TEST(Journal, ANameThatBeginsLikeTheDirectoryStays) {
  Journal j;
  j.seen(kDir, "d", NodeKind::Directory);
  j.wrote(kA, "d-x", 0, bytes("x"), 1);
  j.wrote(kB, "d0", 0, bytes("x"), 1);
  j.renamed("d", "e");
  EXPECT_THAT(j.find(kA)->names, ElementsAre("d-x"));
  EXPECT_THAT(j.find(kB)->names, ElementsAre("d0"));
}

TEST(Journal, ExchangeSwapsNamesAndWhatIsBelow) {
  Journal j;
  j.seen(kDir, "d", NodeKind::Directory);
  j.wrote(kA, "d/f", 0, bytes("x"), 1);
  j.seen(kB, "g", NodeKind::Regular);
  j.renamed("d", "g", true);
  EXPECT_EQ(names(j), "d:3 g:1");
  EXPECT_THAT(j.find(kA)->names, ElementsAre("g/f"));
  EXPECT_THAT(j.find(kA)->old_names, ElementsAre("d/f"));
  EXPECT_THAT(j.find(kB)->names, ElementsAre("d"));
}

TEST(Journal, AnUnlinkedFileKeepsItsDataThroughSyncsUntilItIsForgotten) {
  Journal j;
  j.created(kA, "tmp", NodeKind::Regular, 0600, 0, 0);
  j.wrote(kA, "tmp", 0, bytes("abc"), 3);
  j.unlinked("tmp", 0);
  j.wrote(kA, "tmp", 3, bytes("def"), 6, true);
  j.synced_file(kA, j.now(), true);
  j.synced_all(j.now());
  ASSERT_NE(j.find(kA), nullptr);
  EXPECT_TRUE(j.find(kA)->unlinked());
  EXPECT_EQ(j.bytes(), 6u);
  j.forget(kA);
  EXPECT_EQ(j.bytes(), 0u);
  EXPECT_TRUE(j.files().empty());
}

TEST(Journal, AFileThatLosesItsKnownNameMayLiveOnUnderAnother) {
  Journal j;
  j.wrote(kA, "x", 0, bytes("abc"), 3);
  j.unlinked("x", 1);
  EXPECT_FALSE(j.find(kA)->unlinked());
  EXPECT_TRUE(j.find(kA)->links_elsewhere);
  j.wrote(kA, "y", 3, bytes("d"), 4);
  EXPECT_THAT(j.find(kA)->names, ElementsAre("y"));
}

TEST(Journal, TheOldNameOfAnUnlinkedFileIsNotTakenForItsName) {
  Journal j;
  j.unlinked("x");
  j.wrote(kA, "x", 0, bytes("abc"), 3);
  EXPECT_TRUE(j.find(kA)->unlinked());
  EXPECT_EQ(names(j), "x:-");
}

TEST(Journal, AReusedInodeIsAnotherFile) {
  Journal j;
  j.created(kA, "x", NodeKind::Regular, 0600, 0, 0);
  j.wrote(kA, "x", 0, bytes("abc"), 3);
  j.unlinked("x");
  j.created(kA, "y", NodeKind::Regular, 0600, 0, 0);
  EXPECT_EQ(j.files().size(), 1u);
  EXPECT_EQ(j.bytes(), 0u);
  EXPECT_EQ(names(j), "x:- y:2");
}

TEST(Journal, ADirectoryWithAReusedInodeIsDoubtfulUntilItsNameIsDurable) {
  Journal j;
  j.seen(kDir, "d", NodeKind::Directory);
  j.unlinked("d");
  j.created(kDir, "e", NodeKind::Directory, 0755, 0, 0);
  j.attributes(kDir, "e", 0700, {}, {});
  EXPECT_TRUE(j.find(kDir)->inode_reused);
  j.synced_directory("", j.now());
  ASSERT_NE(j.find(kDir), nullptr);
  EXPECT_FALSE(j.find(kDir)->inode_reused);
}

TEST(Journal, ATemporaryFileGetsItsNameLater) {
  Journal j;
  j.created(kA, "", NodeKind::Regular, 0600, 0, 0);
  j.wrote(kA, "", 0, bytes("abc"), 3);
  Seq upto = j.now();
  EXPECT_TRUE(j.find(kA)->unlinked());
  j.linked(kA, "", "x");
  j.synced_all(upto);
  EXPECT_TRUE(j.find(kA)->rebuilt()) << "it had no name when everything was synced";
  EXPECT_EQ(j.bytes(), 3u);
}

TEST(Journal, AttributesAreRetiredByFsyncNotByFdatasync) {
  Journal j;
  j.attributes(kA, "x", 0600, 3, {});
  j.times(kA, "x", {}, timespec{5, 6});
  j.xattr(kA, "x", "user.k", "v");
  j.synced_file(kA, j.now(), false);
  ASSERT_NE(j.find(kA), nullptr);
  EXPECT_EQ(j.find(kA)->uid, 3u);
  EXPECT_EQ(j.find(kA)->mtime->tv_sec, 5);
  j.wrote(kA, "x", 0, bytes("a"), 1);
  EXPECT_FALSE(j.find(kA)->mtime) << "a write sets another time";
  j.synced_file(kA, j.now(), true);
  EXPECT_TRUE(j.empty());
}

TEST(Journal, SyncOfEverythingRetiresWhatCameBefore) {
  Journal j;
  j.created(kA, "a", NodeKind::Regular, 0644, 0, 0);
  j.wrote(kA, "a", 0, bytes("x"), 1);
  j.unlinked("gone");
  Seq upto = j.now();
  j.renamed("a", "b");
  j.synced_all(upto);
  EXPECT_EQ(names(j), "a:- b:1");
  EXPECT_FALSE(j.find(kA)->created) << "it is durable under its old name";
  EXPECT_THAT(j.find(kA)->old_names, ElementsAre("a"));
  EXPECT_EQ(j.bytes(), 0u);
  j.synced_all(j.now());
  EXPECT_TRUE(j.empty());
  EXPECT_TRUE(j.files().empty());
}

TEST(Journal, RekeysFilesEvenWhenNumbersCross) {
  Journal j;
  j.wrote(kA, "a", 0, bytes("x"), 1);
  j.wrote(kB, "b", 0, bytes("yy"), 2);
  FileId a = j.find(kA)->id, b = j.find(kB)->id;
  j.rekey(a, kB);
  j.rekey(b, kA);
  EXPECT_EQ(j.find(kB)->id, a);
  EXPECT_EQ(j.find(kA)->id, b);
}

TEST(Journal, NamesTheLargestFilesFirst) {
  Journal j;
  j.wrote(kA, "a", 0, bytes("x"), 1);
  j.wrote(kB, "b", 0, bytes("yyy"), 3);
  EXPECT_THAT(j.largest_first(), ElementsAre(2, 1));
  EXPECT_GT(j.memory(), j.bytes());
}

TEST(Journal, AWriteIsCheapAndAppendsMakeFewPieces) {
  Journal j;
  std::string page(4096, 'p');
  j.created(kA, "log", NodeKind::Regular, 0644, 0, 0);
  j.resized(kA, "log", 0);
  constexpr int kWrites = 20000;
  auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < kWrites; ++i)
    j.wrote(kA, "log", i * page.size(), bytes(page), (i + 1) * page.size());
  auto us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start);
  EXPECT_LE(j.find(kA)->data.pieces().size(), j.bytes() / ByteRanges::kMaxPiece + 2);
  EXPECT_EQ(j.bytes(), kWrites * page.size());
  RecordProperty("ns_per_write", std::to_string(us.count() * 1000 / kWrites));
  EXPECT_LT(us.count() / kWrites, 100) << "microseconds a write";
}

}  // namespace
}  // namespace supervise
