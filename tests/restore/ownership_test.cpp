#include "restore/ownership.h"

#include <poll.h>

#include <set>

#include "restore/host_identity.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "tests/restore/test_support.h"

namespace supervise {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;

int err_of(const Status& s) { return s.ok() ? 0 : s.error().err; }

class OwnershipTest : public testing::Test {
 protected:
  void SetUp() override {
    image_ = d_ / "gen-000001";
    mkdir(image_.c_str(), 0700);
  }
  std::string image(int n) {
    std::string dir = d_ / ("gen-" + std::to_string(n));
    mkdir(dir.c_str(), 0700);
    return dir;
  }
  static Commit a_commit(std::uint64_t epoch = 1) {
    return {epoch, 1, HostIdentity::self(), unix_now_ns()};
  }
  void claim_by_dead(const std::string& img, const char* state) {
    pid_t pid = in_child([&] {
      Ownership o(d_.path());
      if (!o.claim(img, 1)) return 1;
      Claim c = *o.claimed(img).value();
      c.state = state;
      return o.update_claim(img, c).ok() ? 0 : 2;
    });
    ASSERT_EQ(wait_for(pid, Millis(5000)), 0);
  }
  // Rewrites the claim as if somebody else had made it.
  void forge(const std::function<void(Claim&)>& change) {
    Claim c = *own_.claimed(image_).value();
    change(c);
    Ownership o(d_.path());
    ASSERT_TRUE(write_file_durably(image_ + "/claim.json", forged_text(c)).ok());
  }
  static std::string forged_text(const Claim& c) {
    return "{\"epoch\":" + std::to_string(c.epoch) + ",\"owner\":" + identity_to_json(c.owner) +
           ",\"state\":\"" + c.state + "\",\"since_unix_ns\":0,\"first_io_unix_ns\":0}";
  }

  ScratchDir d_;
  Ownership own_ = patient(d_.path());
  std::string image_;

