// Storage paths as mounts of the world: bound, changed, and the former file system let go.
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "supervisor/world_mounts.h"
#include "tests/supervisor/world_test_support.h"

namespace supervise::test {
namespace {

TEST(MountInfo, UnderstandsEscapesAndOptionalFields) {
  auto entries = parse_mountinfo(
      "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
      "90 27 8:17 /sub\\040dir /srv/a\\040b\\011c rw shared:5 master:2 - ext4 /dev/x rw\n"
      "broken line\n");
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[1].id, 90u);
  EXPECT_EQ(entries[1].parent, 27u);
  EXPECT_EQ(entries[1].device, "8:17");
  EXPECT_EQ(entries[1].place, "/srv/a b\tc");
  EXPECT_TRUE(is_at_or_under("/srv/a/b", "/srv/a"));
  EXPECT_FALSE(is_at_or_under("/srv/ab", "/srv/a"));
  EXPECT_TRUE(is_at_or_under("/srv", "/"));
}

// A file system of its own: ext4 on a loop device over a file. A device opens with O_EXCL only when
// no superblock uses it, which shows that a file system is truly let go.
class LoopFs {
 public:
  explicit LoopFs(const std::string& image) {
    int file = open(image.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (ftruncate(file, 16 << 20) != 0) return;
    if (system(("mkfs.ext4 -q -F " + image + " >/dev/null 2>&1").c_str()) != 0) return;
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    for (int attempt = 0; control >= 0 && attempt < 20 && fd_ < 0; ++attempt) {
      int number = ioctl(control, LOOP_CTL_GET_FREE);
      if (number < 0) break;
      device_ = "/dev/loop" + std::to_string(number);
      int fd = open(device_.c_str(), O_RDWR | O_CLOEXEC);
      if (fd >= 0 && ioctl(fd, LOOP_SET_FD, file) == 0) {
        fd_ = fd;
      } else if (fd >= 0) {
        close(fd);
      }
    }
    close(control);
    close(file);
  }
  ~LoopFs() {
    if (fd_ < 0) return;
    ioctl(fd_, LOOP_CLR_FD, 0);
    close(fd_);
  }
  bool ok() const { return fd_ >= 0; }
  const std::string& device() const { return device_; }
  bool mount_at(const std::string& place) const {
    mkdir(place.c_str(), 0755);
    return mount(device_.c_str(), place.c_str(), "ext4", 0, nullptr) == 0;
  }
  // Nobody uses it, soon.
  bool is_free() const {
    for (int i = 0; i < 200; ++i) {
      int fd = open(device_.c_str(), O_RDWR | O_EXCL | O_CLOEXEC);
      if (fd >= 0) {
        close(fd);
        return true;
      }
      poll(nullptr, 0, 10);
    }
    return false;
  }

 private:
  std::string device_;
  int fd_ = -1;
};

class WorldPlaces : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_ROOT();
    for (const char* name : {"first", "second", "third"}) {
      mkdir((dir_ / name).c_str(), 0755);
      write_file(dir_ / name + "/name", std::string(name) + "\n");
    }
  }
  void TearDown() override {
    world_.reset();
    for (auto it = mounted_.rbegin(); it != mounted_.rend(); ++it) umount2(it->c_str(), MNT_DETACH);
  }
  bool create(std::vector<PlaceSpec> places) {
    WorldSpec spec;
    spec.places = std::move(places);
    auto made = World::create(spec);
    if (!made) {
      ADD_FAILURE() << made.error().message();
      return false;
    }
    world_ = made.take();
    return true;
  }
  // What a program in the world sees.
  std::string seen(const std::string& script) {
    ProcessSpec spec;
    spec.argv = {"/bin/sh", "-c", script};
    int out = open((dir_ / "seen").c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    spec.fds = {{out, 1}};
    auto end = world_->run(spec, Deadline::in(Millis(10000)));
    close(out);
    return end ? read_file(dir_ / "seen") : end.error().message();
  }
  Status rebind(const std::string& name, const std::string& source) {
    return world_->rebind(name, source, Deadline::in(Millis(10000)));
  }
  void tmpfs(const std::string& name) {
    mkdir((dir_ / name).c_str(), 0755);
    ASSERT_EQ(mount("tmpfs", (dir_ / name).c_str(), "tmpfs", 0, "size=1m"), 0);
    mounted_.push_back(dir_ / name);
    write_file(dir_ / name + "/name", name + " fs\n");
  }

  TempDir dir_;
  KeepStdio keep_;
  std::vector<std::string> mounted_;
  std::unique_ptr<World> world_;
};

TEST_F(WorldPlaces, PlainDirectoriesAreBoundAndChanged) {
  ASSERT_TRUE(create({{"data", dir_ / "first", dir_ / "first"}}));
  auto before = world_->mount_ids("data");
  EXPECT_EQ(before.size(), 1u);
  EXPECT_EQ(seen("cat " + (dir_ / "first/name")), "first\n");
  ASSERT_TRUE(rebind("data", dir_ / "second").ok());
  EXPECT_EQ(seen("cat " + (dir_ / "first/name")), "second\n");
  auto after = world_->mount_ids("data");
  EXPECT_EQ(after.size(), 1u);
  EXPECT_NE(before, after);
  // The root file system is the same one: nothing else of it was detached.
  EXPECT_EQ(seen("test -d /etc && echo there"), "there\n");
  EXPECT_EQ(read_file(dir_ / "first/name"), "first\n");
  struct stat place {};
  struct stat second {};
  ASSERT_EQ(fstat(world_->place_fd("data"), &place), 0);
  ASSERT_EQ(stat((dir_ / "second").c_str(), &second), 0);
  EXPECT_EQ(place.st_ino, second.st_ino);
  int through = openat(world_->root_fd(), (dir_ / "first/name").substr(1).c_str(), O_RDONLY);
  char text[16] = {};
  EXPECT_EQ(read(through, text, sizeof text), 7);
  EXPECT_STREQ(text, "second\n");
  close(through);
}

TEST_F(WorldPlaces, ASwitchThatFailsLeavesThePlaceAsItWas) {
  ASSERT_TRUE(create({{"data", dir_ / "first", dir_ / "first"}}));
  auto before = world_->mount_ids("data");
  auto gone = rebind("data", dir_ / "nowhere");
  ASSERT_FALSE(gone.ok());
  EXPECT_THAT(gone.error().message(), testing::HasSubstr("nowhere"));
  auto file = rebind("data", dir_ / "second/name");
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().err, ENOTDIR);
  EXPECT_FALSE(rebind("other", dir_ / "second").ok());
  EXPECT_EQ(world_->mount_ids("data"), before);
  EXPECT_EQ(seen("cat " + (dir_ / "first/name")), "first\n");
}

