#include "tracer/stub/space.h"

namespace supervise::stub {

std::optional<std::uint64_t> Space::site_of(std::uint64_t slow) const {
  auto it = by_slow.find(slow);
  if (it == by_slow.end()) return std::nullopt;
  return sites[it->second].address;
}

std::optional<std::uint64_t> Space::take_area() {
  if (!free_areas.empty()) {
    const std::uint32_t index = free_areas.back();
    free_areas.pop_back();
    return at(kAreas) + index * kAreaSize;
  }
  if (areas == kAreaCount) return std::nullopt;
  return at(kAreas) + areas++ * kAreaSize;
}

void Space::give_area(std::uint64_t area) {
  free_areas.push_back(static_cast<std::uint32_t>((area - at(kAreas)) / kAreaSize));
}

void Space::add_site(const Site& site, std::uint64_t slow) {
  by_slow[slow] = sites.size();
  by_address[site.address] = sites.size();
  by_slot[site.slot] = site;
  pages.add_page(site.slot & ~(SlotPages::kPage - 1));
  pages.take(site.slot);
  sites.push_back(site);
}

}  // namespace supervise::stub
