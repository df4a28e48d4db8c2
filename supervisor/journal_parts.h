// What the parts of the journal share (journal.cpp, journal_durable.cpp).
#pragma once

#include <string>
#include <string_view>

#include "supervisor/byte_ranges.h"

namespace supervise {

inline std::string below(std::string_view dir) { return std::string(dir) + "/"; }

inline bool is_below(std::string_view name, std::string_view prefix) { return name.starts_with(prefix); }

// Keeps the journal's totals true while the ranges of one file change.
class Counted {
 public:
  Counted(ByteRanges& data, std::uint64_t& bytes, std::uint64_t& pieces)
      : data_(data), bytes_(bytes), pieces_(pieces) {
    bytes_ -= data_.bytes();
    pieces_ -= data_.pieces().size();
  }
  ~Counted() {
    bytes_ += data_.bytes();
    pieces_ += data_.pieces().size();
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  ByteRanges& data_;
  std::uint64_t &bytes_, &pieces_;
};

}  // namespace supervise
