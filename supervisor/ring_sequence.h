// Which of a journal's changes lie before the entry of a sync that the stub made. A journal takes changes
// from the ring, at positions, and others that the supervisor learned in its own way, which have no position
// but a number (stub::Control::learned): a sync tells the position and the number at its entry. In doubt a
// change counts as later than the sync. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "supervisor/byte_ranges.h"

namespace supervise {

class RingSequence {
 public:
  // The changes behind `before` are of the record at that position, in order of positions...
  void taken(Seq before, std::uint64_t position);
  // ... or learned in the supervisor's own way: that was known when the ring's head was `head`, and is told
  // by the number `learned`.
  void learned(Seq before, std::uint64_t head, std::uint64_t learned);

  // Every change up to the one returned lies before the entry of a sync that saw these two (0: it looked
  // at no number). `now`: the journal's sequence.
  Seq at(std::uint64_t position, std::uint64_t learned, Seq now) const;

 private:
  static constexpr std::size_t kPoints = 16384;
  // Changes behind `before` (and up to the next point's) came from positions up to `position`.
  struct Taken {
    Seq before;
    std::uint64_t position;
  };
  struct Learned {
    Seq before;
    std::uint64_t head, number;
  };
  std::vector<Taken> taken_;      // positions grow
  std::vector<Learned> learned_;  // heads and numbers grow
};

}  // namespace supervise
