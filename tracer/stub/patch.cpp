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

// Would a byte b8..bf behind this one be its ModRM byte?
bool takes_modrm(std::uint8_t opcode) {
  if (opcode < 0x40) return (opcode & 7) < 4;              // add, or, adc, sbb, and, sub, xor, cmp
  if (opcode >= 0x80 && opcode <= 0x8f) return true;       // group 1, test, xchg, mov, lea, pop
  for (std::uint8_t o : {0x62, 0x63, 0x69, 0x6b, 0xc0, 0xc1, 0xc4, 0xc5, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xf6, 0xf7, 0xfe, 0xff})
    if (opcode == o) return true;
  return opcode >= 0xd8 && opcode <= 0xdf;                 // x87
}

bool plain_mov(std::span<const std::uint8_t, kBefore> before, int nr) {
  const std::uint8_t* mov = before.data() + kBefore - 5;
  if (mov[0] < 0xb8 || mov[0] > 0xbf) return false;
  if ((mov[-1] & 0xf0) == 0x40) return false;  // REX: another register, or the end of something else
  const std::int32_t value = load32(mov + 1);
  if (mov[0] == 0xb8) return value == nr;
  if (mov[-2] == 0x0f || mov[-3] == 0x0f || takes_modrm(mov[-1])) return false;
  return value == -100 /* AT_FDCWD */ || (value >= 0 && value < 0x10000);
}

std::uint64_t pun_target(std::uint64_t jump, const std::uint8_t* high) {
  const std::uint32_t displacement = static_cast<std::uint32_t>(high[0]) << 8 | static_cast<std::uint32_t>(high[1]) << 16 |
                                     static_cast<std::uint32_t>(high[2]) << 24;
  return jump + kJmpSize + static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<std::int32_t>(displacement)));
}

bool reachable(std::uint64_t target) { return target >= kLowest && target < kHighest; }

}  // namespace

std::vector<Plan> plan_patch(std::uint64_t site, int nr, std::span<const std::uint8_t, kBefore> before,
                             std::span<const std::uint8_t, kAfter> after) {
  std::vector<Plan> plans;
  if (after[0] != 0x0f || after[1] != 0x05) return plans;
  const std::uint8_t* end = before.data() + kBefore;
  if (plain_mov(before, nr)) {
    Plan p;
    p.method = kMethodMov;
    p.patched_at = p.patched_size = p.prefix_size = 5;
    std::copy_n(end - 5, 5, p.original.begin());
    plans.push_back(p);
  }
  if (nr == 0 && end[-2] == 0x31 && end[-1] == 0xc0 && (end[-3] & 0xf0) != 0x40) {
    const std::uint8_t high[] = {0x0f, 0x05, after[2]};
    Plan p;
    p.method = kMethodXor;
    p.patched_at = p.patched_size = p.prefix_size = 2;
    std::copy_n(end - 2, 2, p.original.begin());
    p.first = pun_target(site - 2, high);
    if (reachable(p.first)) plans.push_back(p);
  }
  Plan p;
  p.method = kMethodPun;
  p.patched_size = 2;
  std::copy_n(after.begin(), 2, p.original.begin());
  p.first = pun_target(site, &after[2]);
  if (reachable(p.first)) plans.push_back(p);
  return plans;
}

std::uint64_t slow_offset(const Plan& plan) { return plan.prefix_size + kLeaSize + kJmpMemorySize; }

std::uint64_t slow_offset(const Site& site) {
  const std::uint64_t prefix = site.method == kMethodPun ? 0 : site.patched_size;
  return prefix + kLeaSize + kJmpMemorySize;
}

std::array<std::uint8_t, kSlotSize> encode_slot(const Plan& plan, std::uint64_t site, std::uint64_t slot) {
  std::array<std::uint8_t, kSlotSize> code;
  code.fill(0xcc);
  std::uint8_t* at = code.data();
  const auto here = [&] { return slot + static_cast<std::uint64_t>(at - code.data()); };
  const std::uint64_t slow = slot + slow_offset(plan);
  at = std::copy_n(plan.original.begin(), plan.prefix_size, at);
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
  if (plan.method != kMethodMov)
    return {0xe9, static_cast<std::uint8_t>(slot - plan.first)};
  std::vector<std::uint8_t> jump(kJmpSize, 0xe9);
  store32(&jump[1], slot - site);  // the jump ends where the site begins
  return jump;
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
  if (rip < slow) return site.address - site.patched_at;
  return rip == slow ? site.address : site.address + kSyscallSize;
}

}  // namespace supervise::stub
