#include "supervisor/byte_ranges.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace supervise {
namespace {

std::uint64_t end_of(std::uint64_t offset, std::uint64_t length) {
  return length > ByteRanges::kEnd - offset ? ByteRanges::kEnd : offset + length;
}

std::ptrdiff_t diff(std::uint64_t n) { return static_cast<std::ptrdiff_t>(n); }

}  // namespace

ByteRanges::Pieces::iterator ByteRanges::piece_at_or_before(std::uint64_t offset) {
  auto it = pieces_.upper_bound(offset);
  return it == pieces_.begin() ? pieces_.end() : std::prev(it);
}

// The piece with bytes that a write at `offset` goes into: one that it continues or overwrites.
ByteRanges::Pieces::iterator ByteRanges::piece_to_fill(std::uint64_t offset) {
  auto next = pieces_.lower_bound(offset);
  if (next != pieces_.begin()) {
    auto before = std::prev(next);
    std::uint64_t at = offset - before->first;
    if (!before->second.bytes.empty() && at <= before->second.length && at < kMaxPiece)
      return before;
  }
  bool here = next != pieces_.end() && next->first == offset && !next->second.bytes.empty();
  return here ? next : pieces_.end();
}

// Makes [offset, end) free of pieces, cutting those that reach into it.
void ByteRanges::carve(std::uint64_t offset, std::uint64_t end) {
  if (offset >= end) return;
  auto it = piece_at_or_before(offset);
  if (it == pieces_.end()) it = pieces_.begin();
  else if (it->first + it->second.length <= offset) ++it;
  while (it != pieces_.end() && it->first < end) {
    std::uint64_t at = it->first, stop = at + it->second.length;
    Piece& piece = it->second;
    if (stop > end) {  // a tail stays
      Piece tail{stop - end, piece.seq, piece.zero, {}};
      if (!piece.bytes.empty()) {
        tail.bytes.assign(piece.bytes.begin() + diff(end - at),
                          piece.bytes.end());
        bytes_ += tail.bytes.size();
      }
      pieces_.emplace_hint(std::next(it), end, std::move(tail));
    }
    bytes_ -= piece.bytes.size();
    if (at < offset) {  // a head stays
      piece.length = offset - at;
      if (!piece.bytes.empty()) {
        piece.bytes.resize(piece.length);
        bytes_ += piece.bytes.size();
      }
      ++it;
    } else {
      it = pieces_.erase(it);
    }
    if (stop >= end) break;
  }
}

void ByteRanges::put(std::uint64_t offset, std::span<const std::byte> bytes, Seq seq) {
  while (!bytes.empty()) {
    auto it = piece_to_fill(offset);
    std::uint64_t at = it == pieces_.end() ? 0 : offset - it->first;
    std::uint64_t n = std::min<std::uint64_t>(kMaxPiece - at, bytes.size());
    auto from = bytes.begin();
    if (it == pieces_.end()) {
      carve(offset, offset + n);
      pieces_.emplace(offset, Piece{n, seq, false, {from, from + diff(n)}});
      bytes_ += n;
    } else {
      std::uint64_t inside = std::min(n, it->second.length - at);
      if (inside < n) carve(offset + inside, offset + n);
      Piece& piece = it->second;
      std::copy_n(from, inside, piece.bytes.begin() + diff(at));
      piece.bytes.insert(piece.bytes.end(), from + diff(inside), from + diff(n));
      bytes_ += n - inside;
      piece.length = piece.bytes.size();
      piece.seq = std::max(piece.seq, seq);
    }
    offset += n;
    bytes = bytes.subspan(n);
  }
}

void ByteRanges::put_empty(std::uint64_t offset, std::uint64_t end, bool zero, Seq seq) {
  if (offset >= end) return;
  carve(offset, end);
  auto it = piece_at_or_before(offset);
  if (it != pieces_.end() && it->second.zero == zero && it->second.bytes.empty() &&
      it->first + it->second.length == offset) {
    it->second.length = end - it->first;
    it->second.seq = std::max(it->second.seq, seq);
    return;
  }
  pieces_.emplace(offset, Piece{end - offset, seq, zero, {}});
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
  std::uint64_t before = bytes_;
  for (auto it = pieces_.begin(); it != pieces_.end();) {
    if (it->second.seq <= upto) {
      bytes_ -= it->second.bytes.size();
      it = pieces_.erase(it);
    } else {
      ++it;
    }
  }
  return before - bytes_;
}

}  // namespace supervise
