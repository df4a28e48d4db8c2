#include "restore/image_store.h"

#include <map>
#include <random>
#include <set>

#include "restore/digest.h"
#include "restore/image_layout.h"
#include "restore/store_files.h"
#include "tests/restore/test_support.h"

namespace supervise {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::map<std::string, std::string> kParts = {
    {"core-2.img", std::string(5000, 'c')},
    {"files.img", "files"},
    {"pages-1.img", std::string(3 << 20, 'p')},
    {"empty.img", ""},
};

ImageStore store_at(const std::string& dir) {
  auto s = ImageStore::open(dir, "app", true);
  if (!s) throw std::runtime_error(s.error().message());
  return s.take();
}

Result<ImageRef> make_image(ImageStore& store) {
  ASSIGN_OR_RETURN(auto draft, store.begin());
  for (const auto& [name, content] : kParts) put(draft.dir + "/" + name, content);
  put(draft.dir + "/dump.log", "a log is not a part");
  Manifest m;
  m.app_name = "app";
  return store.finish(std::move(draft), m);
}

std::string verdict(const std::string& dir) {
  auto m = verify_image(dir);
  return m ? "good" : m.error().message();
}

std::vector<std::string> entries(const std::string& dir) { return names_in(dir).value_or({}); }

TEST(ImageStore, MakesAnImageThatVerifies) {
  ScratchDir d;
  auto store = store_at(d.path());
  auto ref = make_image(store);
  ASSERT_TRUE(ref.ok()) << ref.error().message();
  EXPECT_EQ(ref->dir, d.path() + "/app/gen-000001");
  auto m = verify_image(ref->dir);
  ASSERT_TRUE(m.ok()) << m.error().message();
  EXPECT_EQ(m->generation, 1u);
  std::map<std::string, std::uint64_t> sizes;
  for (const auto& p : m->parts) {
    sizes[p.name] = p.size;
    EXPECT_EQ(p.sha256, sha256_of_bytes(kParts.at(p.name)));
  }
  EXPECT_EQ(sizes.size(), kParts.size());
  EXPECT_THAT(entries(store.dir()), testing::ElementsAre("gen-000001"));
}

TEST(ImageStore, DigestIsSha256) {
  EXPECT_EQ(sha256_of_bytes("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ImageStore, FlippedBytesNameThePart) {
  ScratchDir d;
  auto store = store_at(d.path());
  auto ref = make_image(store);
  ASSERT_TRUE(ref.ok());
  std::mt19937 rng(1);
  for (const auto& [name, content] : kParts) {
    if (content.empty()) continue;
    for (std::size_t at : {std::size_t{0}, content.size() - 1, rng() % content.size()}) {
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << rng() % 8));
      put(ref->dir + "/" + name, damaged);
      EXPECT_THAT(verdict(ref->dir), HasSubstr("part " + name + ": its content was changed"));
    }
    put(ref->dir + "/" + name, content);
  }
  EXPECT_EQ(verdict(ref->dir), "good");
}

TEST(ImageStore, OtherSizesMissingAndExtraFilesAreNamed) {
  ScratchDir d;
  auto store = store_at(d.path());
  auto ref = make_image(store);
  ASSERT_TRUE(ref.ok());
  for (const auto& [name, content] : kParts) {
    std::string path = ref->dir + "/" + name;
    put(path, content + "x");
    EXPECT_THAT(verdict(ref->dir), HasSubstr("part " + name + ": has " +
                                             std::to_string(content.size() + 1) + " bytes"));
    unlink(path.c_str());
    EXPECT_THAT(verdict(ref->dir), HasSubstr("part " + name + ": is missing"));
    ASSERT_EQ(symlink("/etc/passwd", path.c_str()), 0);
    EXPECT_THAT(verdict(ref->dir), HasSubstr("part " + name));
    unlink(path.c_str());
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_THAT(verdict(ref->dir), HasSubstr("part " + name + ": is not a regular file"));
    unlink(path.c_str());
    put(path, content);
  }
  put(ref->dir + "/tcp-stream-1.img", "");
  EXPECT_THAT(verdict(ref->dir), HasSubstr("file tcp-stream-1.img: is not in the manifest"));
  unlink((ref->dir + "/tcp-stream-1.img").c_str());
  for (const char* name : {"restore.log", "commit.json", "claim.json", "stats-restore", ".claim.lock"}) {
    put(ref->dir + "/" + name, "x");
  }
  EXPECT_EQ(verdict(ref->dir), "good");
}

TEST(ImageStore, SeveralFailuresAreAllNamed) {
  ScratchDir d;
  auto store = store_at(d.path());
  auto ref = make_image(store);
  ASSERT_TRUE(ref.ok());
  unlink((ref->dir + "/files.img").c_str());
  put(ref->dir + "/core-2.img", "x");
  EXPECT_THAT(verdict(ref->dir), AllOf(HasSubstr("part files.img"), HasSubstr("part core-2.img"),
                                       Not(HasSubstr("pages-1.img"))));
}

TEST(ImageStore, TouchedOrMissingManifestIsNoImage) {
  ScratchDir d;
  auto store = store_at(d.path());
  auto ref = make_image(store);
  ASSERT_TRUE(ref.ok());
  std::string path = ref->dir + "/manifest.json";
  const std::string text = get(path);
  put(path, text.substr(0, text.size() / 2));
  EXPECT_THAT(verdict(ref->dir), AllOf(HasSubstr(ref->dir), HasSubstr("manifest.json: the JSON ends too early")));
  std::string newer = text;
  newer.replace(newer.find("\"version\": 1"), 12, "\"version\": 2");
  put(path, newer);
  EXPECT_THAT(verdict(ref->dir), HasSubstr("manifest.json: format version 2"));
  std::string flipped = text;
  flipped[flipped.find("\"app\"") + 1] = 'b';
  put(path, flipped);
  EXPECT_THAT(verdict(ref->dir), HasSubstr("manifest.json: was changed after it was written"));
  unlink(path.c_str());
  EXPECT_THAT(verdict(ref->dir), HasSubstr("has no manifest.json"));
  EXPECT_TRUE(store.list().value().empty());
}

TEST(ImageStore, ListsInOrderPrunesAndNeverReusesANumber) {
  ScratchDir d;
  auto store = store_at(d.path());
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(make_image(store).ok());
  ASSERT_TRUE(store.prune(3).ok());
  auto images = store.list().value();
  ASSERT_EQ(images.size(), 3u);
  EXPECT_EQ(images.front().generation, 10u);
  EXPECT_EQ(store.newest().value()->generation, 12u);
  put(images[0].dir + "/commit.json", "{}");
  ASSERT_TRUE(store.prune(0).ok());
  images = store.list().value();
  ASSERT_EQ(images.size(), 1u) << "a committed image that nobody claimed must stay";
  put(images[0].dir + "/claim.json", "{}");
  ASSERT_TRUE(store.prune(0).ok());
  EXPECT_TRUE(store.list().value().empty());
  EXPECT_EQ(make_image(store)->generation, 13u);
}

TEST(ImageStore, WrongNamesAndPlacesAreRefused) {
  ScratchDir d;
  for (const char* name : {"", ".", "..", ".x", "a/b"}) {
    EXPECT_FALSE(ImageStore::open(d.path(), name, true).ok()) << name;
  }
  auto missing = ImageStore::open(d.path(), "nothing", false);
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message(), AllOf(HasSubstr("/nothing"), HasSubstr("ENOENT")));
  put(d / "file", "");
  auto in_file = ImageStore::open(d / "file", "app", true);
  ASSERT_FALSE(in_file.ok());
  EXPECT_THAT(in_file.error().message(), HasSubstr("/file/app"));
}

