#include "supervisor/standby_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace supervise {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

SeenImage image(std::uint64_t generation) {
  SeenImage i;
  i.generation = generation;
  i.dir = "/s/gen-" + std::to_string(generation);
  i.stamp = std::to_string(generation);
  i.origin = "a";
  i.created_unix_ns = static_cast<std::int64_t>(generation) * 100;
  i.free_slots = 9;
  return i;
}

CopyView copy(int id, std::uint64_t generation, CopyState state) {
  return {id, generation, "a", static_cast<std::int64_t>(generation) * 100, state};
}

TEST(StandbyPlan, PreparesTheNewestImage) {
  StandbyView v;
  v.images = {image(1), image(2)};
  const auto step = plan_standby(v);
  ASSERT_TRUE(step.prepare);
  EXPECT_EQ(step.prepare->generation, 2u);
  EXPECT_THAT(step.end, IsEmpty());
}

TEST(StandbyPlan, NothingToDoWhileItIsPreparedOrReady) {
  for (auto state : {CopyState::Preparing, CopyState::Ready}) {
    StandbyView v;
    v.images = {image(1)};
    v.copies = {copy(1, 1, state)};
    const auto step = plan_standby(v);
    EXPECT_FALSE(step.prepare);
    EXPECT_THAT(step.end, IsEmpty());
  }
}

TEST(StandbyPlan, ANewerImageIsPreparedBesideTheOldAndThenTakesItsPlace) {
  StandbyView v;
  v.images = {image(1), image(2)};
  v.copies = {copy(1, 1, CopyState::Ready)};
  auto step = plan_standby(v);
  ASSERT_TRUE(step.prepare);
  EXPECT_EQ(step.prepare->generation, 2u);
  EXPECT_THAT(step.end, IsEmpty());
  v.copies.push_back(copy(2, 2, CopyState::Preparing));
  step = plan_standby(v);
  EXPECT_FALSE(step.prepare);
  EXPECT_THAT(step.end, IsEmpty());
  v.copies[1].state = CopyState::Ready;
  EXPECT_THAT(plan_standby(v).end, ElementsAre(1));
}

TEST(StandbyPlan, WhatWasRefusedLeavesTheLastGoodOneReady) {
  StandbyView v;
  v.images = {image(1), image(2)};
  v.refused = {"2"};
  v.copies = {copy(1, 1, CopyState::Ready)};
  auto step = plan_standby(v);
  EXPECT_FALSE(step.prepare);
  EXPECT_THAT(step.end, IsEmpty());
  v.copies.clear();
  step = plan_standby(v);
  ASSERT_TRUE(step.prepare);
  EXPECT_EQ(step.prepare->generation, 1u);
}

TEST(StandbyPlan, AnImageThatWasMadeEarlierIsRefusedThoughItCameLater) {
  StandbyView v;
  v.images = {image(3), image(4)};
  v.images[1].created_unix_ns = 250;
  v.copies = {copy(1, 3, CopyState::Ready)};
  auto step = plan_standby(v);
  EXPECT_FALSE(step.prepare);
  ASSERT_EQ(step.refuse.size(), 1u);
  EXPECT_EQ(step.refuse[0].image.generation, 4u);
  EXPECT_THAT(step.refuse[0].reason, HasSubstr("before the image of generation 3"));
  v.images[1].origin = "c";  // clocks of two hosts
  EXPECT_TRUE(plan_standby(v).prepare);
}

TEST(StandbyPlan, ImagesOfAHandoverAreNeverPrepared) {
  StandbyView v;
  v.images = {image(1), image(2)};
  v.images[1].handover = true;
  const auto step = plan_standby(v);
  ASSERT_TRUE(step.prepare);
  EXPECT_EQ(step.prepare->generation, 1u);
}

TEST(StandbyPlan, BrokenOnesAreToldOnce) {
  StandbyView v;
  v.images = {image(1)};
  v.images[0].broken = "has no manifest";
  ASSERT_EQ(plan_standby(v).refuse.size(), 1u);
  v.refused = {"1"};
  EXPECT_THAT(plan_standby(v).refuse, IsEmpty());
}

TEST(StandbyPlan, NothingIsPreparedWhenAllInstancesRun) {
  StandbyView v;
  v.images = {image(1), image(2)};
  v.copies = {copy(1, 1, CopyState::Running)};
  EXPECT_FALSE(plan_standby(v).prepare);
  v.instances = 2;
  EXPECT_TRUE(plan_standby(v).prepare);
}

