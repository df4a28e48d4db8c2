#include "restore/file_drift.h"

#include <cstring>

#include "restore/criu.h"
#include "restore/digest.h"
#include "restore/image_layout.h"
#include "restore/protobuf_walk.h"
#include "tests/restore/test_support.h"
#include "tests/restore/test_world.h"

namespace supervise {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

ImageFile as_image(const std::string& path, const std::string& content) {
  return {path, content.size(), sha256_of_bytes(content)};
}

class FileDriftTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = d_ / "third";
    mkdir(dir_.c_str(), 0700);
    mkdir((dir_ + "/logs").c_str(), 0700);
    places_ = {{"/srv/first", dir_}, {"/srv/first/logs/", dir_ + "/logs"}};
  }
  std::vector<FileDrift> drift(const std::vector<ImageFile>& files) {
    auto d = find_drift(files, places_);
    EXPECT_TRUE(d.ok()) << d.error().message();
    return d.value_or({});
  }
  ScratchDir d_;
  std::string dir_;
  std::vector<DriftPlace> places_;
};

TEST_F(FileDriftTest, EqualFilesAreNoDrift) {
  put(dir_ + "/a", "hello");
  put(dir_ + "/empty", "");
  put(dir_ + "/logs/l", "line\n");
  auto big = as_image("/srv/first/a", "hello");
  big.sha256.clear();
  EXPECT_TRUE(drift({as_image("/srv/first/a", "hello"), as_image("/srv/first/empty", ""),
                     as_image("/srv/first/logs/l", "line\n"), big}).empty());
}

TEST_F(FileDriftTest, EveryKindIsFoundAndNamed) {
  put(dir_ + "/short", "12");
  put(dir_ + "/long", "12345more");
  put(dir_ + "/other", "1234X");
  put(dir_ + "/long-other", "1234Xmore");
  mkdir((dir_ + "/dir").c_str(), 0700);
  ASSERT_EQ(symlink("/etc/passwd", (dir_ + "/link").c_str()), 0);
  ASSERT_EQ(mkfifo((dir_ + "/fifo").c_str(), 0600), 0);
  struct { const char* name; DriftKind kind; } cases[] = {
      {"gone", DriftKind::Missing}, {"gone/deep", DriftKind::Missing}, {"short", DriftKind::Shorter},
      {"long", DriftKind::Longer}, {"other", DriftKind::OtherContent},
      {"long-other", DriftKind::OtherContent}, {"dir", DriftKind::NotRegular},
      {"link", DriftKind::NotRegular}, {"fifo", DriftKind::NotRegular}};
  for (const auto& c : cases) {
    std::string path = std::string("/srv/first/") + c.name;
    auto d = drift({as_image(path, "12345")});
    ASSERT_EQ(d.size(), 1u) << c.name;
    EXPECT_EQ(d[0].kind, c.kind) << c.name;
    EXPECT_THAT(d[0].describe(), HasSubstr(path));
    for (auto policy : {DriftPolicy::Refuse, DriftPolicy::Truncate, DriftPolicy::AcceptAppended}) {
      bool may = c.kind == DriftKind::Longer && policy != DriftPolicy::Refuse;
      if (may) continue;
      auto s = apply_drift_policy(policy, d, places_);
      ASSERT_FALSE(s.ok()) << c.name;
      EXPECT_THAT(s.error().message(), HasSubstr(path));
      EXPECT_EQ(s.error().message().find("--drift") != std::string::npos, c.kind == DriftKind::Longer);
    }
  }
  EXPECT_EQ(get(dir_ + "/long"), "12345more");
}

TEST_F(FileDriftTest, TruncateCutsBackWhatWasAppended) {
  put(dir_ + "/logs/l", "12345more");
  auto files = std::vector{as_image("/srv/first/logs/l", "12345")};
  auto d = drift(files);
  ASSERT_TRUE(apply_drift_policy(DriftPolicy::AcceptAppended, d, places_).ok());
  EXPECT_EQ(get(dir_ + "/logs/l"), "12345more");
  ASSERT_TRUE(apply_drift_policy(DriftPolicy::Truncate, d, places_).ok());
  EXPECT_EQ(get(dir_ + "/logs/l"), "12345");
  EXPECT_TRUE(drift(files).empty());
}

TEST_F(FileDriftTest, OneThatIsBadStopsTheRepairOfAll) {
  put(dir_ + "/long", "12345more");
  auto d = drift({as_image("/srv/first/long", "12345"), as_image("/srv/first/gone", "x")});
  auto s = apply_drift_policy(DriftPolicy::Truncate, d, places_);
  ASSERT_FALSE(s.ok());
  EXPECT_THAT(s.error().message(), AllOf(HasSubstr("/gone"), Not(HasSubstr("/long"))));
  EXPECT_EQ(get(dir_ + "/long"), "12345more");
}

TEST_F(FileDriftTest, AFileBelowNoPlaceAndAMissingDirectoryAreErrors) {
  auto d = find_drift({as_image("/srv/firstborn/a", "x")}, places_);
  ASSERT_FALSE(d.ok());
  EXPECT_THAT(d.error().message(), HasSubstr("/srv/firstborn/a is below no storage path"));
}

std::string file_entry(const std::string& name, std::uint64_t size) {
  std::string reg;
  reg += std::string("\x08\x07\x10\x01\x18\x80\x01", 7);  // id, flags, pos
  proto_put_bytes(reg, 6, name);
  reg += '\x40';
  proto_put_varint(reg, size);
  reg += std::string("\x50\xa4\x83\x02", 4);  // mode
  std::string entry("\x08\x01\x10\x07", 4);
  proto_put_bytes(entry, 3, reg);
  auto length = static_cast<std::uint32_t>(entry.size());
  return std::string(reinterpret_cast<char*>(&length), 4) + entry;
}

