#include "supervisor/ring_sequence.h"

#include <algorithm>

namespace supervise {
namespace {

// Makes one of every two points of the older half: what is between them can no longer be told apart, and
// lies before a sync only when all of it does.
template <class Point, class Join>
void thin(std::vector<Point>& points, Join join) {
  const std::size_t half = points.size() / 2;
  std::size_t to = 0;
  for (std::size_t from = 0; from + 1 < half; from += 2) points[to++] = join(points[from], points[from + 1]);
  points.erase(points.begin() + static_cast<std::ptrdiff_t>(to), points.begin() + static_cast<std::ptrdiff_t>(half & ~std::size_t{1}));
}

}  // namespace

void RingSequence::taken(Seq before, std::uint64_t position) {
  // A record that was finished late: every sync that covers the later ones covers it.
  if (!taken_.empty() && position <= taken_.back().position) return;
  if (taken_.size() >= kPoints)
    thin(taken_, [](const Taken& a, const Taken& b) { return Taken{a.before, b.position}; });
  taken_.push_back({before, position});
}

void RingSequence::learned(Seq before, std::uint64_t head, std::uint64_t number) {
  if (learned_.size() >= kPoints)
    thin(learned_, [](const Learned& a, const Learned& b) { return Learned{a.before, b.head, b.number}; });
  learned_.push_back({before, head, number});
}

Seq RingSequence::at(std::uint64_t position, std::uint64_t learned, Seq now) const {
  const auto taken = std::ranges::partition_point(taken_, [&](const Taken& t) { return t.position < position; });
  if (taken != taken_.end()) now = std::min(now, taken->before);
  const auto own = std::ranges::partition_point(
      learned_, [&](const Learned& l) { return l.head < position || l.number <= learned; });
  if (own != learned_.end()) now = std::min(now, own->before);
  return now;
}

}  // namespace supervise
