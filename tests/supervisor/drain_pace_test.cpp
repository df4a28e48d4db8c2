#include "supervisor/drain_pace.h"

#include <gtest/gtest.h>

namespace supervise {
namespace {

using namespace std::chrono_literals;
using Time = DrainPace::Time;

TEST(DrainPace, LooksAtNothingUntilTheRingWasFilling) {
  DrainPace pace;
  EXPECT_EQ(pace.due(), Time::max());
  pace.filling(Time(5s));
  EXPECT_EQ(pace.due(), Time(5s) + DrainPace::kShortest);
}

TEST(DrainPace, FindsTheIntervalAtWhichTheRingHoldsWhatItAimsFor) {
  DrainPace pace;
  pace.filling(Time(0s));
  const double rate = 100e6;  // bytes a second
  Time now(0s);
  std::uint64_t bytes = 0;
  for (int i = 0; i < 50; ++i) {
    bytes = static_cast<std::uint64_t>(rate * std::chrono::duration<double>(pace.due() - now).count());
    now = pace.due();
    pace.looked(now, bytes);
  }
  EXPECT_NEAR(static_cast<double>(bytes), static_cast<double>(DrainPace::kAim), DrainPace::kAim / 10.0);
}

TEST(DrainPace, IsAtOnceQuickWhenMoreComes) {
  DrainPace pace;
  pace.filling(Time(0s));
  for (int i = 0; i < 20; ++i) pace.looked(Time(1s), DrainPace::kAim / 8);
  pace.looked(Time(2s), DrainPace::kAim * 1024);
  EXPECT_EQ(pace.due(), Time(2s) + DrainPace::kShortest);
}

TEST(DrainPace, RestsWhenLittleIsWritten) {
  DrainPace pace;
  pace.filling(Time(0s));
  int looks = 0;
  while (pace.due() != Time::max() && looks < 100) {
    pace.looked(pace.due(), 100);
    ++looks;
  }
  EXPECT_LT(looks, 15);
  EXPECT_EQ(pace.due(), Time::max());
}

}  // namespace
}  // namespace supervise
