// Slots of an image that is activated several times, and claims that are freed.
#include "tests/restore/ownership_fixture.h"

namespace supervise {
namespace {

using namespace test;
using testing::AllOf;
using testing::HasSubstr;

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

TEST_F(OwnershipTest, ASlotGoesFromItsOwnerToWhoGoesOnInItsPlace) {
  Ownership o(d_.path());
  const auto former = HostIdentity::self();
  auto keeper = former, stranger = former;
  keeper.pid += 1;
  stranger.pid += 2;
  ASSERT_EQ(o.claim_slot(image_, 2, former, 2).value_or(0), 2);
  Claim claim = *o.slot_claimed(image_, 2).value();
  claim.owner = keeper;
  claim.state = "running";
  EXPECT_EQ(o.update_slot(image_, 2, claim).error().err, EPERM);
  EXPECT_EQ(o.update_slot(image_, 2, claim, &stranger).error().err, EPERM);
  ASSERT_TRUE(o.update_slot(image_, 2, claim, &former).ok());
  EXPECT_EQ(o.slot_claimed(image_, 2).value()->owner.pid, keeper.pid);
  EXPECT_TRUE(o.update_slot(image_, 2, claim, &former).ok()) << "told twice";
  claim.owner = former;
  EXPECT_EQ(o.update_slot(image_, 2, claim).error().err, EPERM) << "it is no longer its own";
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

}  // namespace
}  // namespace supervise
