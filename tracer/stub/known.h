// Call sites that earlier processes had, by file: what a new process of the same program is likely to call, so
// that it can be patched before it stops at each site again and again. A site is known again by its code: the
// bytes around it at the same place of a page. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

#include "tracer/stub/patch.h"

namespace supervise::stub {

using CodeAround = std::array<std::uint8_t, kBefore + kAfter>;  // begins kBefore bytes before the site

struct Known {  // a site of a process, by what other processes had
  std::uint64_t site;
  int nr;
  CodeAround code;
};

struct KnownSite {
  std::uint64_t offset = 0;  // from the segment's begin
  int nr = -1;
  CodeAround code{};
  unsigned stops = 0;        // in processes that had it unpatched
  unsigned processes = 0;    // of these
  bool hot = false;          // patched at its first stop from now on
  bool common = false;       // ... and at the first one of another of its segment
  bool at_start = false;     // patched before a program with this entry runs
};

// What is mapped executable of a file.
struct KnownSegment {
  std::map<std::uint64_t, KnownSite> sites;
  std::uint64_t entry = 0;   // where programs begin that have it as their interpreter, or are it; 0: none has
  CodeAround entry_code{};
  unsigned starts = 0;       // programs that began there
  unsigned stops = 0;        // at its sites, in those that had none of them patched from the start
  unsigned plain_starts = 0; // these
  unsigned processes = 0;    // that had a stop at one of its sites
};

class KnownCode {
 public:
  struct Id {  // of the mapping
    std::uint64_t device, inode, offset;
    auto operator<=>(const Id&) const = default;
  };
  struct Start {
    KnownSegment* segment;
    std::uint64_t base;
  };
  KnownSite* find(std::uint64_t site, const CodeAround& code, KnownSegment** segment);
  // A site that was not found; `begin` is that of its mapping.
  KnownSite& learn(const Id& id, std::uint64_t begin, std::uint64_t site, int nr, const CodeAround& code,
                   KnownSegment** segment);
  void learn_entry(KnownSegment& segment, std::uint64_t begin, std::uint64_t entry, const CodeAround& code);
  std::optional<Start> start(std::uint64_t entry, const CodeAround& code);
  // A stop at a site; `first`: the first one of its process, `first_of_all`: at any site of the segment.
  static void stopped(KnownSegment& segment, KnownSite& site, bool first, bool first_of_all, bool plain_start);
  // Is it worth it to have the sites of a program patched before it runs?
  static bool worth_starting(const KnownSegment& segment);

 private:
  static std::uint64_t hash(std::uint64_t address, const CodeAround& code);
  struct Place {
    KnownSegment* segment;
    std::uint64_t offset;
  };
  std::map<Id, KnownSegment> segments_;
  std::unordered_multimap<std::uint64_t, Place> sites_, entries_;
};

}  // namespace supervise::stub