TEST(StandbyPlan, InstancesArePreparedOneAfterTheOtherAsFarAsSlotsAndClashesAllow) {
  StandbyView v;
  v.images = {image(1)};
  v.instances = 3;
  v.copies = {copy(1, 1, CopyState::Ready)};
  EXPECT_TRUE(plan_standby(v).prepare);
  v.copies.push_back(copy(2, 1, CopyState::Preparing));
  EXPECT_FALSE(plan_standby(v).prepare);
  v.copies[1].state = CopyState::Ready;
  EXPECT_TRUE(plan_standby(v).prepare);
  v.images[0].free_slots = 2;
  EXPECT_FALSE(plan_standby(v).prepare);
  v.images[0].free_slots = 3;
  v.most[1] = 1;
  EXPECT_FALSE(plan_standby(v).prepare);
}

TEST(StandbyPlan, InstancesAreSwappedOneForOne) {
  StandbyView v;
  v.images = {image(1), image(2)};
  v.instances = 2;
  v.copies = {copy(1, 1, CopyState::Ready), copy(2, 1, CopyState::Ready), copy(3, 2, CopyState::Ready)};
  auto step = plan_standby(v);
  EXPECT_EQ(step.end.size(), 1u);
  ASSERT_TRUE(step.prepare);
  EXPECT_EQ(step.prepare->generation, 2u);
  v.copies = {copy(1, 1, CopyState::Ready), copy(3, 2, CopyState::Ready)};
  EXPECT_THAT(plan_standby(v).end, IsEmpty());
  v.most[2] = 1;  // the new one can be here once only: the old one is not the same application's state
  EXPECT_THAT(plan_standby(v).end, ElementsAre(1));
}

TEST(StandbyPlan, WakesTheNewest) {
  EXPECT_FALSE(copy_to_wake({copy(1, 1, CopyState::Preparing), copy(2, 1, CopyState::Running)}));
  EXPECT_EQ(copy_to_wake({copy(1, 1, CopyState::Ready), copy(2, 2, CopyState::Ready), copy(3, 3, CopyState::Preparing)}), 2);
}

// From any state, whatever is ready in the end is the newest that is good, and at no step is there less
// ready than before once something was.
TEST(StandbyPlan, NeverWithoutAReadyOne) {
  for (unsigned seed = 1; seed <= 2000; ++seed) {
    unsigned state = seed * 2654435761u;
    const auto random = [&](unsigned n) {
      state = state * 1664525u + 1013904223u;
      return (state >> 8) % n;
    };
    StandbyView v;
    v.instances = 1 + static_cast<int>(random(3));
    int next_id = 0;
    std::uint64_t generation = 0;
    bool was_ready = false;
    for (int turn = 0; turn < 60; ++turn) {
      if (random(5) == 0) v.images.push_back(image(++generation));
      const auto step = plan_standby(v);
      for (const int id : step.end)
        std::erase_if(v.copies, [&](const CopyView& c) { return c.id == id; });
      if (step.prepare) v.copies.push_back(copy(++next_id, step.prepare->generation, CopyState::Preparing));
      for (auto& c : v.copies) {
        if (c.state != CopyState::Preparing || random(2) != 0) continue;
        if (random(4) == 0) v.refused.insert(std::to_string(c.generation));
        else c.state = CopyState::Ready;
      }
      std::erase_if(v.copies, [&](const CopyView& c) {
        return c.state == CopyState::Preparing && v.refused.contains(std::to_string(c.generation));
      });
      const bool ready = copy_to_wake(v.copies).has_value();
      EXPECT_TRUE(ready || !was_ready) << "seed " << seed;
      was_ready = ready;
    }
  }
}

Manifest manifest() {
  Manifest m;
  m.app_name = "app";
  m.machine = "x86_64";
  m.criu_version = "4.2.1";
  m.cpu_flags = {"avx", "sse2"};
  return m;
}

TEST(StandbyPlan, ForeignImages) {
  const HostFacts here{"6.18", "x86_64", "b", {"avx", "avx2", "sse2"}};
  EXPECT_FALSE(why_foreign(manifest(), "app", here, "4.2.1"));
  EXPECT_FALSE(why_foreign(manifest(), "app", here, "4.10"));
  EXPECT_THAT(*why_foreign(manifest(), "other", here, "4.2.1"), HasSubstr("application app"));
  EXPECT_THAT(*why_foreign(manifest(), "app", here, "4.1"), HasSubstr("CRIU 4.2.1"));
  auto m = manifest();
  m.machine = "aarch64";
  EXPECT_THAT(*why_foreign(m, "app", here, "4.2.1"), HasSubstr("aarch64"));
  m = manifest();
  m.cpu_flags.push_back("avx512f");
  EXPECT_THAT(*why_foreign(m, "app", here, "4.2.1"), HasSubstr("lacks: avx512f"));
}

}  // namespace
}  // namespace supervise
