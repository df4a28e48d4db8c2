#include "tracer/stub/patch.h"

#include <algorithm>
#include <cstring>

namespace supervise::stub {
namespace {

constexpr std::uint64_t kLowest = 0x10000, kHighest = 0x7ffffffff000 - 2 * SlotPages::kPage;
constexpr std::uint8_t kLea[] = {0x4c, 0x8d, 0x1d};  // lea disp32(%rip),%r11
constexpr std::uint8_t kJmpMemory[] = {0xff, 0x25};  // jmp *disp32(%rip)
constexpr std::uint64_t kLeaSize = 7, kJmpMemorySize = 6, kSyscallSize = 2, kJmpSize = 5;

std::int32_t load32(const std::uint8_t* at) {
  std::int32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

void store32(std::uint8_t* at, std::uint64_t value) {
  const auto low = static_cast<std::uint32_t>(value);
  memcpy(at, &low, sizeof low);
}

constexpr std::int32_t kAtFdCwd = -100;

// The end of __syscall_cp_asm (musl) and __syscall_cancel_arch (glibc from 2.41 on), through which all calls go
// that are cancellation points: mov 8(%rsp),%r8; mov 16(%rsp),%r9; mov %r11,8(%rsp). The last one can be moved.
constexpr std::uint8_t kCancellable[] = {0xca, 0x4c, 0x8b, 0x44, 0x24, 0x08, 0x4c, 0x8b,
                                         0x4c, 0x24, 0x10, 0x4c, 0x89, 0x5c, 0x24, 0x08};
static_assert(sizeof kCancellable == kBefore);

bool one_of(std::uint8_t byte, std::initializer_list<int> list) { return std::ranges::find(list, byte) != list.end(); }

// Of an instruction with a ModRM byte: its mode and its base.
unsigned mode(std::uint8_t modrm) { return modrm >> 6; }
unsigned base(std::uint8_t modrm) { return modrm & 7; }

// May this be an opcode (the last byte of one) that takes a ModRM byte from b8 to bf?
bool takes_modrm(std::uint8_t opcode) {
  if (opcode < 0x40) return (opcode & 7) < 4;         // add, or, adc, sbb, and, sub, xor, cmp
  if (opcode >= 0x80 && opcode <= 0x8f) return true;  // group 1, test, xchg, mov, lea, pop
  if (opcode >= 0xd8 && opcode <= 0xdf) return true;  // x87
  return one_of(opcode, {0x62, 0x63, 0x69, 0x6b, 0xc0, 0xc1, 0xc4, 0xc5, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xf6,
                         0xf7, 0xfe, 0xff});
}

// Is `mov` in truth the disp8 of an instruction with an imm32, which is what follows?
bool is_operand(const std::uint8_t* mov) {
  const auto takes_imm32 = [](std::uint8_t opcode) { return one_of(opcode, {0x69, 0x81, 0xc7, 0xf7}); };
  if (takes_imm32(mov[-2]) && mode(mov[-1]) == 1 && base(mov[-1]) != 4) return true;
  return takes_imm32(mov[-3]) && mode(mov[-2]) == 1 && base(mov[-2]) == 4;
}

// Is it in truth the ModRM or SIB byte of an instruction with a disp32? `opcode` is b9..bf.
bool is_memory_operand(const std::uint8_t* mov, std::int32_t value) {
  if (mov[0] == 0xbd && mode(mov[-1]) == 0 && base(mov[-1]) == 4) return true;  // index without a base: always disp32
  if (value >= -0x80 && value < 0x80) return false;                            // a disp8 would have done
  if (mode(mov[-1]) == 2 && base(mov[-1]) == 4) return true;
  return takes_modrm(mov[-1]) || mov[-1] == 0x0f || mov[-2] == 0x0f || mov[-3] == 0x0f || one_of(mov[-3], {0xc5}) ||
         one_of(mov[-4], {0xc4, 0x8f}) || mov[-5] == 0x62;
}

// Several short instructions that end at the site need an immediate byte before the operand's last zeros.
bool is_several(std::int32_t value) {
  const auto low = static_cast<std::uint8_t>(value), next = static_cast<std::uint8_t>(value >> 8);
  return one_of(low, {0x0f, 0x6b, 0x80, 0x82, 0x83, 0xc0, 0xc1, 0xc6, 0xc8}) ||
         one_of(next, {0x6b, 0x80, 0x82, 0x83, 0xc0, 0xc1, 0xc6});
}

// Length of the mov that ends at the site and can be moved; 0: there is none, or it may be something else.
unsigned mov_before(std::span<const std::uint8_t, kBefore> before, int nr) {
  const std::uint8_t* end = before.data() + kBefore;
  if (std::ranges::equal(before, kCancellable)) return 5;
  const std::int32_t value = load32(end - 4);
  // An immediate may be a sign-extended 64-bit one here: all bytes are the instruction's own.
  if (one_of(end[-7], {0x48, 0x49}) && end[-6] == 0xc7 && (end[-5] & 0xf8) == 0xc0) {
    const bool number = end[-7] == 0x48 && end[-5] == 0xc0;
    return number ? (value == nr ? 7 : 0) : (value >= -0x80 && value < 0x10000 ? 7 : 0);
  }
  const std::uint8_t* mov = end - 5;
  if (mov[0] < 0xb8 || mov[0] > 0xbf || is_operand(mov)) return 0;
  if ((mov[-1] & 0xf0) == 0x40) return 0;
  if (mov[0] == 0xb8) return value == nr ? 5 : 0;
  const bool plausible = value == kAtFdCwd || (value >= 0 && value < 0x10000 && (value < 0x80 || !is_several(value)));
  return plausible && !is_memory_operand(mov, value) ? 5 : 0;
}

std::uint64_t pun_target(std::uint64_t jump, const std::uint8_t* high) {
  const std::uint8_t displacement[] = {0, high[0], high[1], high[2]};
  return jump + kJmpSize + static_cast<std::uint64_t>(std::int64_t{load32(displacement)});
}

// From the site to all of the slots there, and back.
bool reachable(std::uint64_t target, std::uint64_t site) {
  return target >= kLowest && target < kHighest && SlotPages::near(target, site);
}

Plan make_plan(Method method, std::uint8_t patched_at, std::uint8_t patched_size, const std::uint8_t* code) {
  Plan p;
  p.method = method;
  p.patched_at = patched_at;
  p.patched_size = patched_size;
  std::copy_n(code, std::max(patched_at, patched_size), p.original.begin());
  return p;
}

}  // namespace

std::vector<Plan> plan_patch(std::uint64_t site, int nr, std::span<const std::uint8_t, kBefore> before,
                             std::span<const std::uint8_t, kAfter> after) {
  std::vector<Plan> plans;
  if (after[0] != 0x0f || after[1] != 0x05) return plans;
  const std::uint8_t* end = before.data() + kBefore;
  if (const unsigned length = mov_before(before, nr)) {
    plans.push_back(make_plan(kMethodMov, static_cast<std::uint8_t>(length), kJmpSize, end - length));
  }
  // Not: of other registers or 16 bits, nor the end of an instruction with an imm8.
  if (nr == 0 && end[-2] == 0x31 && end[-1] == 0xc0 && (end[-3] & 0xf0) != 0x40 &&
      !one_of(end[-3], {0x0f, 0x66, 0x6b, 0x80, 0x83, 0xc0, 0xc1, 0xc6})) {
    const std::uint8_t high[] = {0x0f, 0x05, after[2]};
    Plan p = make_plan(kMethodXor, 2, 2, end - 2);
    p.first = pun_target(site - 2, high);
    if (reachable(p.first, site)) plans.push_back(p);
  }
  Plan p = make_plan(kMethodPun, 0, 2, after.data());
  p.first = pun_target(site, &after[2]);
  if (reachable(p.first, site)) plans.push_back(p);
  return plans;
}

bool disturbs(const Plan& plan, std::uint64_t site, std::span<const Site> patched) {
  const std::uint64_t begin = site - plan.patched_at;
  const auto overlap = [](std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
    return a < b + b_size && b < a + a_size;
  };
  return std::ranges::any_of(patched, [&](const Site& other) {
    const std::uint64_t there = other.address - other.patched_at;
    return overlap(begin, plan.patched_size, there, kJmpSize) || overlap(begin, kJmpSize, there, other.patched_size);
  });
}

std::uint64_t slow_offset(const Plan& plan) { return plan.patched_at + kLeaSize + kJmpMemorySize; }

std::uint64_t slow_offset(const Site& site) { return site.patched_at + kLeaSize + kJmpMemorySize; }

std::array<std::uint8_t, kSlotSize> encode_slot(const Plan& plan, std::uint64_t site, std::uint64_t slot) {
  std::array<std::uint8_t, kSlotSize> code;
  code.fill(0xcc);
  std::uint8_t* at = code.data();
  const auto here = [&] { return slot + static_cast<std::uint64_t>(at - code.data()); };
  const std::uint64_t slow = slot + slow_offset(plan);
  at = std::copy_n(plan.original.begin(), plan.patched_at, at);
  std::copy_n(kLea, sizeof kLea, at);
  store32(at + 3, slow - (here() + kLeaSize));
  at += kLeaSize;
  const std::uint64_t entry = slot & ~(SlotPages::kPage - 1);
  std::copy_n(kJmpMemory, sizeof kJmpMemory, at);
  store32(at + 2, entry - (here() + kJmpMemorySize));
  at += kJmpMemorySize;
  *at++ = 0x0f;
  *at++ = 0x05;
  *at = 0xe9;
  store32(at + 1, site + kSyscallSize - (here() + kJmpSize));
  return code;
}

std::vector<std::uint8_t> encode_patch(const Plan& plan, std::uint64_t site, std::uint64_t slot) {
  if (plan.method != kMethodMov) return {0xe9, static_cast<std::uint8_t>(slot - plan.first)};
  std::vector<std::uint8_t> jump(kJmpSize, 0xe9);
  store32(&jump[1], slot - (site - plan.patched_at + kJmpSize));
  return jump;
}

Site to_site(const Plan& plan, std::uint64_t site, std::uint64_t slot) {
  Site entry{};
  entry.address = site;
  entry.slot = slot;
  entry.method = static_cast<std::uint8_t>(plan.method);
  entry.patched_at = plan.patched_at;
  entry.patched_size = plan.patched_size;
  std::ranges::copy(plan.original, entry.original);
  return entry;
}

bool SlotPages::near(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t distance = a > b ? a - b : b - a;
  return distance < 0x7fff0000;
}

// Overlaps no slot; lies in one page, behind its entry pointer.
bool SlotPages::free(std::uint64_t slot) const {
  const std::uint64_t offset = slot & (kPage - 1);
  if (offset < kEntrySize || offset + kSlotSize > kPage) return false;
  auto next = slots_.lower_bound(slot);
  if (next != slots_.end() && *next < slot + kSlotSize) return false;
  return next == slots_.begin() || *std::prev(next) + kSlotSize <= slot;
}

std::optional<std::uint64_t> SlotPages::find(const Plan& plan, std::uint64_t site) const {
  if (plan.method != kMethodMov) {
    for (std::uint64_t slot = plan.first; slot < plan.first + 256; ++slot)
      if (pages_.contains(slot & ~(kPage - 1)) && free(slot)) return slot;
    return std::nullopt;
  }
  for (std::uint64_t page : pages_) {
    if (!near(page, site)) continue;
    for (std::uint64_t slot = page + kSlotSize; slot + kSlotSize <= page + kPage; slot += kSlotSize)
      if (free(slot)) return slot;
  }
  return std::nullopt;
}

std::vector<SlotPages::Wanted> SlotPages::wanted(const Plan& plan) const {
  std::vector<Wanted> list;
  if (plan.method == kMethodMov) return list;
  for (std::uint64_t slot = plan.first; slot < plan.first + 256; ++slot) {
    const std::uint64_t page = slot & ~(kPage - 1);
    if (pages_.contains(page) || !free(slot) || (!list.empty() && list.back().page == page)) continue;
    list.push_back({page, slot});
  }
  return list;
}

std::vector<std::uint64_t> SlotPages::hints(std::uint64_t site) {
  std::vector<std::uint64_t> list;
  for (std::int64_t away : {-0x4000000L, -0x20000000L, 0x20000000L, 0x4000000L, -0x60000000L, 0x60000000L}) {
    const auto at = static_cast<std::int64_t>(site & ~(kPage - 1)) + away;
    if (at > static_cast<std::int64_t>(kLowest) && at < static_cast<std::int64_t>(kHighest))
      list.push_back(static_cast<std::uint64_t>(at));
  }
  return list;
}

std::optional<std::uint64_t> find_in_slot(const std::map<std::uint64_t, Site>& by_slot, std::uint64_t rip) {
  auto it = by_slot.upper_bound(rip);
  if (it == by_slot.begin()) return std::nullopt;
  const Site& site = std::prev(it)->second;
  if (rip >= site.slot + kSlotSize) return std::nullopt;
  const std::uint64_t slow = site.slot + slow_offset(site);
  // What was moved here is one instruction, which must not be made twice: r11 is no longer what it was.
  if (rip == site.slot) return site.address - site.patched_at;
  return rip <= slow ? site.address : site.address + kSyscallSize;
}

}  // namespace supervise::stub
