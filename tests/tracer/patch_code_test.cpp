// The patcher on the code of real programs, and on random bytes.
#include <elf.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "tests/tracer/patch_checks.h"

namespace supervise::stub {
namespace {

// The executable segments of an ELF file, where they would lie in memory.
std::vector<Code> executable_code(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const Bytes file((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  Elf64_Ehdr head{};
  if (file.size() < sizeof head) return {};
  memcpy(&head, file.data(), sizeof head);
  if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64) return {};
  const std::uint64_t base = head.e_type == ET_DYN ? 0x7f65'4321'0000 : 0;
  std::vector<Code> list;
  for (unsigned i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr p;
    memcpy(&p, file.data() + head.e_phoff + i * sizeof p, sizeof p);
    if (p.p_type != PT_LOAD || !(p.p_flags & PF_X)) continue;
    list.push_back({base + p.p_vaddr, Bytes(file.begin() + static_cast<std::ptrdiff_t>(p.p_offset),
                                            file.begin() + static_cast<std::ptrdiff_t>(p.p_offset + p.p_filesz))});
  }
  return list;
}

std::vector<std::uint64_t> sites_of(const Code& code) {
  const Bytes insn{0x0f, 0x05};
  std::vector<std::uint64_t> sites;
  for (auto at = code.bytes.begin();; ++at) {
    at = std::search(at, code.bytes.end(), insn.begin(), insn.end());
    if (at == code.bytes.end()) return sites;
    const auto offset = static_cast<std::uint64_t>(at - code.bytes.begin());
    // A patch's bytes must lie in the segment for the checks to write there.
    if (offset >= 8 && offset + 8 <= code.bytes.size()) sites.push_back(code.address + offset);
  }
}

// The numbers that the call there could have: the one that is loaded right before it, and others.
std::vector<int> numbers_at(const Code& code, std::uint64_t site) {
  const Bytes before = code.window(site - 4, 4);
  std::int32_t value;
  memcpy(&value, before.data(), sizeof value);
  std::vector<int> numbers{0, 1};
  if (value >= 0 && value < 512) numbers.insert(numbers.begin(), value);
  return numbers;
}

struct Tally {
  unsigned sites = 0, mov_number = 0, mov_other = 0, with_xor = 0, pun_only = 0, none = 0;
};

void count(Tally& tally, const std::vector<Plan>& plans) {
  ++tally.sites;
  if (plans.empty()) ++tally.none;
  else if (plans[0].method == kMethodXor) ++tally.with_xor;
  else if (plans[0].method == kMethodPun) ++tally.pun_only;
  else if (plans[0].original[0] == 0xb8 || plans[0].original[2] == 0xc0) ++tally.mov_number;
  else ++tally.mov_other;
}

// All sites of a program patched at once: none breaks another, and all can be undone.
void check_together(const Code& original, std::mt19937_64& random) {
  Code code = original;
  SlotPages pages;
  std::vector<Site> done;
  auto sites = sites_of(code);
  std::ranges::shuffle(sites, random);
  for (std::uint64_t site : sites) {
    const auto plans = plans_of(code, site, numbers_at(code, site)[0]);
    for (const Plan& plan : plans) {
      // Any plan, so that all methods meet their neighbours.
      if (plans.size() > 1 && random() % 2) continue;
      if (disturbs(plan, site, done)) continue;
      const auto slot = take_slot(pages, plan, site);
      if (!slot) continue;
      code.write(site - plan.patched_at, encode_patch(plan, site, *slot));
      done.push_back(to_site(plan, site, *slot));
      break;
    }
  }
  std::vector<std::uint64_t> slots;
  for (const Site& s : done) {
    check_patched(code, s);
    slots.push_back(s.slot);
  }
  std::ranges::sort(slots);
  for (std::size_t i = 1; i < slots.size(); ++i) EXPECT_GE(slots[i], slots[i - 1] + kSlotSize);
  std::ranges::shuffle(done, random);
  for (const Site& s : done) code.write(s.address - s.patched_at, original_of(s));
  EXPECT_TRUE(code.bytes == original.bytes);
}

void check_program(const std::string& path, unsigned at_least) {
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
  std::mt19937_64 random(20260);
  Tally tally;
  for (const Code& code : executable_code(path)) {
    for (std::uint64_t site : sites_of(code)) {
      SCOPED_TRACE(fmt::format("{} at {:#x}", path, site));
      const auto numbers = numbers_at(code, site);
      for (int nr : numbers) {
        for (const Plan& plan : plans_of(code, site, nr)) {
          SlotPages pages;
          EXPECT_TRUE(check_plan(code, site, plan, pages)) << "where all pages can be had there is a slot";
        }
      }
      count(tally, plans_of(code, site, numbers[0]));
      if (::testing::Test::HasFailure()) return;
    }
    for (int round = 0; round < 3; ++round) check_together(code, random);
  }
  fmt::print("{}: {} sites; A {} (number {}, other register {}), C {}, B alone {}, none {}\n", path, tally.sites,
             tally.mov_number + tally.mov_other, tally.mov_number, tally.mov_other, tally.with_xor, tally.pun_only,
             tally.none);
  EXPECT_GE(tally.mov_number + tally.mov_other, at_least) << "of " << path;
}

std::string library(const std::string& name) {
  for (const char* folder : {"/usr/lib/x86_64-linux-gnu/", "/lib/x86_64-linux-gnu/", "/lib64/", "/usr/lib64/"})
    if (std::filesystem::exists(folder + name)) return folder + name;
  return "/lib64/" + name;
}

// Of glibc 2.36 that is 437 of 529; other versions differ little.
TEST(PatchCode, OfTheCLibraryMostSitesTakeTheirMov) { check_program(library("libc.so.6"), 300); }
TEST(PatchCode, OfTheDynamicLinker) { check_program(library("ld-linux-x86-64.so.2"), 20); }
TEST(PatchCode, OfTheThreadLibrary) { check_program(library("libpthread.so.0"), 0); }
TEST(PatchCode, OfTheMathLibrary) { check_program(library("libm.so.6"), 0); }
TEST(PatchCode, OfMusl) { check_program("/usr/lib/x86_64-linux-musl/libc.so", 150); }
TEST(PatchCode, OfPython) { check_program("/usr/bin/python3", 0); }
TEST(PatchCode, OfTheShell) { check_program("/bin/bash", 0); }
TEST(PatchCode, OfBusybox) { check_program("/bin/busybox", 0); }
TEST(PatchCode, OfThisProgram) { check_program("/proc/self/exe", 0); }

TEST(PatchCode, OfRandomBytes) {
  std::mt19937_64 random(4711);
  const auto byte = [&] { return static_cast<std::uint8_t>(random()); };
  SlotPages crowded;
  unsigned with_mov = 0, with_xor = 0, puns = 0;
  for (int round = 0; round < 9000; ++round) {
    Code code{0, Bytes(64)};
    for (auto& b : code.bytes) b = byte();
    // All of the address space, its edges too.
    const unsigned bits = 17 + static_cast<unsigned>(random() % 31);
    const std::uint64_t site = 0x20000 + (random() & ((1ull << bits) - 1));
    if (site > 0x7fffffff0000) continue;
    code.address = site - 32;
    code.write(site, Bytes{0x0f, 0x05});
    int nr = static_cast<int>(random() % 500);
    const auto low = static_cast<std::uint8_t>(nr), high = static_cast<std::uint8_t>(nr >> 8);
    const auto reg = [&](int opcode) { return static_cast<std::uint8_t>(opcode + static_cast<int>(random() % 8)); };
    switch (random() % 4) {
      case 0: code.write(site - 5, Bytes{reg(0xb8), low, high, 0, 0}); break;
      case 1: code.write(site - 7, Bytes{0x48, 0xc7, reg(0xc0), low, high, 0, 0}); break;
      case 2: nr = 0; code.write(site - 2, Bytes{0x31, 0xc0}); break;
      default: break;
    }
    SCOPED_TRACE(fmt::format("round {} site {:#x}", round, site));
    for (const Plan& plan : plans_of(code, site, nr)) {
      SlotPages pages;
      EXPECT_TRUE(check_plan(code, site, plan, pages));
      check_plan(code, site, plan, crowded);  // beside thousands of others; there may be no place
      with_mov += plan.method == kMethodMov;
      with_xor += plan.method == kMethodXor;
      puns += plan.method == kMethodPun;
    }
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(with_mov, 2000u);
  EXPECT_GT(with_xor, 500u);
  EXPECT_GT(puns, 4000u);
}

}  // namespace
}  // namespace supervise::stub
