// What an image carries of the run for its successor: the options (rules, journal, ...) and the
// supervisor's own state. JSON, versioned by the manifest.
#pragma once

#include <set>
#include <string>

#include "supervisor/session.h"

namespace supervise {

std::string run_options_to_json(const SessionConfig& config);
Status run_options_from_json(const std::string& text, SessionConfig& config);

struct CarriedState {
  std::set<int> stopped;        // PIDs inside the world that the application had stopped itself
  std::set<int> guarded;        // PIDs inside that have a handler for SIGTRAP only for the dump
  int last_pid = 0;             // the PID namespace's cursor, so that no PID is given twice
  std::uint64_t incidents = 0;  // ids go on from here
};
std::string carried_state_to_json(const CarriedState& state);
Result<CarriedState> carried_state_from_json(const std::string& text);

}  // namespace supervise
