// How a site (a `syscall` instruction) becomes a jump into the stub. Pure: bytes and addresses.
//
// A patch keeps `site` (where restarted calls and interrupted threads go) and `site + 2` (where calls
// return) valid, and changes nothing but its `patched_size` bytes:
//   A  the `mov $imm32,%reg` right before the site becomes `jmp rel32`; the mov goes into the slot. Of the
//      7-byte form (48/49 c7 c0+r) the last two bytes stay, which nobody reaches. So does the mov before the
//      one call of C libraries' cancellation points, which is known by all of the bytes before it
//   B  the syscall's own two bytes become `e9 d0`: with the next three bytes of code as the rest of the
//      displacement, whose lowest byte d0 is free: one of 256 targets
//   C  as B, on `xor %eax,%eax` before the site; the syscall itself is part of the displacement
// A slot (layout.h) lies within 2 GiB of its site, and in one page: a pun's 256 targets always hold places
// that do not cross into the next one.
//
// That the bytes before a site are the instruction that they look like can't be proven from them alone. What
// could be there instead, given that the site is an instruction (it was executed):
//   - with a REX prefix another mov: refused
//   - the operand of an instruction that stores or tests an imm32 (69, 81, c7, f7 with a disp8 that looks like
//     the opcode): refused
//   - a memory operand with disp32. Of `mov $nr,%eax` the base would be %rax, which holds the number. Of the
//     others it is only where a disp8 could not hold the value, or there is no base register: refused there
//   - several instructions: the last would be `add %al,(%rax)`, the zeros at the operand's end
// What remains: code that no compiler writes (a prefix before the mov that it does not need, a displacement
// longer than it must be, an addition through %rax that holds a call's number), and code that jumps into the
// middle of an instruction.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "tracer/stub/layout.h"

namespace supervise::stub {

inline constexpr std::size_t kBefore = 16, kAfter = 16;  // bytes of code that a plan is made from

struct Plan {
  Method method = kMethodNone;
  std::uint8_t patched_at = 0;   // bytes before the site at which the patch begins
  std::uint8_t patched_size = 0;
  std::array<std::uint8_t, 8> original{};  // what is there; the slot begins with what lies before the site
  std::uint64_t first = 0;       // B, C: the slot lies at first + d0, d0 in 0..255; A: 0, anywhere near
};

// In order of preference. `before` ends at the site, `after` begins there.
std::vector<Plan> plan_patch(std::uint64_t site, int nr, std::span<const std::uint8_t, kBefore> before,
                             std::span<const std::uint8_t, kAfter> after);

// The jumps of B and C are made of code around them: a patch that changes some of another's five bytes, or the
// other way round, must not be made.
bool disturbs(const Plan& plan, std::uint64_t site, std::span<const Site> patched);

// Bytes from the slot's begin to `slow`.
std::uint64_t slow_offset(const Site& site);
std::uint64_t slow_offset(const Plan& plan);
std::array<std::uint8_t, kSlotSize> encode_slot(const Plan& plan, std::uint64_t site, std::uint64_t slot);
// What goes to site - patched_at.
std::vector<std::uint8_t> encode_patch(const Plan& plan, std::uint64_t site, std::uint64_t slot);
// The entry of the site table (layout.h).
Site to_site(const Plan& plan, std::uint64_t site, std::uint64_t slot);

// The pages that hold slots; the first 8 bytes of each hold the address of the stub's entry.
class SlotPages {
 public:
  static constexpr std::uint64_t kPage = 4096, kEntrySize = 8;

  // In a page that is there.
  std::optional<std::uint64_t> find(const Plan& plan, std::uint64_t site) const;
  // A page to be mapped at exactly this place, and the slot in it (B, C).
  struct Wanted {
    std::uint64_t page, slot;
  };
  std::vector<Wanted> wanted(const Plan& plan) const;
  // Places to ask the kernel for a page near the site (A).
  static std::vector<std::uint64_t> hints(std::uint64_t site);
  static bool near(std::uint64_t a, std::uint64_t b);

  void add_page(std::uint64_t page) { pages_.insert(page); }
  void take(std::uint64_t slot) { slots_.insert(slot); }
  bool has_page(std::uint64_t page) const { return pages_.contains(page); }
  const std::set<std::uint64_t>& pages() const { return pages_; }
  const std::set<std::uint64_t>& slots() const { return slots_; }

 private:
  bool free(std::uint64_t slot) const;
  std::set<std::uint64_t> pages_, slots_;
};

// For a thread whose instruction pointer is in a slot: where it would be without it. Nothing: in none.
std::optional<std::uint64_t> find_in_slot(const std::map<std::uint64_t, Site>& by_slot, std::uint64_t rip);

}  // namespace supervise::stub
