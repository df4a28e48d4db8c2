// What a standby does next with the warm images that it sees and the copies that it has. Pure: the loop
// (standby.cpp) carries it out. Images have a generation; `stamp` tells two contents of one name apart.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "restore/host_facts.h"
#include "restore/manifest.h"

namespace supervise {

struct SeenImage {
  std::uint64_t generation = 0;
  std::string dir;
  std::string stamp;         // of its manifest
  std::string broken;        // why it is no image at all; empty: it may be one
  bool handover = false;     // made by a hand-over: never prepared, only resumed once committed
  std::string origin;
  std::int64_t created_unix_ns = 0;
  int free_slots = 1;        // activations that are still to be had
  std::string taken_by;      // with none: a sentence that names an owner
};

enum class CopyState { Preparing, Ready, Waking, Running };

struct CopyView {
  int id = 0;
  std::uint64_t generation = 0;
  std::string origin;
  std::int64_t created_unix_ns = 0;
  CopyState state = CopyState::Preparing;
};

struct StandbyView {
  std::vector<SeenImage> images;  // oldest generation first
  std::vector<CopyView> copies;
  std::set<std::string> refused;  // stamps
  std::map<std::uint64_t, int> most;  // generations of which fewer copies can be on one host
  int instances = 1;
};

struct StandbyStep {
  struct Refusal {
    SeenImage image;
    std::string reason;
  };
  std::optional<SeenImage> prepare;
  std::vector<int> end;             // copies that are no longer wanted
  std::vector<Refusal> refuse;      // not told before
};

// At most one copy is prepared at a time. A ready copy is ended only when as many as are wanted stay ready
// without it, so that there is no moment in which none is.
StandbyStep plan_standby(const StandbyView& view);

// The ready copy that an activation wakes: of the newest generation.
std::optional<int> copy_to_wake(const std::vector<CopyView>& copies);

// Why the image can't run here: another application's, another machine, CPU features that this host
// lacks, a CRIU that is older than the one that made it.
std::optional<std::string> why_foreign(const Manifest& manifest, const std::string& name,
                                       const HostFacts& here, const std::string& criu_version);

}  // namespace supervise