TEST_F(WorldPlaces, LaterMountsOfTheHostStayOutsideButCanBeBound) {
  ASSERT_TRUE(create({{"data", dir_ / "first", dir_ / "first"}}));
  tmpfs("second");
  EXPECT_EQ(seen("cat " + (dir_ / "second/name")), "second\n");
  ASSERT_TRUE(rebind("data", dir_ / "second").ok());
  EXPECT_EQ(seen("cat " + (dir_ / "first/name")), "second fs\n");
}

TEST_F(WorldPlaces, SubmountsComeAlong) {
  tmpfs("second");
  tmpfs("second/sub");
  ASSERT_TRUE(create({{"data", dir_ / "first", dir_ / "first"}}));
  ASSERT_TRUE(rebind("data", dir_ / "second").ok());
  EXPECT_EQ(seen("cat " + (dir_ / "first/sub/name")), "second/sub fs\n");
  EXPECT_EQ(world_->mount_ids("data").size(), 2u);
  ASSERT_TRUE(rebind("data", dir_ / "third").ok());
  EXPECT_EQ(seen("cat " + (dir_ / "first/name")), "third\n");
  EXPECT_EQ(world_->mount_ids("data").size(), 1u);
}

TEST_F(WorldPlaces, MissingPlacesAreMade) {
  ASSERT_TRUE(create({{"data", dir_ / "new/deep/place", dir_ / "third"}}));
  EXPECT_EQ(world_->made_directories(),
            (std::vector<std::string>{dir_ / "new", dir_ / "new/deep", dir_ / "new/deep/place"}));
  EXPECT_EQ(seen("cat " + (dir_ / "new/deep/place/name")), "third\n");
}

TEST_F(WorldPlaces, ASymbolicLinkAsPlaceIsFollowed) {
  ASSERT_EQ(symlink("first", (dir_ / "link").c_str()), 0);
  ASSERT_TRUE(create({{"data", dir_ / "link", dir_ / "link"}}));
  ASSERT_TRUE(rebind("data", dir_ / "second").ok());
  EXPECT_EQ(seen("cat " + (dir_ / "link/name")), "second\n");
  EXPECT_EQ(seen("cat " + (dir_ / "first/name")), "second\n");
  EXPECT_EQ(world_->mount_ids("data").size(), 1u);
}

