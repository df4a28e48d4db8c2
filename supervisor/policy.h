// Rules and ladders: which rungs are tried, in order, when a call on a storage path fails.
// Pure. The text forms are those of the command line (see docs): --on WHERE:CALLS:ERRNOS=LADDER,
// LADDER a comma-separated list of retry(N,DELAY), wait(TIMEOUT), alternate, handover, report.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"

namespace supervise {

enum class RungKind { Retry, Wait, Alternate, Handover, Report };

struct Rung {
  RungKind kind = RungKind::Report;
  int count = 0;      // Retry: how often
  Millis delay{0};    // Retry: pause before each try; Wait: the time-out
  bool operator==(const Rung&) const = default;
};

using Ladder = std::vector<Rung>;

struct Rule {
  std::string where;             // name of a path, or "*"
  std::set<std::string> calls;   // system call names; empty: all
  std::set<int> errnos;          // empty: all path failures, ENOSPC and EDQUOT; others by name only
  Ladder ladder;
};

// The errors name the place in the text and what was expected.
Result<Ladder> parse_ladder(std::string_view text);
Result<Rule> parse_rule(std::string_view text);
Result<Millis> parse_duration(std::string_view text);  // 20ms, 10s, 10m, 1h
Result<std::uint64_t> parse_size(std::string_view text);  // 4096, 64K, 16M, 2G (powers of 1024)
std::string to_string(const Rung&);
std::string to_string(const Ladder&);

class Policy {
 public:
  Policy() = default;
  explicit Policy(std::vector<Rule> rules) : rules_(std::move(rules)) {}
  // First rule that matches; otherwise the default ladder of the errno's class:
  // retry(2,20ms),alternate,handover,report for path failures, wait(10m),report for ENOSPC and
  // EDQUOT, and an empty ladder (the application's own business) for every other errno.
  Ladder ladder_for(std::string_view path, std::string_view call, int err) const;
  // Could ladder_for that path and errno be anything but empty, whatever the call?
  bool names_errno(std::string_view path, int err) const;
  const std::vector<Rule>& rules() const { return rules_; }

 private:
  std::vector<Rule> rules_;
};

}  // namespace supervise
