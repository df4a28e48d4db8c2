// Deadlines on CLOCK_MONOTONIC. Every wait of the program takes one.
#pragma once

#include <algorithm>
#include <chrono>

namespace supervise {

using Clock = std::chrono::steady_clock;
using Millis = std::chrono::milliseconds;

class Deadline {
 public:
  static Deadline in(Millis d) { return Deadline(Clock::now() + d); }
  explicit Deadline(Clock::time_point at) : at_(at) {}

  bool passed() const { return Clock::now() >= at_; }
  Clock::time_point at() const { return at_; }
  // Milliseconds left, never negative, rounded up: fit for poll(2).
  int left_ms() const {
    auto d = std::chrono::ceil<Millis>(at_ - Clock::now()).count();
    return static_cast<int>(std::clamp<long long>(d, 0, 1 << 30));
  }

 private:
  Clock::time_point at_;
};

inline double ms_between(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double, std::milli>(b - a).count();
}

}  // namespace supervise
