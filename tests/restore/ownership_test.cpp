// Who a process is, the epoch, and an image's commit, retraction and claim.
#include "tests/restore/ownership_fixture.h"

namespace supervise {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;

TEST_F(OwnershipTest, SelfIsAliveAndItsStartTimeIsTheKernels) {
  auto self = HostIdentity::self();
  EXPECT_EQ(self.pid, getpid());
  EXPECT_EQ(liveness_of(self), Liveness::Alive);
  auto other = self;
  ++other.start_time;
  EXPECT_EQ(liveness_of(other), Liveness::Gone);
  other = self;
  other.boot_id = "another";
  EXPECT_EQ(liveness_of(other), Liveness::Unknown);
  other = self;
  other.host += "x";
  EXPECT_EQ(liveness_of(other), Liveness::Unknown);
  other = self;
  ++other.pid_namespace;
  EXPECT_EQ(liveness_of(other), Liveness::Unknown);
  pid_t zombie = in_child([] { return 0; });
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(start_time_of(zombie).has_value());
  wait_for(zombie, Millis(1000));
}

TEST_F(OwnershipTest, EpochOnlyGrows) {
  EXPECT_EQ(own_.epoch().value(), 0u);
  for (std::uint64_t i = 1; i < 5; ++i) {
    EXPECT_EQ(own_.raise_epoch().value(), i);
    EXPECT_EQ(own_.epoch().value(), i);
  }
  put(d_ / "epoch", "seven");
  auto e = own_.raise_epoch();
  ASSERT_FALSE(e.ok());
  EXPECT_THAT(e.error().message(), HasSubstr("/epoch does not hold a number"));
}

TEST_F(OwnershipTest, RaisingHasADeadline) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t holder = in_child([&] {
    int fd = open((d_ / ".epoch.lock").c_str(), O_RDWR | O_CREAT, 0600);
    struct flock l{};
    l.l_type = F_WRLCK;
    if (fcntl(fd, F_OFD_SETLK, &l) != 0) return 1;
    (void)!write(ready[1], "x", 1);
    for (;;) pause();
    return 0;
  });
  char c;
  ASSERT_EQ(read(ready[0], &c, 1), 1);
  own_.lock_timeout = Millis(50);
  auto e = own_.raise_epoch();
  ASSERT_FALSE(e.ok());
  EXPECT_EQ(e.error().err, ETIMEDOUT);
  EXPECT_THAT(e.error().message(), HasSubstr(".epoch.lock"));
  kill(holder, SIGKILL);
  wait_for(holder, Millis(1000));
  EXPECT_EQ(own_.raise_epoch().value(), 1u);
}

TEST_F(OwnershipTest, CommitIsOnceAndReadable) {
  EXPECT_FALSE(own_.committed(image_).value().has_value());
  auto c = a_commit(7);
  ASSERT_TRUE(own_.commit(image_, c).ok());
  ASSERT_TRUE(own_.commit(image_, c).ok()) << "asking again is harmless";
  auto read = own_.committed(image_).value();
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->epoch, 7u);
  EXPECT_EQ(read->committed_unix_ns, c.committed_unix_ns);
  EXPECT_TRUE(same_process(read->origin, c.origin));
  auto other = own_.commit(image_, a_commit(8));
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().err, EEXIST);
  EXPECT_EQ(own_.committed(image_).value()->epoch, 7u);
}

TEST_F(OwnershipTest, ADamagedRecordIsAnErrorNotAnAbsence) {
  put(image_ + "/commit.json", "{\"epoch\": 1");
  auto c = own_.committed(image_);
  ASSERT_FALSE(c.ok());
  EXPECT_THAT(c.error().message(), HasSubstr("commit.json: the JSON ends too early"));
  put(image_ + "/claim.json", "{}");
  EXPECT_THAT(own_.claimed(image_).error().message(), HasSubstr("claim.json: member epoch is missing"));
  EXPECT_FALSE(own_.claim(image_, 1).ok());
}

TEST_F(OwnershipTest, ARetractedCommitCanNeverBeClaimed) {
  ASSERT_TRUE(own_.commit(image_, a_commit()).ok());
  ASSERT_TRUE(own_.retract(image_).ok());
  ASSERT_TRUE(own_.retract(image_).ok()) << "asking again is harmless";
  EXPECT_FALSE(own_.committed(image_).value().has_value());
  pid_t other = in_child([&] { return err_of(own_.claim(image_, 2, true)); });
  EXPECT_EQ(WEXITSTATUS(wait_for(other, Millis(5000))), EBUSY);
}

TEST_F(OwnershipTest, AClaimedImageCanNotBeRetracted) {
  ASSERT_TRUE(own_.commit(image_, a_commit()).ok());
  ASSERT_TRUE(own_.claim(image_, 2).ok());
  auto r = own_.retract(image_);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().err, EBUSY);
  EXPECT_TRUE(own_.committed(image_).value().has_value());
}

