// A commit that fails or is killed at each of its steps, or has no room.
#include "tests/restore/ownership_fixture.h"

namespace supervise {
namespace {

using namespace test;
using testing::HasSubstr;

TEST(OwnershipStep, DISABLED_Commit) {
  const char* dir = getenv("STEP_IMAGE");
  if (!dir) GTEST_SKIP() << "part of OwnershipTest.EveryStepOfCommit*";
  Ownership own(std::string(dir) + "/..");
  auto s = own.commit(dir, {1, 1, HostIdentity::self(), unix_now_ns()});
  _exit(s.ok() ? 0 : s.error().err == ENOTRECOVERABLE ? 4 : 3);
}

TEST_F(OwnershipTest, EveryStepOfCommitCanFailAndIsThenNoCommit) {
  int n = 0;
  for (std::string step : {"commit.before", "commit.linked", "commit.synced"}) {
    std::string img = image(++n);
    int status = run_again("OwnershipStep.DISABLED_Commit",
                           {"STEP_IMAGE=" + img, "SUPERVISE_FAULT_POINTS=" + step + "=fail"});
    ASSERT_TRUE(WIFEXITED(status)) << step;
    EXPECT_EQ(WEXITSTATUS(status), 3) << step;
    EXPECT_FALSE(own_.committed(img).value().has_value()) << step;
    if (step != "commit.before") {
      EXPECT_EQ(err_of(own_.claim(img, 2)), EBUSY) << step;
    }
  }
}

TEST_F(OwnershipTest, WhenTakingBackFailsTooTheCommitIsInDoubt) {
  for (std::string step : {"commit.linked", "commit.synced"}) {
    std::string img = image(step[7]);
    int status = run_again("OwnershipStep.DISABLED_Commit",
                           {"STEP_IMAGE=" + img, "SUPERVISE_FAULT_POINTS=" + step + "=fail,retract.before=fail"});
    ASSERT_TRUE(WIFEXITED(status)) << step;
    EXPECT_EQ(WEXITSTATUS(status), 4) << step;
    EXPECT_TRUE(own_.committed(img).value().has_value());
  }
}

TEST_F(OwnershipTest, KilledAtEveryStepOfCommitItIsCommittedWhollyOrNot) {
  int n = 0;
  for (std::string step : {"commit.before", "commit.linked", "commit.synced"}) {
    std::string img = image(++n);
    int status = run_again("OwnershipStep.DISABLED_Commit",
                           {"STEP_IMAGE=" + img, "SUPERVISE_FAULT_POINTS=" + step + "=kill"});
    ASSERT_TRUE(WIFSIGNALED(status)) << step;
    auto c = own_.committed(img);
    ASSERT_TRUE(c.ok()) << step << c.error().message();
    EXPECT_EQ(c.value().has_value(), step != "commit.before") << step;
    EXPECT_TRUE(own_.claim(img, 2).ok()) << step;
  }
}

TEST_F(OwnershipTest, AFullStoreIsNoCommitAndNotInDoubt) {
  ScratchDir full;
  if (!full.mount_tmpfs("size=64k")) GTEST_SKIP() << "needs the privilege to mount a tmpfs (CAP_SYS_ADMIN)";
  std::string img = full / "gen-1";
  mkdir(img.c_str(), 0700);
  put(full / "filler", std::string(65536, 'x'));
  auto s = own_.commit(img, a_commit());
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, ENOSPC);
  EXPECT_THAT(s.error().message(), HasSubstr(img + "/commit.json"));
  EXPECT_FALSE(own_.committed(img).value().has_value());
}

}  // namespace
}  // namespace supervise