TEST(ImageStore, AnImageWithoutPartsOrWithADirectoryIsRefused) {
  ScratchDir d;
  auto store = store_at(d.path());
  Manifest m;
  auto empty = store.finish(store.begin().take(), m);
  ASSERT_FALSE(empty.ok());
  EXPECT_THAT(empty.error().message(), HasSubstr("has no parts"));
  auto draft = store.begin().take();
  mkdir((draft.dir + "/sub").c_str(), 0700);
  auto with_dir = store.finish(std::move(draft), m);
  ASSERT_FALSE(with_dir.ok());
  EXPECT_THAT(with_dir.error().message(), HasSubstr("part sub is not a regular file"));
  EXPECT_TRUE(entries(store.dir()).empty());
}

TEST(ImageStore, SweepTakesTheDraftsOfTheDeadOnly) {
  ScratchDir d;
  auto store = store_at(d.path());
  pid_t dead = in_child([&] {
    auto s = store_at(d.path());
    auto a = s.begin(), b = s.begin();
    return a.ok() && b.ok() ? 0 : 1;
  });
  ASSERT_EQ(wait_for(dead, Millis(5000)), 0);
  auto mine = store.begin();
  ASSERT_TRUE(mine.ok());
  EXPECT_EQ(mine->generation, 3u);
  mkdir((store.dir() + "/.gone-000009").c_str(), 0700);
  EXPECT_EQ(entries(store.dir()).size(), 4u);
  store.sweep();
  EXPECT_THAT(entries(store.dir()), testing::ElementsAre(".tmp-000003"));
  ImageStore::abandon(*mine);
  EXPECT_TRUE(entries(store.dir()).empty());
}

