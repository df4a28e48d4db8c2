// What every patch must fulfil, shared by the patcher's tests: written against the format of the
// instructions, not against the code that makes them.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tracer/stub/patch.h"

namespace supervise::stub {

using Bytes = std::vector<std::uint8_t>;

inline std::uint64_t operand_target(std::uint64_t behind, const std::uint8_t* disp32) {
  std::int32_t displacement;
  memcpy(&displacement, disp32, sizeof displacement);
  return behind + static_cast<std::uint64_t>(std::int64_t{displacement});
}

// A piece of code at its address; what lies outside of it reads as zeros.
struct Code {
  std::uint64_t address = 0;
  Bytes bytes;

  std::uint8_t* at(std::uint64_t where) { return &bytes.at(where - address); }
  Bytes window(std::uint64_t from, std::size_t size) const {
    Bytes out(size);
    for (std::size_t i = 0; i < size; ++i)
      if (from + i - address < bytes.size()) out[i] = bytes[from + i - address];
    return out;
  }
  void write(std::uint64_t where, std::span<const std::uint8_t> what) {
    for (std::size_t i = 0; i < what.size(); ++i) *at(where + i) = what[i];
  }
};

inline std::vector<Plan> plans_of(const Code& code, std::uint64_t site, int nr) {
  const Bytes before = code.window(site - kBefore, kBefore), after = code.window(site, kAfter);
  return plan_patch(site, nr, std::span<const std::uint8_t, kBefore>(before.data(), kBefore),
                    std::span<const std::uint8_t, kAfter>(after.data(), kAfter));
}

// A slot for the plan where any page can be had; nothing: even then there is none.
inline std::optional<std::uint64_t> take_slot(SlotPages& pages, const Plan& plan, std::uint64_t site) {
  auto slot = pages.find(plan, site);
  if (!slot && plan.method == kMethodMov) {
    const auto hints = SlotPages::hints(site);
    for (std::uint64_t hint : hints) {
      if (pages.has_page(hint) || !SlotPages::near(hint, site)) continue;
      pages.add_page(hint);
      break;
    }
    slot = pages.find(plan, site);
  } else if (!slot) {
    const auto wanted = pages.wanted(plan);
    if (wanted.empty()) return std::nullopt;
    EXPECT_FALSE(pages.has_page(wanted[0].page));
    pages.add_page(wanted[0].page);
    slot = wanted[0].slot;
  }
  if (slot) pages.take(*slot);
  return slot;
}

// The jump that is in the code leads to the slot; the syscall instruction is what it was but for B.
inline void check_patched(Code& code, const Site& s) {
  const std::uint64_t jump = s.address - s.patched_at;
  ASSERT_EQ(*code.at(jump), 0xe9);
  EXPECT_EQ(operand_target(jump + 5, code.at(jump + 1)), s.slot);
  if (s.method == kMethodPun) {
    EXPECT_EQ(jump, s.address);
  } else {
    EXPECT_EQ(*code.at(s.address), 0x0f);
    EXPECT_EQ(*code.at(s.address + 1), 0x05);
  }
}

inline void check_slot(const Plan& plan, std::uint64_t site, std::uint64_t slot) {
  const auto code = encode_slot(plan, site, slot);
  const std::uint64_t page = slot & ~0xfffull;
  EXPECT_GE(slot, page + 8) << "the entry's address lies there";
  EXPECT_LE(slot + kSlotSize, page + 4096);
  const std::uint8_t* at = code.data();
  for (std::size_t i = 0; i < plan.patched_at; ++i) EXPECT_EQ(*at++, plan.original[i]);
  const auto here = [&] { return slot + static_cast<std::uint64_t>(at - code.data()); };
  const std::uint64_t slow = slot + slow_offset(plan);
  EXPECT_EQ(Bytes(at, at + 3), (Bytes{0x4c, 0x8d, 0x1d})) << "lea slow(%rip),%r11";
  EXPECT_EQ(operand_target(here() + 7, at + 3), slow);
  at += 7;
  EXPECT_EQ(Bytes(at, at + 2), (Bytes{0xff, 0x25})) << "jmp *page_entry(%rip)";
  EXPECT_EQ(operand_target(here() + 6, at + 2), page);
  at += 6;
  ASSERT_EQ(here(), slow);
  EXPECT_EQ(Bytes(at, at + 3), (Bytes{0x0f, 0x05, 0xe9})) << "syscall; jmp site+2";
  EXPECT_EQ(operand_target(here() + 7, at + 3), site + 2);
  ASSERT_LE(here() + 7, slot + kSlotSize);
}

inline void check_lookup(const Site& s) {
  const std::map<std::uint64_t, Site> table{{s.slot, s}};
  EXPECT_EQ(find_in_slot(table, s.slot - 1), std::nullopt);
  EXPECT_EQ(find_in_slot(table, s.slot + kSlotSize), std::nullopt);
  const std::uint64_t slow = s.slot + slow_offset(s);
  for (std::uint64_t rip = s.slot; rip < s.slot + kSlotSize; ++rip) {
    // Behind its first instruction, what was before the site has been executed.
    const std::uint64_t want = rip == s.slot ? s.address - s.patched_at : rip <= slow ? s.address : s.address + 2;
    EXPECT_EQ(find_in_slot(table, rip), want);
  }
}

inline std::span<const std::uint8_t> original_of(const Site& s) { return {s.original, s.patched_size}; }

// Everything about one plan on its own. Nothing: there is no slot for it.
inline std::optional<Site> check_plan(const Code& code, std::uint64_t site, const Plan& plan, SlotPages& pages) {
  const auto slot = take_slot(pages, plan, site);
  if (!slot) return std::nullopt;
  if (plan.method != kMethodMov) {
    EXPECT_GE(*slot, plan.first);
    EXPECT_LT(*slot, plan.first + 256);
  }
  EXPECT_TRUE(SlotPages::near(*slot, site));
  check_slot(plan, site, *slot);
  const Site entry = to_site(plan, site, *slot);
  EXPECT_EQ(slow_offset(entry), slow_offset(plan));
  check_lookup(entry);

  const std::uint64_t begin = site - plan.patched_at;
  Code around{site - 32, code.window(site - 32, 64)};
  const Code before = around;
  const Bytes patch = encode_patch(plan, site, *slot);
  EXPECT_EQ(patch.size(), plan.patched_size);
  EXPECT_LE(patch.size(), 5u);
  EXPECT_EQ(patch.size(), plan.method == kMethodMov ? 5u : 2u);
  EXPECT_LE(begin + patch.size(), plan.method == kMethodPun ? site + 2 : site) << "site + 2 stays as it is";
  around.write(begin, patch);
  check_patched(around, entry);
  for (std::uint64_t a = site - 32; a < site + 32; ++a) {
    if (a < begin || a >= begin + plan.patched_size) {
      EXPECT_EQ(*around.at(a), before.bytes[a - around.address]);
    }
  }
  around.write(begin, original_of(entry));
  EXPECT_EQ(around.bytes, before.bytes);
  return entry;
}

}  // namespace supervise::stub
