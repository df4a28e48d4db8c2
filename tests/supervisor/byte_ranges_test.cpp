#include "supervisor/byte_ranges.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace supervise {
namespace {

std::span<const std::byte> bytes(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

// "0:abc/1 5:zero(3)/2" for what is held.
std::string show(const ByteRanges& r) {
  std::string out;
  for (const auto& [offset, p] : r.pieces()) {
    if (!out.empty()) out += " ";
    out += std::to_string(offset) + ":";
    std::string length =
        p.length == ByteRanges::kEnd - offset ? "end" : std::to_string(p.length);
    if (p.zero) out += "zero(" + length + ")";
    else if (p.range_only()) out += "range(" + length + ")";
    else out.append(reinterpret_cast<const char*>(p.bytes.data()), p.bytes.size());
    out += "/" + std::to_string(p.seq);
  }
  return out;
}

TEST(ByteRanges, KeepsPiecesApartThatDoNotTouch) {
  ByteRanges r;
  r.put(10, bytes("abc"), 1);
  r.put(20, bytes("xyz"), 2);
  EXPECT_EQ(show(r), "10:abc/1 20:xyz/2");
  EXPECT_EQ(r.bytes(), 6u);
}

TEST(ByteRanges, AppendsExtendThePieceAndTakeTheNewerSequence) {
  ByteRanges r;
  r.put(0, bytes("abc"), 1);
  r.put(3, bytes("def"), 2);
  r.put(6, bytes("ghi"), 3);
  EXPECT_EQ(show(r), "0:abcdefghi/3");
}

TEST(ByteRanges, AppendsAfterATruncationExtendThePiece) {
  ByteRanges r;
  r.put_zero(0, ByteRanges::kEnd, 1);
  r.put(0, bytes("abc"), 2);
  r.put(3, bytes("def"), 3);
  EXPECT_EQ(show(r), "0:abcdef/3 6:zero(end)/1");
}

TEST(ByteRanges, OverwritesInPlaceAndOverTheEnd) {
  ByteRanges r;
  r.put(0, bytes("abcdef"), 1);
  r.put(2, bytes("XY"), 2);
  EXPECT_EQ(show(r), "0:abXYef/2");
  r.put(4, bytes("1234"), 3);
  EXPECT_EQ(show(r), "0:abXY1234/3");
  EXPECT_EQ(r.bytes(), 8u);
}

TEST(ByteRanges, ALaterWriteCutsEarlierOnes) {
  ByteRanges r;
  r.put(4, bytes("abcdef"), 1);
  r.put(2, bytes("1234"), 2);
  EXPECT_EQ(show(r), "2:1234/2 6:cdef/1");
  r.put(0, bytes("............"), 3);
  EXPECT_EQ(show(r), "0:............/3");
  EXPECT_EQ(r.bytes(), 12u);
}

TEST(ByteRanges, ZeroesSplitPiecesAndMergeWithEachOther) {
  ByteRanges r;
  r.put(0, bytes("abcdefgh"), 1);
  r.put_zero(2, 2, 2);
  r.put_zero(4, 2, 3);
  EXPECT_EQ(show(r), "0:ab/1 2:zero(4)/3 6:gh/1");
  EXPECT_EQ(r.bytes(), 4u);
  r.put(3, bytes("Z"), 4);
  EXPECT_EQ(show(r), "0:ab/1 2:zero(1)/3 3:Z/4 4:zero(2)/3 6:gh/1");
}

TEST(ByteRanges, RangesAreKeptApartFromBytesAndZeroes) {
  ByteRanges r;
  r.put_range_only(0, 10, 1);
  r.put_range_only(10, 10, 2);
  r.put_zero(5, 2, 3);
  EXPECT_EQ(show(r), "0:range(5)/2 5:zero(2)/3 7:range(13)/2");
  EXPECT_EQ(r.bytes(), 0u);
}

TEST(ByteRanges, CutsAndErases) {
  ByteRanges r;
  r.put(0, bytes("abcdef"), 1);
  r.put(10, bytes("xyz"), 2);
  r.cut_from(11);
  EXPECT_EQ(show(r), "0:abcdef/1 10:x/2");
  r.erase(1, 3);
  EXPECT_EQ(show(r), "0:a/1 4:ef/1 10:x/2");
  r.cut_from(0);
  EXPECT_TRUE(r.empty());
  EXPECT_EQ(r.bytes(), 0u);
}

TEST(ByteRanges, RetiresUpToASequence) {
  ByteRanges r;
  r.put(0, bytes("abc"), 1);
  r.put(10, bytes("def"), 5);
  r.put_zero(20, 4, 4);
  EXPECT_EQ(r.retire(4), 3u);
  EXPECT_EQ(show(r), "10:def/5");
  EXPECT_EQ(r.retire(5), 3u);
  EXPECT_TRUE(r.empty());
}

TEST(ByteRanges, LongWritesAndAppendsStayInPiecesOfBoundedLength) {
  ByteRanges r;
  std::string big(5 * ByteRanges::kMaxPiece / 2, 'b');
  r.put(100, bytes(big), 1);
  EXPECT_EQ(r.pieces().size(), 3u);
  std::string page(4096, 'p');
  std::uint64_t at = 100 + big.size();
  for (int i = 0; i < 4096; ++i, at += page.size()) r.put(at, bytes(page), 2);
  EXPECT_LE(r.pieces().size(), r.bytes() / ByteRanges::kMaxPiece + 2);
  for (const auto& [offset, p] : r.pieces()) EXPECT_LE(p.length, ByteRanges::kMaxPiece);
  EXPECT_EQ(r.bytes(), big.size() + 4096 * page.size());
}

// Against a plain array: what each byte must be, and from which sequence at the earliest.
TEST(ByteRanges, AgreesWithAPlainArray) {
  constexpr std::size_t kSize = 400;
  for (unsigned seed = 0; seed < 400; ++seed) {
    std::mt19937 rng(seed);
    auto pick = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(rng); };
    ByteRanges r;
    std::vector<int> model(kSize, -1);  // -1 nothing, -2 range only, 0 zero, else the byte
    std::vector<Seq> written(kSize, 0);
    for (Seq seq = 1; seq <= 60; ++seq) {
      std::size_t at = pick(kSize), n = 1 + pick(std::min<std::size_t>(60, kSize - at));
      auto set = [&](std::size_t from, std::size_t to, auto value) {
        for (std::size_t i = from; i < to; ++i) {
          model[i] = value(i - from);
          written[i] = seq;
        }
      };
      switch (pick(8)) {
        case 0: r.put_zero(at, n, seq); set(at, at + n, [](auto) { return 0; }); break;
        case 1: r.put_range_only(at, n, seq); set(at, at + n, [](auto) { return -2; }); break;
        case 2: r.erase(at, n); set(at, at + n, [](auto) { return -1; }); break;
        case 3:
          if (pick(3)) break;
          r.cut_from(at);
          set(at, kSize, [](auto) { return -1; });
          break;
        case 4: {
          Seq upto = pick(seq + 1);
          r.retire(upto);
          // A merged piece may keep older bytes; none that is newer may be gone.
          for (std::size_t i = 0; i < kSize; ++i) {
            if (model[i] == -1 || written[i] > upto) continue;
            bool held = false;
            for (const auto& [offset, p] : r.pieces()) held = held || (offset <= i && offset + p.length > i);
            if (!held) model[i] = -1;
          }
          break;
        }
        default: {
          std::string s(n, 0);
          for (auto& c : s) c = static_cast<char>(1 + pick(120));
          r.put(at, bytes(s), seq);
          set(at, at + n, [&](std::size_t i) { return s[i]; });
        }
      }
      std::vector<int> held(kSize, -1);
      std::uint64_t last = 0, total = 0;
      for (const auto& [offset, p] : r.pieces()) {
        ASSERT_GE(offset, last);
        ASSERT_GT(p.length, 0u);
        last = offset + p.length;
        total += p.bytes.size();
        if (!p.bytes.empty()) {
          ASSERT_EQ(p.bytes.size(), p.length);
        }
        for (std::uint64_t i = 0; i < p.length; ++i) {
          held[offset + i] = p.zero ? 0 : p.range_only() ? -2 : static_cast<int>(p.bytes.data()[i]);
          ASSERT_GE(p.seq, written[offset + i]);
        }
      }
      ASSERT_EQ(held, model) << "seed " << seed << " step " << seq;
      ASSERT_EQ(r.bytes(), total);
    }
  }
}

}  // namespace
}  // namespace supervise