TEST(ImageStore, ProcessesThatBeginAtOnceGetDifferentGenerations) {
  ScratchDir d;
  store_at(d.path());
  constexpr int kProcesses = 8, kEach = 12;
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  std::vector<pid_t> pids;
  for (int p = 0; p < kProcesses; ++p) {
    pids.push_back(in_child([&] {
      close(go[1]);
      char c;
      (void)!read(go[0], &c, 1);
      auto store = store_at(d.path());
      for (int i = 0; i < kEach; ++i) {
        auto draft = store.begin();
        if (!draft) return 1;
        put(draft->dir + "/core.img", std::to_string(draft->generation));
        Manifest m;
        m.app_name = std::to_string(draft->generation);
        if (!store.finish(draft.take(), m)) return 2;
      }
      return 0;
    }));
  }
  close(go[0]);
  close(go[1]);
  for (pid_t pid : pids) EXPECT_EQ(wait_for(pid, Millis(30000)), 0);
  auto images = store_at(d.path()).list().value();
  EXPECT_EQ(images.size(), std::size_t{kProcesses * kEach});
  for (const auto& image : images) {
    auto m = verify_image(image.dir);
    ASSERT_TRUE(m.ok()) << m.error().message();
    EXPECT_EQ(m->generation, image.generation);
    EXPECT_EQ(m->app_name, std::to_string(image.generation));
  }
}

TEST(ImageStore, AFullStoreNamesThePartAndLeavesNothing) {
  ScratchDir d;
  if (!d.mount_tmpfs("size=1m")) GTEST_SKIP() << "needs the privilege to mount a tmpfs (CAP_SYS_ADMIN)";
  auto store = store_at(d.path());
  auto draft = store.begin();
  ASSERT_TRUE(draft.ok());
  put(draft->dir + "/core.img", "small");
  int fd = open((draft->dir + "/pages-1.img").c_str(), O_WRONLY | O_CREAT, 0600);
  std::string block(4096, 'x');
  while (write(fd, block.data(), block.size()) > 0) {
  }
  EXPECT_EQ(errno, ENOSPC);
  close(fd);
  std::string dir = draft->dir;
  Manifest m;
  auto ref = store.finish(draft.take(), m);
  ASSERT_FALSE(ref.ok());
  EXPECT_EQ(ref.error().err, ENOSPC);
  EXPECT_THAT(ref.error().message(), AllOf(HasSubstr("part manifest.json"), HasSubstr(dir), HasSubstr("ENOSPC")));
  EXPECT_TRUE(entries(store.dir()).empty());
}

TEST(ImageStore, AFullStoreFailsTheBeginning) {
  ScratchDir d;
  if (!d.mount_tmpfs("size=64k")) GTEST_SKIP() << "needs the privilege to mount a tmpfs (CAP_SYS_ADMIN)";
  auto store = store_at(d.path());
  std::string block(65536, 'x');
  put(d / "filler", block);
  auto draft = store.begin();
  ASSERT_FALSE(draft.ok());
  EXPECT_EQ(draft.error().err, ENOSPC);
  EXPECT_THAT(draft.error().message(), HasSubstr(store.dir()));
  unlink((d / "filler").c_str());
  EXPECT_TRUE(store.begin().ok());
}

