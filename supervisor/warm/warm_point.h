// The warm point of one run: which threads are stopped before which reference, what the others wait
// for, and whether it is time for the image. The session asks it at call entries and ticks it; it
// never touches a tracee but to read.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "supervisor/warm/planner.h"
#include "supervisor/warm/reference_finder.h"

namespace supervise {

class WarmPoint {
 public:
  WarmPoint(WarmRules rules, ReferenceFinder::Surroundings surroundings);

  const WarmRules& rules() const { return rules_; }
  bool watching() const { return watching_; }
  // From now on every call passes (the image is made, or given up).
  void finish();

  // At a call entry. Returns the reference before which the thread is to stop.
  const Reference* stops(const Task& task);
  void forget(pid_t tid);
  const std::map<pid_t, Reference>& held() const { return held_; }

  struct Tick {
    WarmPlan plan;
    std::vector<pid_t> release;  // their other end turned out to be inside
  };
  Tick tick(const std::map<pid_t, Task>& tasks);
  Clock::time_point next_tick() const { return next_; }

  // For the manifest; as of the last tick.
  const WarmPlan& last_plan() const { return last_; }
  std::string why(pid_t tid) const;  // "" when unknown
  const PortabilityLog& portability() const { return finder_.portability(); }

 private:
  bool still_stops(const Task& task);

  WarmRules rules_;
  std::function<std::vector<pid_t>()> processes_;
  ReferenceFinder finder_;
  bool watching_;
  std::map<pid_t, Reference> held_;
  std::map<pid_t, std::deque<WaitSample>> samples_;
  std::optional<Clock::time_point> first_held_;
  Clock::time_point next_{};
  WarmPlan last_;
};

}  // namespace supervise