 private:
  // Fifty processes that sync take turns: the disk may be slow, and in use.
  static Ownership patient(const std::string& dir) {
    Ownership own(dir);
    own.lock_timeout = Millis(25000);
    return own;
  }
};

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

TEST_F(OwnershipTest, ProcessesThatRaiseTheEpochAtOnceGetDifferentOnes) {
  constexpr int kProcesses = 10, kEach = 20;
  std::vector<pid_t> pids;
  for (int p = 0; p < kProcesses; ++p) {
    pids.push_back(in_child([&] {
      for (int i = 0; i < kEach; ++i) {
        auto e = own_.raise_epoch();
        if (!e || !write_file_durably(d_ / ("got-" + std::to_string(*e) + "-" + std::to_string(getpid())), "")) return 1;
      }
      return 0;
    }));
  }
  for (pid_t pid : pids) EXPECT_EQ(wait_for(pid, Millis(30000)), 0);
  EXPECT_EQ(own_.epoch().value(), std::uint64_t{kProcesses * kEach});
  std::set<std::string> numbers;
  auto names = names_in(d_.path()).value();
  for (const auto& n : names) {
    if (!n.starts_with("got-")) continue;
    EXPECT_TRUE(numbers.insert(n.substr(4, n.rfind('-') - 4)).second) << n;
  }
  EXPECT_EQ(numbers.size(), std::size_t{kProcesses * kEach});
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

#ifdef __SANITIZE_ADDRESS__
constexpr int kSlower = 5;  // a fork of an instrumented program is dear
#else
constexpr int kSlower = 1;
#endif

// All wait at a pipe, all claim at once, all stay alive until everybody has an answer.
int winners(Ownership& own, const std::string& img, int processes) {
  int go[2], stay[2], answer[2];
  if (pipe(go) || pipe(stay) || pipe(answer)) return -1;
  std::vector<pid_t> pids;
  for (int p = 0; p < processes; ++p) {
    pids.push_back(in_child([&] {
      close(go[1]);
      close(stay[1]);
      char c;
      (void)!read(go[0], &c, 1);
      auto s = own.claim(img, 5);
      c = s.ok() ? 'w' : s.error().err == EBUSY ? 'l' : 'e';
      (void)!write(answer[1], &c, 1);
      (void)!read(stay[0], &c, 1);
      return 0;
    }));
  }
  close(go[0]);
  close(go[1]);
  int won = 0, answers = 0;
  auto deadline = Deadline::in(Millis(20000));
  while (answers < processes && !deadline.passed()) {
    pollfd p{answer[0], POLLIN, 0};
    char c;
    if (poll(&p, 1, deadline.left_ms()) != 1 || read(answer[0], &c, 1) != 1) break;
    ++answers;
    if (c == 'w') ++won;
    if (c == 'e') won += 1000;
  }
  close(stay[0]);
  close(stay[1]);
  for (pid_t pid : pids) wait_for(pid, Millis(5000));
  close(answer[0]);
  close(answer[1]);
  return answers == processes ? won : -answers;
}

TEST_F(OwnershipTest, OfFiftyExactlyOneWinsAFreshImage) {
  for (int round = 0; round < 25 / kSlower; ++round) ASSERT_EQ(winners(own_, image(round), 50), 1) << round;
}

TEST_F(OwnershipTest, OfFiftyExactlyOneTakesOverFromTheDead) {
  for (int round = 0; round < 15 / kSlower; ++round) {
    std::string img = image(round);
    claim_by_dead(img, "claimed");
    ASSERT_EQ(winners(own_, img, 50), 1) << round;
  }
}

TEST_F(OwnershipTest, CommitAndRetractAgainstSixClaims) {
  // Whoever wins, never both: the origin goes on only when the retraction succeeded.
  int retracted = 0, taken = 0;
  for (int round = 0; round < 30; ++round) {
    std::string img = image(round);
    ASSERT_TRUE(own_.commit(img, a_commit()).ok());
    std::vector<pid_t> pids;
    for (int p = 0; p < 6; ++p) {
      pids.push_back(in_child([&, p] {
        usleep(static_cast<useconds_t>(p * 150));
        return own_.claim(img, 2).ok() ? 1 : 0;
      }));
    }
    usleep(static_cast<useconds_t>(round * 60));
    bool origin = own_.retract(img).ok();
    int successors = 0;
    for (pid_t pid : pids) successors += WEXITSTATUS(wait_for(pid, Millis(5000)));
    if (origin) {
      EXPECT_EQ(successors, 0) << round;
      EXPECT_FALSE(own_.committed(img).value().has_value());
    } else {
      EXPECT_GE(successors, 1) << round;  // more than one only after the former winner's death
      EXPECT_TRUE(own_.committed(img).value().has_value());
    }
    (origin ? retracted : taken)++;
  }
  RecordProperty("retracted", retracted);
  RecordProperty("taken", taken);
}

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

HostIdentity somebody_else() {
  HostIdentity who = HostIdentity::self();
  who.host = "elsewhere";
  return who;
}

TEST_F(OwnershipTest, EachActivationTakesTheNextSlot) {
  Ownership o(d_.path());
  const auto self = HostIdentity::self();
  EXPECT_EQ(o.free_slots(image_, 3), 3);
  EXPECT_EQ(o.claim_slot(image_, 3, somebody_else()).value_or(0), 1);
  EXPECT_EQ(o.claim_slot(image_, 3, self).value_or(0), 2);
  EXPECT_EQ(o.claim_slot(image_, 3, self).value_or(0), 2) << "asked again by the same process";
  Claim claim = *o.slot_claimed(image_, 2).value();
  claim.state = "running";
  ASSERT_TRUE(o.update_slot(image_, 2, claim).ok());
  EXPECT_EQ(o.free_slots(image_, 3), 1);
  auto third = somebody_else();
  third.pid += 1;
  EXPECT_EQ(o.claim_slot(image_, 3, third).value_or(0), 3);
  const auto full = o.claim_slot(image_, 3, self);
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.error().err, EBUSY);
  EXPECT_THAT(full.error().what, AllOf(HasSubstr("host elsewhere"), HasSubstr("since 20")));
  EXPECT_TRUE(o.in_use(image_));
  EXPECT_TRUE(o.claimed(image_).value().has_value()) << "slot 1 is the claim that everybody reads";
}

TEST_F(OwnershipTest, ASlotIsGivenBackByItsOwnerUnlessItRan) {
  Ownership o(d_.path());
  const auto self = HostIdentity::self();
  ASSERT_EQ(o.claim_slot(image_, 1, self).value_or(0), 1);
  ASSERT_TRUE(o.release_slot(image_, 1, somebody_else()).ok());
  EXPECT_EQ(o.claim_slot(image_, 1, somebody_else()).ok(), false);
  ASSERT_TRUE(o.release_slot(image_, 1, self).ok());
  ASSERT_EQ(o.claim_slot(image_, 1, self).value_or(0), 1);
  Claim claim = *o.slot_claimed(image_, 1).value();
  claim.state = "ended";
  ASSERT_TRUE(o.update_slot(image_, 1, claim).ok());
  ASSERT_TRUE(o.release_slot(image_, 1, self).ok());
  EXPECT_EQ(o.claim_slot(image_, 1, self).error().err, EALREADY);
  EXPECT_FALSE(o.in_use(image_));
}

TEST_F(OwnershipTest, ClaimsAreFreedUnlessAnOwnerMayBeAlive) {
  Ownership o(d_.path());
  const auto self = HostIdentity::self();
  EXPECT_EQ(o.free_claims(image_, false).value_or(-1), 0);
  ASSERT_EQ(o.claim_slot(image_, 2, self).value_or(0), 1);
  ASSERT_EQ(o.claim_slot(image_, 2, somebody_else()).value_or(0), 2);
  for (bool force : {false, true}) {
    EXPECT_EQ(o.free_claims(image_, force).error().err, EBUSY) << "we are alive";
    EXPECT_TRUE(o.slot_claimed(image_, 2).value().has_value()) << "nothing is removed then";
  }
  Claim claim = *o.slot_claimed(image_, 1).value();
  claim.state = "ended";
  ASSERT_TRUE(o.update_slot(image_, 1, claim).ok());
  const auto unknown = o.free_claims(image_, false);
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(unknown.error().message(), AllOf(HasSubstr("host elsewhere"), HasSubstr("--force")));
  EXPECT_EQ(o.free_claims(image_, true).value_or(-1), 2);
  EXPECT_EQ(o.free_slots(image_, 2), 2);
}

TEST_F(OwnershipTest, AHandOversClaimIsFreedOnlyWhenForced) {
  Ownership o(d_.path());
  ASSERT_TRUE(o.commit(image_, {1, 1, somebody_else(), 5}).ok());
  ASSERT_TRUE(o.claim(image_, 1).ok());
  Claim claim = *o.claimed(image_).value();
  claim.state = "ended";
  ASSERT_TRUE(o.update_claim(image_, claim).ok());
  EXPECT_EQ(o.free_claims(image_, false).error().err, EBUSY);
  EXPECT_EQ(o.free_claims(image_, true).value_or(-1), 1);
  const std::string taken_back = d_.path() + "/gen-000009";
  ASSERT_EQ(mkdir(taken_back.c_str(), 0755), 0);
  ASSERT_TRUE(o.retract(taken_back).ok());
  EXPECT_EQ(o.free_claims(taken_back, true).error().err, EBUSY) << "its origin goes on";
}

TEST_F(OwnershipTest, ASlotOfADeadProcessThatNeverRanIsTaken) {
  Ownership o(d_.path());
  const pid_t pid = in_child([&] {
    Ownership mine(d_.path());
    return mine.claim_slot(image_, 1, HostIdentity::self()).ok() ? 0 : 1;
  });
  ASSERT_EQ(wait_for(pid, Millis(20000)), 0);
  EXPECT_EQ(o.free_slots(image_, 1), 1);
  EXPECT_EQ(o.claim_slot(image_, 1, HostIdentity::self()).value_or(0), 1);
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