// One run of finish() at whose Nth step something happens; 0: finished, 3: refused.
TEST(ImageStoreStep, DISABLED_Finish) {
  const char* dir = getenv("STEP_STORE");
  if (!dir) GTEST_SKIP() << "part of ImageStore.EveryStepOfFinish*";
  auto store = store_at(dir);
  _exit(make_image(store).ok() ? 0 : 3);
}

const char* const kSteps[] = {"image.part", "image.part@3", "image.parts", "file.written@2",
                              "file.renamed@2", "image.manifest", "image.renamed", "image.synced"};

TEST(ImageStore, EveryStepOfFinishCanFailAndLeavesNothing) {
  for (std::string step : kSteps) {
    ScratchDir d;
    auto store = store_at(d.path());
    int status = run_again("ImageStoreStep.DISABLED_Finish",
                           {"STEP_STORE=" + d.path(), "SUPERVISE_FAULT_POINTS=" + step + "=fail"});
    ASSERT_TRUE(WIFEXITED(status)) << step;
    EXPECT_EQ(WEXITSTATUS(status), 3) << step;
    EXPECT_TRUE(entries(store.dir()).empty()) << step;
  }
}

TEST(ImageStore, KilledAtEveryStepOfFinishThereIsAWholeImageOrNone) {
  int whole = 0, none = 0;
  for (std::string step : kSteps) {
    ScratchDir d;
    auto store = store_at(d.path());
    int status = run_again("ImageStoreStep.DISABLED_Finish",
                           {"STEP_STORE=" + d.path(), "SUPERVISE_FAULT_POINTS=" + step + "=kill"});
    ASSERT_TRUE(WIFSIGNALED(status)) << step;
    auto images = store.list().value();
    for (const auto& image : images) EXPECT_EQ(verdict(image.dir), "good") << step;
    (images.empty() ? none : whole)++;
    store.sweep();
    EXPECT_EQ(entries(store.dir()).size(), images.size()) << step << ": a draft stayed behind";
    auto next = make_image(store);
    ASSERT_TRUE(next.ok()) << step;
    EXPECT_EQ(next->generation, images.size() + 1) << step;
  }
  EXPECT_EQ(whole, 2);
  EXPECT_EQ(none, 6);
}

TEST(StoreFiles, ALockIsExclusiveHasADeadlineAndDiesWithItsProcess) {
  ScratchDir d;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t holder = in_child([&] {
    auto lock = lock_file(d / "lock", Deadline::in(Millis(1000)));
    (void)!write(ready[1], "x", 1);
    for (;;) pause();
    return 0;
  });
  char c;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  auto before = Clock::now();
  auto refused = lock_file(d / "lock", Deadline::in(Millis(60)));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().err, ETIMEDOUT);
  EXPECT_THAT(refused.error().message(), HasSubstr(d / "lock"));
  EXPECT_GE(ms_between(before, Clock::now()), 59);
  kill(holder, SIGKILL);
  wait_for(holder, Millis(2000));
  EXPECT_TRUE(lock_file(d / "lock", Deadline::in(Millis(1000))).ok());
  close(ready[0]);
  close(ready[1]);
}

TEST(StoreFiles, AReaderNeverSeesHalfAFile) {
  ScratchDir d;
  std::string path = d / "small.json", a(40000, 'a'), b(30000, 'b');
  ASSERT_TRUE(write_file_durably(path, a).ok());
  pid_t writer = in_child([&] {
    for (int i = 0; i < 400; ++i) {
      if (!replace_file(path, i % 2 ? a : b)) return 1;
    }
    return 0;
  });
  int reads = 0;
  for (int status = 0; waitpid(writer, &status, WNOHANG) == 0; ++reads) {
    auto text = read_small_file(path);
    ASSERT_TRUE(text.ok());
    ASSERT_TRUE(*text == a || *text == b) << text->size();
  }
  EXPECT_GT(reads, 10);
  EXPECT_THAT(entries(d.path()), testing::ElementsAre("small.json"));
}

}  // namespace
}  // namespace supervise
