// One address space and what the stub has in it. Copied when a process forks, shared by threads, new after
// exec. Pure data.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "tracer/stub/known.h"
#include "tracer/stub/layout.h"
#include "tracer/stub/patch.h"

namespace supervise::stub {

struct Space {
  bool installed = false;
  std::string refused;           // why there can be no arena here; empty: not known to be so
  std::uint64_t window = 0;
  std::uint64_t entry = 0;       // where its program began, 0: not known
  bool started = false;          // it had its arena before that
  bool light = false;            // it has a copy of the control block, and no ring
  unsigned calls_to_share = 0;   // that needed both
  std::uint64_t traps = 0;       // stops at calls that the stub could have made
  std::map<std::uint64_t, unsigned> site_traps;  // by site that is not patched
  std::map<std::uint64_t, bool> segments;     // begins of code (KnownSegment) with stops; common sites are patched there
  std::map<std::uint64_t, std::string> unpatchable;
  std::vector<Site> sites;       // as in the arena's table
  std::unordered_map<std::uint64_t, std::size_t> by_slow;  // a slot's `slow` -> index in sites
  std::unordered_map<std::uint64_t, std::size_t> by_address;
  std::map<std::uint64_t, Site> by_slot;
  SlotPages pages;
  std::weak_ptr<Space> forked_from;
  std::vector<Known> wanted;     // sites that its children had to have patched: in it, the next children have them at once
  std::vector<std::uint32_t> free_areas;
  std::uint32_t areas = 0;       // given out at any time

  std::uint64_t at(std::uint64_t offset) const { return window + offset; }
  std::optional<std::uint64_t> site_of(std::uint64_t slow) const;
  std::optional<std::uint64_t> take_area();  // nothing when all are taken
  void give_area(std::uint64_t area);
  void add_site(const Site& site, std::uint64_t slow);
};

}  // namespace supervise::stub
