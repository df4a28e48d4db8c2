#include "supervisor/recovery.h"

#include <algorithm>

namespace supervise {
namespace {

constexpr Millis kFirstPause{100};
constexpr Millis kLongestPause{1000};

bool alternate_follows(const Ladder& ladder, std::size_t rung, const Surroundings& around) {
  return around.alternate_available &&
         std::any_of(ladder.begin() + static_cast<std::ptrdiff_t>(rung), ladder.end(),
                     [](const Rung& r) { return r.kind == RungKind::Alternate; });
}

// 100, 200, 400, 800, 1000, 1000... ms: the pause that follows after having waited so long.
Millis next_pause(Millis waited) { return std::min(waited + kFirstPause, kLongestPause); }

}  // namespace

NextStep next_step(const Ladder& ladder, CallKind kind, const Attempts& before,
                   const Surroundings& around) {
  const Act again = kind == CallKind::Ordinary ? Act::RunAgain : Act::ReplayRunAgain;
  Attempts now = before;
  for (; now.rung < ladder.size(); ++now.rung, now.retries = 0, now.waited = Millis{0}) {
    const Rung& rung = ladder[now.rung];
    switch (rung.kind) {
      case RungKind::Retry: {
        // The data of a failed fsync may be gone from this path for good: another one is better.
        bool pointless =
            kind != CallKind::Ordinary && alternate_follows(ladder, now.rung, around);
        if (pointless || now.retries >= rung.count) break;
        ++now.retries;
        return {again, rung.delay, now};
      }
      case RungKind::Wait: {
        Millis pause = std::min(next_pause(now.waited), rung.delay - now.waited);
        if (pause <= Millis{0}) break;
        now.waited += pause;
        return {again, pause, now};
      }
      case RungKind::Alternate:
        if (!around.alternate_available) break;
        return {Act::Alternate, Millis{0}, now};
      case RungKind::Handover:
        // An application is handed over with its failed call completed, never before.
        if (!now.alternate_done || !around.standby_configured || around.handover_failed) break;
        return {Act::Handover, Millis{0}, now};
      case RungKind::Report:
        return {Act::Report, Millis{0}, now};
    }
  }
  return {Act::Report, Millis{0}, now};
}

bool ladder_wants_handover(const Ladder& ladder, const Surroundings& around) {
  if (!around.standby_configured || around.handover_failed) return false;
  bool alternate = false;
  for (const Rung& rung : ladder) {
    if (rung.kind == RungKind::Report) return false;
    if (rung.kind == RungKind::Alternate) alternate = true;
    if (rung.kind == RungKind::Handover && alternate) return true;
  }
  return false;
}

}  // namespace supervise