TEST_F(OwnershipTest, AClaimNamesItsOwner) {
  pid_t owner = in_child([&] {
    if (!own_.claim(image_, 3)) return 1;
    for (;;) pause();
    return 0;
  });
  auto deadline = Deadline::in(Millis(5000));
  while (!own_.claimed(image_).value() && !deadline.passed()) usleep(1000);
  auto s = own_.claim(image_, 3);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, EBUSY);
  EXPECT_THAT(s.error().message(), AllOf(HasSubstr("pid " + std::to_string(owner)),
                                         HasSubstr("epoch 3"), HasSubstr("alive")));
  kill(owner, SIGKILL);
  wait_for(owner, Millis(1000));
  EXPECT_TRUE(own_.claim(image_, 4).ok()) << "its owner is dead, and nothing ran";
  EXPECT_EQ(own_.claimed(image_).value()->owner.pid, getpid());
  EXPECT_EQ(own_.claimed(image_).value()->epoch, 4u);
}

TEST_F(OwnershipTest, AClaimOfAnotherHostBootOrNamespaceIsNeverTakenOver) {
  claim_by_dead(image_, "claimed");
  Claim dead = *own_.claimed(image_).value();
  for (auto change : {+[](Claim& c) { c.owner.host += "-b"; }, +[](Claim& c) { c.owner.boot_id = "x"; },
                      +[](Claim& c) { ++c.owner.pid_namespace; }}) {
    forge([&](Claim& c) {
      c = dead;
      change(c);
    });
    auto s = own_.claim(image_, 2, true);
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().err, EBUSY);
    EXPECT_THAT(s.error().message(), HasSubstr("when that host is fenced, `supervise images free " + image_ + " --force`"));
  }
  forge([&](Claim& c) { c = dead; });
  EXPECT_TRUE(own_.claim(image_, 2).ok());
}

TEST_F(OwnershipTest, AReusedPidIsNotTheOwner) {
  ASSERT_TRUE(own_.claim(image_, 1).ok());
  forge([](Claim& c) { --c.owner.start_time; });
  EXPECT_TRUE(own_.claim(image_, 2).ok());
}

TEST_F(OwnershipTest, WhatHasRunIsNotRunAgainUnlessAskedFor) {
  for (const char* state : {"running", "ended"}) {
    std::string img = image(state[0]);
    claim_by_dead(img, state);
    auto s = own_.claim(img, 2);
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().err, EALREADY) << state;
    EXPECT_THAT(s.error().message(), HasSubstr("the application has run from it"));
    EXPECT_TRUE(own_.claim(img, 2, true).ok()) << state;
  }
}

TEST_F(OwnershipTest, GivenBackItCanBeTakenByAnyHost) {
  ASSERT_TRUE(own_.claim(image_, 1).ok());
  pid_t other = in_child([&] { return err_of(own_.release(image_)); });
  EXPECT_EQ(WEXITSTATUS(wait_for(other, Millis(5000))), EPERM);
  ASSERT_TRUE(own_.release(image_).ok());
  EXPECT_FALSE(own_.claimed(image_).value().has_value());
  ASSERT_TRUE(own_.claim(image_, 2).ok());
  Claim c = *own_.claimed(image_).value();
  c.state = "running";
  c.first_io_unix_ns = 12;
  ASSERT_TRUE(own_.update_claim(image_, c).ok());
  EXPECT_EQ(own_.claimed(image_).value()->first_io_unix_ns, 12);
  EXPECT_EQ(err_of(own_.release(image_)), EALREADY);
}

TEST_F(OwnershipTest, OnlyTheOwnerUpdates) {
  ASSERT_TRUE(own_.claim(image_, 1).ok());
  Claim mine = *own_.claimed(image_).value();
  Claim other = mine;
  other.owner.pid = 1;
  EXPECT_EQ(err_of(own_.update_claim(image_, other)), EPERM);
  other = mine;
  other.epoch = 9;
  EXPECT_EQ(err_of(own_.update_claim(image_, other)), EPERM);
  EXPECT_TRUE(own_.update_claim(image_, mine).ok());
  EXPECT_EQ(err_of(own_.update_claim(image(5), mine)), EPERM);
}

TEST_F(OwnershipTest, TheNewestCommittedImageCountsWhateverWasMadeSince) {
  EXPECT_EQ(own_.newest_committed().value_or("?"), "");
  for (const char* name : {"gen-000001", "gen-000002", "gen-000003"}) {
    mkdir((d_ / name).c_str(), 0700);
    ASSERT_TRUE(write_file_durably(d_ / name + "/manifest.json", "{}").ok());
  }
  EXPECT_EQ(own_.newest_committed().value_or("?"), "");
  ASSERT_TRUE(own_.commit(d_ / "gen-000001", a_commit(1)).ok());
  EXPECT_EQ(own_.newest_committed().value_or("?"), d_ / "gen-000001");
  ASSERT_TRUE(own_.commit(d_ / "gen-000002", a_commit(2)).ok());
  EXPECT_EQ(own_.newest_committed().value_or("?"), d_ / "gen-000002");
}

}  // namespace
}  // namespace supervise
