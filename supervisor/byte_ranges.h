// Interval map: offset -> bytes, later writes replace earlier ones, each piece with the sequence
// at which it was written. A hole punched or a range zeroed is a piece with no bytes. Pieces never
// overlap. Pieces with bytes are at most kMaxPiece long; a write that continues or overwrites such
// a piece goes into it and gives it the newer sequence (it is then kept longer than need be, which
// is harmless). Zero pieces may reach to the end of the offset range: the reader clips them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "supervisor/content.h"
#include "supervisor/offset_map.h"

namespace supervise {

using Seq = std::uint64_t;

class ByteRanges {
 public:
  static constexpr std::uint64_t kMaxPiece = 1 << 16;
  static constexpr std::uint64_t kPage = 4096;
  static constexpr std::uint64_t kEnd = UINT64_MAX;  // exclusive end of "all that follows"

  struct Piece {
    std::uint64_t length = 0;
    Seq seq = 0;
    bool zero = false;             // reads as zeros
    Content bytes;                 // empty when zero, or when only ranges are journaled
    bool range_only() const { return !zero && bytes.empty(); }
  };
  void put(std::uint64_t offset, std::span<const std::byte> bytes, Seq seq);
  void put_zero(std::uint64_t offset, std::uint64_t length, Seq seq);
  void put_range_only(std::uint64_t offset, std::uint64_t length, Seq seq);
  void cut_from(std::uint64_t size);           // truncate
  void erase(std::uint64_t offset, std::uint64_t length);
  std::uint64_t retire(Seq upto);              // drops pieces with seq <= upto; bytes freed
  std::uint64_t bytes() const { return bytes_; }
  bool empty() const { return pieces_.empty(); }
  using Pieces = OffsetMap<Piece>;  // by offset
  const Pieces& pieces() const { return pieces_; }

 private:
  Pieces::iterator carve(std::uint64_t offset, std::uint64_t end);
  void put_empty(std::uint64_t offset, std::uint64_t end, bool zero, Seq seq);

  Pieces pieces_;
  std::uint64_t bytes_ = 0;
  std::uint64_t last_end_ = kEnd;  // of the last write
};

}  // namespace supervise
