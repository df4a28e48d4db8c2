// What is learned of call sites, and when a process is patched for it.
#include <gtest/gtest.h>

#include "tracer/stub/known.h"

namespace supervise::stub {
namespace {

constexpr std::uint64_t kBegin = 0x7f0000001000, kElsewhere = 0x7e0000005000;
constexpr KnownCode::Id kFile{1, 2, 0x1000};

CodeAround code(std::uint8_t seed) {
  CodeAround c{};
  for (std::size_t i = 0; i < c.size(); ++i) c[i] = static_cast<std::uint8_t>(seed + i);
  return c;
}

TEST(KnownCode, FindsASiteAgainWhereverItsFileIsMapped) {
  KnownCode known;
  KnownSegment* segment = nullptr;
  known.learn(kFile, kBegin, kBegin + 0x123, 3, code(1), &segment);
  KnownSegment* found = nullptr;
  const KnownSite* site = known.find(kElsewhere + 0x123, code(1), &found);
  ASSERT_NE(site, nullptr);
  EXPECT_EQ(found, segment);
  EXPECT_EQ(site->nr, 3);
  EXPECT_EQ(known.find(kElsewhere + 0x124, code(1), &found), nullptr) << "another place in the page";
  EXPECT_EQ(known.find(kElsewhere + 0x123, code(2), &found), nullptr) << "other code";
}

TEST(KnownCode, ForgetsAFileThatHasChanged) {
  KnownCode known;
  KnownSegment* segment = nullptr;
  known.learn(kFile, kBegin, kBegin + 0x123, 3, code(1), &segment);
  known.learn(kFile, kBegin, kBegin + 0x456, 4, code(2), &segment);
  known.learn_entry(*segment, kBegin, kBegin + 0x10, code(9));
  known.learn(kFile, kBegin, kBegin + 0x123, 3, code(3), &segment);
  KnownSegment* found = nullptr;
  EXPECT_EQ(known.find(kBegin + 0x456, code(2), &found), nullptr);
  EXPECT_EQ(known.find(kBegin + 0x123, code(1), &found), nullptr);
  EXPECT_NE(known.find(kBegin + 0x123, code(3), &found), nullptr);
  EXPECT_FALSE(known.start(kBegin + 0x10, code(9)));
}

TEST(KnownCode, ASiteIsHotWhenProcessesComeBackToIt) {
  KnownCode known;
  KnownSegment* segment = nullptr;
  KnownSite& often = known.learn(kFile, kBegin, kBegin + 0x100, 0, code(1), &segment);
  KnownSite& once = known.learn(kFile, kBegin, kBegin + 0x200, 1, code(2), &segment);
  for (int process = 0; process < 20; ++process) {
    KnownCode::stopped(*segment, often, true, true, true);
    KnownCode::stopped(*segment, often, false, false, true);
    KnownCode::stopped(*segment, once, true, false, true);
  }
  EXPECT_TRUE(often.hot);
  EXPECT_TRUE(often.common);
  EXPECT_FALSE(once.hot);
  EXPECT_FALSE(once.common);
}

TEST(KnownCode, AProgramIsStartedWithItsSitesWhenItHasManyStopsThere) {
  KnownCode known;
  KnownSegment* segment = nullptr;
  KnownSite& site = known.learn(kFile, kBegin, kBegin + 0x100, 0, code(1), &segment);
  known.learn_entry(*segment, kBegin, kBegin + 0x10, code(9));
  const auto start = known.start(kElsewhere + 0x10, code(9));
  ASSERT_TRUE(start);
  EXPECT_EQ(start->base, kElsewhere);
  KnownCode::stopped(*segment, site, true, true, true);
  EXPECT_FALSE(KnownCode::worth_starting(*segment));
  for (int i = 0; i < 5; ++i) KnownCode::stopped(*segment, site, false, false, true);
  EXPECT_TRUE(site.at_start);
  EXPECT_TRUE(KnownCode::worth_starting(*segment));
  segment->starts = segment->plain_starts = 10;
  EXPECT_FALSE(KnownCode::worth_starting(*segment)) << "six stops in ten programs";
}

}  // namespace
}  // namespace supervise::stub
