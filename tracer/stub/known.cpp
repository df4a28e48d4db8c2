#include "tracer/stub/known.h"

#include <cstring>

namespace supervise::stub {
namespace {

constexpr std::uint64_t kPageMask = 0xfff;
constexpr unsigned kHotStops = 16;       // so many stops in all, and
constexpr unsigned kHotPerProcess = 2;   // so many a process
constexpr unsigned kCommonProcesses = 8;
constexpr unsigned kStartStops = 6;      // a program's first stops cost more than what saves them, from so many on
constexpr std::size_t kMostSegments = 4096, kMostSites = 512;

}  // namespace

std::uint64_t KnownCode::hash(std::uint64_t address, const CodeAround& code) {
  std::uint64_t h = (address & kPageMask) * 0x9e3779b97f4a7c15;
  for (std::size_t i = 0; i < code.size(); i += 8) {
    std::uint64_t word;
    memcpy(&word, &code[i], sizeof word);
    h = (h ^ word) * 0xff51afd7ed558ccd;
    h ^= h >> 32;
  }
  return h;
}

KnownSite* KnownCode::find(std::uint64_t site, const CodeAround& code, KnownSegment** segment) {
  const auto [from, to] = sites_.equal_range(hash(site, code));
  for (auto it = from; it != to; ++it) {
    auto known = it->second.segment->sites.find(it->second.offset);
    if (known == it->second.segment->sites.end() || known->second.code != code) continue;
    if (((site - it->second.offset) & kPageMask) != 0) continue;
    *segment = it->second.segment;
    return &known->second;
  }
  return nullptr;
}

KnownSite& KnownCode::learn(const Id& id, std::uint64_t begin, std::uint64_t site, int nr, const CodeAround& code,
                            KnownSegment** segment) {
  if (segments_.size() >= kMostSegments) {
    segments_.clear();
    sites_.clear();
    entries_.clear();
  }
  KnownSegment& s = segments_[id];
  *segment = &s;
  const std::uint64_t offset = site - begin;
  // Other code at the same place: the file has changed.
  if (s.sites.contains(offset) || s.sites.size() >= kMostSites) {
    std::erase_if(sites_, [&s](const auto& entry) { return entry.second.segment == &s; });
    std::erase_if(entries_, [&s](const auto& entry) { return entry.second.segment == &s; });
    s = {};
  }
  KnownSite& known = s.sites[offset];
  known.offset = offset;
  known.nr = nr;
  known.code = code;
  sites_.emplace(hash(site, code), Place{&s, offset});
  return known;
}

void KnownCode::learn_entry(KnownSegment& segment, std::uint64_t begin, std::uint64_t entry, const CodeAround& code) {
  if (segment.entry != 0 || entry <= begin) return;
  segment.entry = entry - begin;
  segment.entry_code = code;
  segment.starts = segment.plain_starts = 1;
  entries_.emplace(hash(entry, code), Place{&segment, segment.entry});
}

std::optional<KnownCode::Start> KnownCode::start(std::uint64_t entry, const CodeAround& code) {
  const auto [from, to] = entries_.equal_range(hash(entry, code));
  for (auto it = from; it != to; ++it) {
    KnownSegment& s = *it->second.segment;
    if (s.entry_code == code && ((entry - s.entry) & kPageMask) == 0) return Start{&s, entry - s.entry};
  }
  return std::nullopt;
}

void KnownCode::stopped(KnownSegment& segment, KnownSite& site, bool first, bool first_of_all, bool plain_start) {
  ++site.stops;
  if (first_of_all) ++segment.processes;
  if (first) ++site.processes;
  if (plain_start) ++segment.stops;
  if (site.stops >= kHotStops && site.stops >= kHotPerProcess * site.processes) site.hot = true;
  if (site.hot && first && segment.processes >= kCommonProcesses && site.processes * 3 >= segment.processes) site.common = true;
  if (segment.starts != 0 && site.stops * 2 >= segment.starts) site.at_start = true;
}

bool KnownCode::worth_starting(const KnownSegment& segment) {
  return segment.stops >= kStartStops * segment.plain_starts;
}

}  // namespace supervise::stub
