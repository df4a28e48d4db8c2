#include "supervisor/commands/image_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "restore/image_store.h"
#include "supervisor/commands/commands.h"

namespace supervise {
namespace {

using ::testing::HasSubstr;

class ImageArchive : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(::mkdtemp(base_.data()), nullptr);
    auto store = ImageStore::open(base_ + "/store", "app", true);
    ASSERT_TRUE(store.ok());
    auto draft = store.value().begin();
    ASSERT_TRUE(draft.ok()) << draft.error().message();
    put(draft.value().dir + "/pages-1.img", std::string(70001, 'p'));
    put(draft.value().dir + "/core-2.img", std::string(512, '\0'));
    put(draft.value().dir + "/empty.img", "");
    Manifest manifest;
    manifest.app_name = "app";
    manifest.command = {"app", "args"};
    manifest.supervise_version = manifest.criu_version = manifest.kernel = "1";
    manifest.machine = "x86_64";
    manifest.origin_host = "a";
    manifest.reason = "checkpoint";
    manifest.root_pid = 2;
    manifest.epoch = 5;
    auto ref = store.value().finish(draft.take(), manifest);
    ASSERT_TRUE(ref.ok()) << ref.error().message();
    image_ = ref.value().dir;
    archive_ = base_ + "/app.tar";
  }
  void TearDown() override { std::filesystem::remove_all(base_); }

  static void put(const std::string& file, const std::string& text) { std::ofstream(file) << text; }
  static std::string get(const std::string& file) {
    std::ifstream stream(file);
    std::stringstream text;
    text << stream.rdbuf();
    return text.str();
  }
  int images(const std::string& action, std::vector<std::string> operands, const std::string& store) {
    ImagesOptions options;
    options.action = action;
    options.operands = std::move(operands);
    options.images_dir = base_ + "/" + store;
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int status = command_images(options);
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return status;
  }
  std::size_t entries(const std::string& store) const {
    std::size_t n = 0;
    std::error_code error;
    for (std::filesystem::directory_iterator it(base_ + "/" + store, error), end; it != end; ++it) ++n;
    return n;
  }

  std::string base_ = "/tmp/supervise-archive-XXXXXX";
  std::string image_, archive_, out_, err_;
};

TEST_F(ImageArchive, GoesOutAndComesBackWhole) {
  ASSERT_EQ(images("export", {"app", archive_}, "store"), 0) << err_;
  ASSERT_EQ(images("import", {archive_}, "other"), 0) << err_;
  const auto imported = base_ + "/other/app/gen-000001";
  EXPECT_THAT(out_, HasSubstr(imported));
  const auto manifest = verify_image(imported);
  ASSERT_TRUE(manifest.ok()) << manifest.error().message();
  EXPECT_EQ(manifest.value().epoch, 5u);
  EXPECT_EQ(manifest.value().parts.size(), 3u);
  EXPECT_EQ(get(imported + "/pages-1.img"), std::string(70001, 'p'));
  EXPECT_EQ(entries("other"), 1u) << "scratch directories are left";
  EXPECT_EQ(std::system(("tar -tf " + archive_ + " >/dev/null").c_str()), 0);
}

TEST_F(ImageArchive, ADamagedOneIsRefusedAndNothingIsLeft) {
  ASSERT_EQ(images("export", {"app", archive_}, "store"), 0);
  const auto whole = get(archive_);
  for (const std::size_t at : {std::size_t{5}, std::size_t{700}, whole.size() / 2}) {
    auto damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x41);
    put(archive_, damaged);
    EXPECT_EQ(images("import", {archive_}, "other"), 125) << at;
    EXPECT_THAT(err_, HasSubstr("import: "));
    EXPECT_EQ(entries("other"), 0u) << at;
  }
  for (const std::size_t size : {std::size_t{0}, std::size_t{300}, std::size_t{2000}, whole.size() / 2}) {
    put(archive_, whole.substr(0, size));
    EXPECT_EQ(images("import", {archive_}, "other"), 125) << size;
    EXPECT_EQ(entries("other"), 0u);
  }
}

TEST_F(ImageArchive, WhatIsNoPartOfAnImageIsRefused) {
  const auto dir = base_ + "/made";
  std::filesystem::create_directories(dir);
  put(dir + "/.maker.json", "{}");
  ASSERT_TRUE(write_archive(archive_, dir, {".maker.json"}).ok());
  std::filesystem::create_directories(base_ + "/out");
  auto names = read_archive(archive_, base_ + "/out");
  ASSERT_FALSE(names.ok());
  EXPECT_THAT(names.error().message(), HasSubstr("no part of an image"));
  put(dir + "/x.img", "x");
  ASSERT_TRUE(write_archive(archive_, dir, {"x.img", "x.img"}).ok());
  names = read_archive(archive_, base_ + "/out");
  ASSERT_FALSE(names.ok());
  EXPECT_THAT(names.error().message(), HasSubstr("twice"));
  std::filesystem::create_symlink("/etc/passwd", dir + "/link.img");
  EXPECT_EQ(std::system(("tar -C " + base_ + " -cf " + archive_ + " made/link.img").c_str()), 0);
  names = read_archive(archive_, base_ + "/out");
  ASSERT_FALSE(names.ok());
  EXPECT_THAT(names.error().message(), HasSubstr("not a regular file"));
}

TEST_F(ImageArchive, ListVerifyInspectAndPrune) {
  EXPECT_EQ(images("list", {}, "store"), 0);
  EXPECT_THAT(out_, HasSubstr(image_));
  EXPECT_EQ(images("verify", {"app", "app/1", image_}, "store"), 0) << err_;
  EXPECT_EQ(images("inspect", {"app"}, "store"), 0);
  EXPECT_THAT(out_, HasSubstr("app args"));
  put(image_ + "/core-2.img", std::string(512, 'x'));
  EXPECT_EQ(images("verify", {"app"}, "store"), 1);
  EXPECT_THAT(err_, HasSubstr("core-2.img"));
  EXPECT_EQ(images("export", {"app", archive_}, "store"), 1);
  EXPECT_FALSE(std::filesystem::exists(archive_));
  EXPECT_EQ(images("verify", {"app/7"}, "store"), 125);
  EXPECT_THAT(err_, HasSubstr("no generation 7"));
  EXPECT_EQ(images("verify", {"nobody"}, "store"), 125);
  EXPECT_EQ(images("prune", {"app"}, "store"), 0);
  EXPECT_THAT(out_, HasSubstr("0 images removed, 1 left"));
  EXPECT_EQ(images("list", {}, "nowhere"), 0);
  EXPECT_THAT(out_, HasSubstr("no images in"));
}

}  // namespace
}  // namespace supervise
