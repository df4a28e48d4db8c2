#include "supervisor/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/xattr.h>

#include "tests/supervisor/tree_fixture.h"

namespace supervise {
namespace {

using namespace test;
using testing::HasSubstr;

class Replay : public testing::Test {
 protected:
  InodeKey key(const std::string& name) { return key_of(dir_ / name); }
  Result<ReplayReport> run() { return replay(journal_, dir_.open_root().get()); }
  void expect_ok() {
    auto r = run();
    ASSERT_TRUE(r.ok()) << r.error().message();
    report_ = r.take();
    auto again = run();
    ASSERT_TRUE(again.ok()) << "a second time: " << again.error().message();
  }
  std::string content(const std::string& name) { return slurp(dir_ / name); }
  struct stat stat_of(const std::string& name) {
    struct stat st{};
    EXPECT_EQ(lstat((dir_ / name).c_str(), &st), 0) << name;
    return st;
  }

  TempDir dir_;
  Journal journal_;
  ReplayReport report_;
};

TEST_F(Replay, OverwritesExtendsAndCuts) {
  spill(dir_ / "a", "0123456789");
  spill(dir_ / "b", "0123456789");
  journal_.wrote(key("a"), "a", 8, bytes("XYZ"), 11);
  journal_.resized(key("b"), "b", 4);
  journal_.wrote(key("b"), "b", 6, bytes("!"), 7);
  expect_ok();
  EXPECT_EQ(content("a"), "01234567XYZ");
  EXPECT_EQ(content("b"), std::string("0123\0\0!", 7));
  EXPECT_EQ(report_.files, 2u);
  EXPECT_EQ(report_.bytes, 4u);
  EXPECT_GE(report_.compared_bytes, 4u);
  ASSERT_EQ(report_.rekeyed.size(), 2u);
  EXPECT_EQ(report_.rekeyed[0].key, key("a"));
}

TEST_F(Replay, ZeroesWithoutHolesPunchedAndFarBeyondTheEnd) {
  spill(dir_ / "a", std::string(3 << 20, 'x'));
  journal_.zeroed(key("a"), "a", 100, 2 << 20, 3 << 20);
  journal_.resized(key("a"), "a", std::uint64_t{1} << 40);
  expect_ok();
  EXPECT_EQ(stat_of("a").st_size, off_t{1} << 40);
  UniqueFd fd(open((dir_ / "a").c_str(), O_RDONLY));
  std::string head(3 << 20, '?');
  ASSERT_EQ(pread(fd.get(), head.data(), head.size(), 0), static_cast<ssize_t>(head.size()));
  EXPECT_EQ(head, std::string(100, 'x') + std::string(2 << 20, '\0') +
                      std::string((1 << 20) - 100, 'x'));
}

TEST_F(Replay, MakesFilesOfEveryKind) {
  journal_.created({9, 1}, "d", NodeKind::Directory, S_IFDIR | 0750, 1, 2);
  journal_.created({9, 2}, "d/f", NodeKind::Regular, S_IFREG | 04640, 3, 4);
  journal_.wrote({9, 2}, "d/f", 2, bytes("hi"), 4);
  journal_.linked({9, 2}, "d/f", "g");
  journal_.created({9, 3}, "s", NodeKind::Symlink, S_IFLNK | 0777, 0, 0, "d/f");
  journal_.created({9, 4}, "p", NodeKind::Fifo, S_IFIFO | 0622, 0, 0);
  if (geteuid() != 0) GTEST_SKIP() << "needs root for chown";
  expect_ok();
  EXPECT_EQ(stat_of("d").st_mode, static_cast<mode_t>(S_IFDIR | 0750));
  EXPECT_EQ(stat_of("d").st_gid, 2u);
  EXPECT_EQ(stat_of("d/f").st_mode, static_cast<mode_t>(S_IFREG | 04640));
  EXPECT_EQ(stat_of("d/f").st_uid, 3u);
  EXPECT_EQ(content("g"), std::string("\0\0hi", 4));
  EXPECT_EQ(stat_of("g").st_ino, stat_of("d/f").st_ino);
  EXPECT_TRUE(S_ISFIFO(stat_of("p").st_mode));
  char target[10] = {};
  EXPECT_EQ(readlink((dir_ / "s").c_str(), target, sizeof target), 3);
  EXPECT_STREQ(target, "d/f");
}

TEST_F(Replay, SetsTimesAndExtendedAttributes) {
  spill(dir_ / "a", "x");
  mkdir((dir_ / "d").c_str(), 0755);
  journal_.wrote(key("a"), "a", 0, bytes("y"), 1);
  journal_.times(key("a"), "a", timespec{11, 12}, timespec{13, 14});
  journal_.created({9, 1}, "d/new", NodeKind::Regular, 0644, geteuid(), getegid());
  journal_.times(key("d"), "d", {}, timespec{15, 0});
  bool xattrs = setxattr((dir_ / "a").c_str(), "user.old", "1", 1, 0) == 0;
  if (xattrs) {
    journal_.xattr(key("a"), "a", "user.new", "value");
    journal_.xattr(key("a"), "a", "user.old", std::nullopt);
    journal_.xattr(key("a"), "a", "user.never", std::nullopt);
  }
  expect_ok();
  EXPECT_EQ(stat_of("a").st_mtim.tv_sec, 13);
  EXPECT_EQ(stat_of("a").st_mtim.tv_nsec, 14);
  EXPECT_EQ(stat_of("d").st_mtim.tv_sec, 15);
  if (!xattrs) return;
  char value[16] = {};
  EXPECT_EQ(getxattr((dir_ / "a").c_str(), "user.new", value, sizeof value), 5);
  EXPECT_STREQ(value, "value");
  EXPECT_LT(getxattr((dir_ / "a").c_str(), "user.old", value, sizeof value), 0);
}

TEST_F(Replay, FinishesRenameCycles) {
  for (const char* n : {"a", "b", "c"}) spill(dir_ / n, n);
  for (const char* n : {"a", "b", "c"}) journal_.seen(key(n), n, NodeKind::Regular);
  journal_.renamed("a", "t");
  journal_.renamed("b", "a");
  journal_.renamed("c", "b");
  journal_.renamed("t", "c");
  expect_ok();
  EXPECT_EQ(content("a") + content("b") + content("c"), "bca");
  EXPECT_EQ(describe(dir_.path()).size(), 3u) << "no temporary name is left";
}

TEST_F(Replay, TurnsDirectoriesInsideOut) {
  mkdir((dir_ / "a").c_str(), 0755);
  mkdir((dir_ / "a/b").c_str(), 0755);
  spill(dir_ / "a/x", "ax");
  spill(dir_ / "a/b/y", "by");
  journal_.seen(key("a/b"), "a/b", NodeKind::Directory);
  journal_.seen(key("a"), "a", NodeKind::Directory);
  journal_.renamed("a/b", "b");
  journal_.renamed("a", "b/a");
  expect_ok();
  EXPECT_EQ(content("b/a/x"), "ax");
  EXPECT_EQ(content("b/y"), "by");
  EXPECT_EQ(describe(dir_.path()).size(), 4u);
}

TEST_F(Replay, AFileThatIsNowhereIsAnErrorAndNothingWasTouched) {
  spill(dir_ / "keep", "x");
  journal_.unlinked("keep");
  journal_.wrote({9, 9}, "lost", 0, bytes("abc"), 100);
  auto r = run();
  ASSERT_FALSE(r.ok());
  EXPECT_THAT(r.error().message(), HasSubstr("lost"));
  EXPECT_EQ(content("keep"), "x");
}

TEST_F(Replay, RefusesRangesWithoutContentAndSaysWhere) {
  spill(dir_ / "a", "0123456789");
  journal_.wrote_range(key("a"), "a", 3, 4, 10);
  auto r = run();
  ASSERT_FALSE(r.ok());
  EXPECT_THAT(r.error().message(), HasSubstr("4 bytes of a at offset 3"));
  EXPECT_THAT(r.error().message(), HasSubstr("--journal content"));
}

TEST_F(Replay, NeverLeavesTheRootThroughASymlink) {
  TempDir outside;
  spill(outside / "f", "safe");
  ASSERT_EQ(symlink(outside.path().c_str(), (dir_ / "d").c_str()), 0);
  ASSERT_EQ(symlink((outside / "f").c_str(), (dir_ / "l").c_str()), 0);
  journal_.created({9, 1}, "d/f", NodeKind::Regular, 0644, geteuid(), getegid());
  auto r = run();
  ASSERT_FALSE(r.ok());
  EXPECT_THAT(r.error().message(), HasSubstr("d"));
  Journal through;
  through.wrote({9, 2}, "l", 0, bytes("evil"), 4);
  EXPECT_FALSE(replay(through, dir_.open_root().get()).ok());
  Journal up;
  up.created({9, 3}, "../x", NodeKind::Regular, 0644, geteuid(), getegid());
  EXPECT_FALSE(replay(up, dir_.open_root().get()).ok());
  Journal absent;
  absent.unlinked("d/f");
  EXPECT_TRUE(replay(absent, dir_.open_root().get()).ok());
  EXPECT_EQ(slurp(outside / "f"), "safe");
}

TEST_F(Replay, RemovesADeadDirectoryButNotWhatLivesOnElsewhere) {
  mkdir((dir_ / "d").c_str(), 0755);
  spill(dir_ / "d/dead", "x");
  spill(dir_ / "d/moved", "y");
  journal_.seen(key("d/moved"), "d/moved", NodeKind::Regular);
  journal_.renamed("d/moved", "z");
  journal_.unlinked("d/dead");
  journal_.unlinked("d");
  expect_ok();
  EXPECT_EQ(content("z"), "y");
  EXPECT_EQ(describe(dir_.path()).size(), 1u);
}

TEST_F(Replay, DoubtWithoutInodeNumbersIsAnErrorBeforeAnyChange) {
  // log was renamed over log.1 and made anew; this path shows other inode numbers and one name.
  spill(dir_ / "log", "old or new?");
  spill(dir_ / "other", "o");
  journal_.wrote({9, 7}, "other", 0, bytes("O"), 1);
  journal_.seen({9, 1}, "log", NodeKind::Regular);
  journal_.renamed("log", "log.1");
  journal_.created({9, 2}, "log", NodeKind::Regular, 0644, geteuid(), getegid());
  journal_.unlinked("gone");
  spill(dir_ / "log.1", "older");
  spill(dir_ / "gone", "g");
  auto r = run();
  ASSERT_FALSE(r.ok());
  EXPECT_THAT(r.error().message(), HasSubstr("cannot tell"));
  EXPECT_EQ(content("other"), "o");
  EXPECT_EQ(content("log.1"), "older");
}

TEST_F(Replay, ReportsFilesWithoutAName) {
  journal_.created({9, 1}, "t", NodeKind::Regular, 0600, 0, 0);
  journal_.wrote({9, 1}, "t", 0, bytes("abc"), 3);
  journal_.unlinked("t", 0);
  expect_ok();
  EXPECT_THAT(report_.unlinked, testing::ElementsAre(1));
  EXPECT_TRUE(describe(dir_.path()).empty());
}

TEST_F(Replay, InPlaceADirectoryWithAReusedInodeStaysTheSame) {
  mkdir((dir_ / "e").c_str(), 0755);
  spill(dir_ / "e/f", "x");
  journal_.seen(key("e"), "d", NodeKind::Directory);
  journal_.unlinked("d");
  journal_.created(key("e"), "e", NodeKind::Directory, S_IFDIR | 0755, geteuid(), getegid());
  journal_.created(key("e/f"), "e/f", NodeKind::Regular, S_IFREG | 0644, geteuid(), getegid());
  journal_.wrote(key("e/f"), "e/f", 0, bytes("x"), 1);
  InodeKey dir = key("e"), file = key("e/f");
  ReplayOptions options;
  options.in_place = true;
  auto r = replay(journal_, dir_.open_root().get(), options);
  ASSERT_TRUE(r.ok()) << r.error().message();
  EXPECT_EQ(key("e"), dir);
  EXPECT_EQ(key("e/f"), file);
  EXPECT_EQ(content("e/f"), "x");
}

TEST_F(Replay, HandlesManyFiles) {
  for (std::uint64_t i = 0; i < 3000; ++i) {
    std::string name = "d" + std::to_string(i % 50) + "/f" + std::to_string(i);
    if (i < 50) journal_.created({9, 10000 + i}, "d" + std::to_string(i), NodeKind::Directory, 0755,
                                 geteuid(), getegid());
    journal_.created({9, i + 1}, name, NodeKind::Regular, 0644, geteuid(), getegid());
    journal_.wrote({9, i + 1}, name, 0, bytes(name), name.size());
  }
  expect_ok();
  EXPECT_EQ(describe(dir_.path()).size(), 3050u);
  EXPECT_EQ(content("d7/f2007"), "d7/f2007");
}

TEST(ReplayReport, GoesThroughJson) {
  ReplayReport r;
  r.files = 1, r.bytes = 2, r.names = 3, r.compared_bytes = 4;
  r.rekeyed = {{5, {6, 18446744073709551615ull}, "a \"b\"/\xff\n"}, {7, {8, 9}, ""}};
  r.unlinked = {10};
  auto back = ReplayReport::from_json(r.to_json());
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_EQ(back->to_json(), r.to_json());
  ASSERT_EQ(back->rekeyed.size(), 2u);
  EXPECT_EQ(back->rekeyed[0].name, "a \"b\"/\xff\n");
  EXPECT_EQ(back->rekeyed[0].key.ino, 18446744073709551615ull);
  for (const char* bad : {"", "{", "[]", "{\"files\":\"x\"}"})
    EXPECT_FALSE(ReplayReport::from_json(bad).ok());
}

}  // namespace
}  // namespace supervise