TEST(FilesImg, OnlyTheSizesOfTheNamedFilesGo) {
  std::string head("\x19\x43\x56\x54\x38\x31\x30\x56", 8);
  std::string img = head + file_entry("/a", 5) + file_entry("/b", 300) + file_entry("/c", 1ull << 40);
  auto same = files_img_without_sizes(img, {});
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(*same, img);
  auto out = files_img_without_sizes(img, {"/b"});
  ASSERT_TRUE(out.ok()) << out.error().message();
  EXPECT_EQ(out->size(), img.size() - 3);
  EXPECT_EQ(out->substr(0, 8 + file_entry("/a", 5).size()), img.substr(0, 8 + file_entry("/a", 5).size()));
  EXPECT_THAT(*out, testing::EndsWith(file_entry("/c", 1ull << 40)));
  EXPECT_THAT(files_img_without_sizes(img, {"/x"}).error().message(), HasSubstr("does not have /x open"));
}

TEST(FilesImg, RubbishIsRefusedAtEveryCut) {
  std::string img = std::string("\x19\x43\x56\x54\x38\x31\x30\x56", 8) + file_entry("/a", 5);
  for (std::size_t n = 0; n < img.size(); ++n) {
    if (n == 8) continue;  // no entry at all
    EXPECT_FALSE(files_img_without_sizes(img.substr(0, n), {"/a"}).ok()) << n;
  }
  std::string wrong = img;
  wrong[0] = 'x';
  EXPECT_THAT(files_img_without_sizes(wrong, {}).error().message(), HasSubstr("not what CRIU writes"));
}

// A guest that keeps one log open and appends a line at each SIGUSR1.
TEST(DriftGuest, DISABLED_Run) {
  if (!getenv("GUEST_DIR")) GTEST_SKIP() << "part of FileDriftRestore.*";
  // CRIU leaves the size of an O_WRONLY | O_APPEND file out by itself.
  int log = open("log", O_RDWR | O_CREAT | O_APPEND, 0600);
  (void)!write(log, "before\n", 7);
  put("port.tmp", "0");
  rename("port.tmp", "port");
  while (access("go", F_OK) != 0) usleep(1000);
  (void)!write(log, "after\n", 6);
  put("done.tmp", "");
  rename("done.tmp", "done");
  for (;;) pause();
}

class FileDriftRestore : public FileDriftTest {
 protected:
  bool appears(const std::string& name) {
    auto deadline = Deadline::in(Millis(8000));
    while (!deadline.passed() && access((dir_ + "/" + name).c_str(), F_OK) != 0) usleep(1000);
    return !deadline.passed();
  }
};

TEST_F(FileDriftRestore, AnAppendedLogPassesCriuOnlyWhenAccepted) {
  NEEDS_RESTORABLE_GUEST();
  auto criu = Criu::find();
  if (!criu) GTEST_SKIP() << criu.error().message();
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  auto world = TestWorld::create();
  if (!world) GTEST_SKIP() << "needs the privilege to make PID and mount namespaces (CAP_SYS_ADMIN)";
  int pid = world->start("DriftGuest.DISABLED_Run", dir_);
  ASSERT_TRUE(appears("port"));
  ASSERT_EQ(world->stop(pid), "ok");
  std::string image = d_ / "image";
  mkdir(image.c_str(), 0700);
  UniqueFd fd(open(image.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DumpRequest dump;
  dump.root_pid = pid;
  dump.image_dir_fd = fd.get();
  dump.leave_stopped = false;
  auto dumped = criu->dump(*world, dump, Deadline::in(Millis(20000)));
  ASSERT_TRUE(dumped.ok()) << dumped.error().message();
  std::string log = dir_ + "/log", hash = sha256_of_bytes(get(image + "/files.img"));
  put(log, "before\nappended\n");
  places_ = {{dir_, dir_}};
  auto d = drift({as_image(log, "before\n")});
  ASSERT_EQ(d.size(), 1u);
  ASSERT_TRUE(apply_drift_policy(DriftPolicy::AcceptAppended, d, places_).ok());

  RestoreRequest request;
  request.image_dir_fd = fd.get();
  world.reset();
  world = TestWorld::create();
  auto refused = criu->restore(*world, request, Deadline::in(Millis(20000)));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message(), HasSubstr("bad size 16 (expect 7)"));

  auto patched = image_without_sizes(image, {log});
  ASSERT_TRUE(patched.ok()) << patched.error().message();
  UniqueFd patched_fd(open(patched->dir().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  request.image_dir_fd = patched_fd.get();
  world.reset();
  world = TestWorld::create();
  auto root = criu->restore(*world, request, Deadline::in(Millis(20000)));
  ASSERT_TRUE(root.ok()) << root.error().message();
  ASSERT_EQ(world->proceed(*root), "ok");
  put(dir_ + "/go", "");
  ASSERT_TRUE(appears("done"));
  EXPECT_EQ(get(log), "before\nappended\nafter\n");
  EXPECT_EQ(sha256_of_bytes(get(image + "/files.img")), hash) << "the image itself is not touched";
  std::string gone = patched->dir();
  { PatchedImage end = patched.take(); }
  EXPECT_NE(access(gone.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace supervise
