#include "supervisor/byte_ranges.h"

#include <algorithm>
#include <iterator>

namespace supervise {
namespace {

std::uint64_t end_of(std::uint64_t offset, std::uint64_t length) {
  return length > ByteRanges::kEnd - offset ? ByteRanges::kEnd : offset + length;
}

}  // namespace

// Makes [offset, end) free of pieces, cutting those that reach into it. Returns where a piece at `offset`
// would have to be put in.
ByteRanges::Pieces::iterator ByteRanges::carve(std::uint64_t offset, std::uint64_t end) {
  auto it = pieces_.lower_bound(offset);
  if (offset >= end) return it;
  if (it != pieces_.begin()) {
    auto before = std::prev(it);
    Piece& piece = before->second;
    const std::uint64_t at = before->first, stop = at + piece.length;
    if (stop > offset) {
      Piece tail{stop > end ? stop - end : 0, piece.seq, piece.zero, {}};
      if (!piece.bytes.empty()) {
        tail.bytes.append({piece.bytes.data() + (stop - at - tail.length), tail.length});
        bytes_ += tail.length;
        bytes_ -= piece.length - (offset - at);
        piece.bytes.cut(offset - at);
      }
      piece.length = offset - at;
      if (tail.length > 0) return pieces_.insert(it, end, std::move(tail));
    }
  }
  while (it != pieces_.end() && it->first < end) {
    Piece& piece = it->second;
    const std::uint64_t stop = it->first + piece.length;
    if (stop > end) {  // a tail stays
      if (!piece.bytes.empty()) {
        bytes_ -= piece.length - (stop - end);
        piece.bytes = Content({piece.bytes.data() + (end - it->first), stop - end});
      }
      piece.length = stop - end;
      pieces_.rekey(it, end);
      break;
    }
    bytes_ -= piece.bytes.size();
    it = pieces_.erase(it);
  }
  return it;
}

// A write goes into the piece with bytes that it continues or overwrites, or makes one of its own.
void ByteRanges::put(std::uint64_t offset, std::span<const std::byte> bytes, Seq seq) {
  while (!bytes.empty()) {
    auto next = pieces_.lower_bound(offset);
    auto it = pieces_.end();
    std::uint64_t at = 0;
    bool overlaps = false;  // a piece from before reaches into it
    if (next != pieces_.begin()) {
      const auto before = std::prev(next);
      const Piece& piece = before->second;
      at = offset - before->first;
      // Scattered writes of whole pages would only be moved about.
      const bool apart = at == piece.length && bytes.size() >= kPage && piece.length >= kPage && offset != last_end_;
      if (!piece.bytes.empty() && at <= piece.length && at < kMaxPiece && !apart) it = before;
      else overlaps = at < piece.length;
    }
    if (it == pieces_.end()) {
      at = 0;
      if (next != pieces_.end() && next->first == offset && !next->second.bytes.empty()) it = next++;
    }
    const bool fills = it != pieces_.end();
    const std::uint64_t n = std::min<std::uint64_t>(kMaxPiece - at, bytes.size());
    const std::uint64_t inside = fills ? std::min(n, it->second.length - at) : 0;
    if (fills) {
      Piece& piece = it->second;
      if (inside > 0) piece.bytes.write(at, bytes.first(inside));
      piece.seq = std::max(piece.seq, seq);
      if (inside < n) {
        piece.bytes.append(bytes.subspan(inside, n - inside));
        const bool reaches = next != pieces_.end() && next->first < offset + n;
        const std::uint64_t key = it->first;
        if (reaches) carve(offset + inside, offset + n);
        (reaches ? pieces_.lower_bound(key) : it)->second.length = at + n;
      }
    } else {
      if (overlaps || (next != pieces_.end() && next->first < offset + n)) next = carve(offset, offset + n);
      pieces_.insert(next, offset, Piece{n, seq, false, Content(bytes.first(n))});
    }
    bytes_ += n - inside;
    offset += n;
    last_end_ = offset;
    bytes = bytes.subspan(n);
  }
}

void ByteRanges::put_empty(std::uint64_t offset, std::uint64_t end, bool zero, Seq seq) {
  if (offset >= end) return;
  const auto next = carve(offset, end);
  if (next != pieces_.begin()) {
    const auto before = std::prev(next);
    Piece& piece = before->second;
    if (piece.zero == zero && piece.bytes.empty() && before->first + piece.length == offset) {
      piece.length = end - before->first;
      piece.seq = std::max(piece.seq, seq);
      return;
    }
  }
  pieces_.insert(next, offset, Piece{end - offset, seq, zero, {}});
}

void ByteRanges::put_zero(std::uint64_t offset, std::uint64_t length, Seq seq) {
  put_empty(offset, end_of(offset, length), true, seq);
}

void ByteRanges::put_range_only(std::uint64_t offset, std::uint64_t length, Seq seq) {
  put_empty(offset, end_of(offset, length), false, seq);
}

void ByteRanges::cut_from(std::uint64_t size) { carve(size, kEnd); }

void ByteRanges::erase(std::uint64_t offset, std::uint64_t length) {
  carve(offset, end_of(offset, length));
}

std::uint64_t ByteRanges::retire(Seq upto) {
  const std::uint64_t before = bytes_;
  pieces_.erase_if([&](const Piece& piece) {
    if (piece.seq > upto) return false;
    bytes_ -= piece.bytes.size();
    return true;
  });
  return before - bytes_;
}

}  // namespace supervise