TEST_F(WorldPlaces, NestedPlacesKeepTheirMounts) {
  for (const char* d : {"first/in", "first/in/deep", "second/in", "in2", "deep2"})
    mkdir((dir_ / d).c_str(), 0755);
  for (const char* d : {"first/in", "first/in/deep", "in2", "deep2"})
    write_file(dir_ / d + "/name", std::string(d) + "\n");
  // Given in any order.
  ASSERT_TRUE(create({{"deep", dir_ / "first/in/deep", dir_ / "first/in/deep"},
                      {"outer", dir_ / "first", dir_ / "first"},
                      {"inner", dir_ / "first/in", dir_ / "first/in"}}));
  const std::string all = "cd " + (dir_ / "first") + "; cat name in/name in/deep/name";
  EXPECT_EQ(seen(all), "first\nfirst/in\nfirst/in/deep\n");
  auto inner = world_->mount_ids("inner");
  auto deep = world_->mount_ids("deep");
  EXPECT_EQ(world_->mount_ids("outer").size(), 1u);
  ASSERT_TRUE(rebind("outer", dir_ / "second").ok());
  EXPECT_EQ(seen(all), "second\nfirst/in\nfirst/in/deep\n");
  EXPECT_EQ(world_->mount_ids("inner"), inner);
  EXPECT_EQ(world_->mount_ids("deep"), deep);
  // The new tree lacks the directory: it is made.
  ASSERT_TRUE(rebind("inner", dir_ / "in2").ok());
  EXPECT_EQ(seen(all), "second\nin2\nfirst/in/deep\n");
  EXPECT_EQ(world_->mount_ids("deep"), deep);
  ASSERT_TRUE(rebind("deep", dir_ / "deep2").ok());
  ASSERT_TRUE(rebind("outer", dir_ / "third").ok());
  EXPECT_EQ(seen(all), "third\nin2\ndeep2\n");
  EXPECT_EQ(seen("grep -c ' /proc/fs' /proc/self/mountinfo"), "0\n");
}

TEST_F(WorldPlaces, NothingKeepsTheFormerFileSystemBusy) {
  LoopFs fs(dir_ / "disk");
  if (!fs.ok()) GTEST_SKIP() << "needs mkfs.ext4 and a free loop device";
  ASSERT_TRUE(fs.mount_at(dir_ / "first"));
  mounted_.push_back(dir_ / "first");
  // The same file system twice more on the host: the world has copies of both.
  mkdir((dir_ / "other").c_str(), 0755);
  ASSERT_EQ(mount((dir_ / "first").c_str(), (dir_ / "other").c_str(), nullptr, MS_BIND, nullptr), 0);
  mounted_.push_back(dir_ / "other");
  ASSERT_TRUE(create({{"data", dir_ / "first", dir_ / "first"}}));
  ASSERT_TRUE(rebind("data", dir_ / "second").ok());
  EXPECT_THAT(world_->warnings(), testing::IsEmpty());
  ASSERT_EQ(umount2((dir_ / "other").c_str(), 0), 0);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "other/lost+found"));
  ASSERT_EQ(umount2((dir_ / "first").c_str(), 0), 0);
  EXPECT_TRUE(fs.is_free());
}

TEST_F(WorldPlaces, AFileSystemThatAnotherPlaceNeedsStays) {
  LoopFs fs(dir_ / "disk");
  if (!fs.ok()) GTEST_SKIP() << "needs mkfs.ext4 and a free loop device";
  ASSERT_TRUE(fs.mount_at(dir_ / "first"));
  mounted_.push_back(dir_ / "first");
  mkdir((dir_ / "first/a").c_str(), 0755);
  mkdir((dir_ / "first/b").c_str(), 0755);
  write_file(dir_ / "first/b/name", "b\n");
  ASSERT_TRUE(create({{"a", dir_ / "first/a", dir_ / "first/a"},
                      {"b", dir_ / "first/b", dir_ / "first/b"}}));
  ASSERT_TRUE(rebind("a", dir_ / "second").ok());
  EXPECT_EQ(seen("cat " + (dir_ / "first/b/name") + " " + (dir_ / "first/a/name")), "b\nsecond\n");
  EXPECT_FALSE(fs.is_free());
}

// Our own standard output may lie on the path that is given up.
TEST_F(WorldPlaces, OurStreamsOnTheFormerFileSystemAreLetGo) {
  LoopFs fs(dir_ / "disk");
  if (!fs.ok()) GTEST_SKIP() << "needs mkfs.ext4 and a free loop device";
  ASSERT_TRUE(fs.mount_at(dir_ / "first"));
  mounted_.push_back(dir_ / "first");
  int code = in_child([&] {
    int log = open((dir_ / "first/log").c_str(), O_CREAT | O_WRONLY, 0600);
    dup2(log, 1);
    close(log);
    WorldSpec spec;
    spec.places.push_back({"data", dir_ / "first", dir_ / "first"});
    auto world = World::create(spec);
    if (!world) return 100;
    auto pid = (*world)->prepare_launch(shell("echo hello; exec >/dev/null; sleep 1; exit 3"));
    if (!pid || !(*world)->release_launch()) return 101;
    poll(nullptr, 0, 300);
    if (!(*world)->rebind("data", dir_ / "second", Deadline::in(Millis(5000)))) return 102;
    if (umount2((dir_ / "first").c_str(), 0) != 0) return 103;
    if (!fs.is_free()) return 104;
    auto end = await_app(**world, Deadline::in(Millis(5000)));
    (*world)->finish_stdio();
    return end ? end->code : 105;
  });
  EXPECT_EQ(code, 3);
  ASSERT_TRUE(fs.mount_at(dir_ / "first"));
  EXPECT_EQ(read_file(dir_ / "first/log"), "hello\n");
}

}  // namespace
}  // namespace supervise::test
