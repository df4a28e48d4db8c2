// When the supervisor looks into the journal's ring by itself. A thread that finds the ring half full stops for
// it, which costs it the stop and the time of the drain; so as long as much is written, the ring is emptied
// before that, while the threads go on. Pure: times are given.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace supervise {

class DrainPace {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::microseconds;

  static constexpr Duration kShortest{100}, kLongest{64000};
  static constexpr std::uint64_t kAim = 1 << 20;  // bytes in the ring at a look; with more the caches miss

  // A thread has stopped because the ring was filling, or looked at when it was due with `bytes` in it.
  void filling(Time now) {
    interval_ = kShortest;
    due_ = now + interval_;
  }
  void looked(Time now, std::uint64_t bytes) {
    if (interval_ >= kLongest && bytes < kAim / 16) {
      due_ = Time::max();  // who writes so little may as well stop once in a while
      return;
    }
    const auto wanted = bytes == 0 ? kLongest : Duration(static_cast<std::int64_t>(
        static_cast<double>(interval_.count()) * static_cast<double>(kAim) / static_cast<double>(bytes)));
    interval_ = std::clamp(std::min(wanted, interval_ * 2), kShortest, kLongest);
    due_ = now + interval_;
  }
  Time due() const { return due_; }  // Time::max(): not at all

 private:
  Duration interval_ = kShortest;
  Time due_ = Time::max();
};

}  // namespace supervise
