// What the patcher takes for a patchable site, where it finds room, and patched code that runs.
#include "tracer/stub/patch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervisor/base/unique_fd.h"
#include "tests/tracer/patch_checks.h"

namespace supervise::stub {
namespace {

constexpr std::uint64_t kSite = 0x7f00'0010'0000;

Code code_with(const Bytes& before, const Bytes& behind = {0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff}) {
  Code code{kSite - 48, Bytes(80, 0x90)};
  code.write(kSite - before.size(), before);
  code.write(kSite, Bytes{0x0f, 0x05});
  code.write(kSite + 2, behind);
  return code;
}

// The methods, in order, and how far before the site the first one begins: "A5B", "B", "C2B".
std::string methods(const Bytes& before, int nr) {
  std::string out;
  for (const Plan& plan : plans_of(code_with(before), kSite, nr)) {
    out += static_cast<char>(plan.method);
    if (plan.patched_at) out += std::to_string(plan.patched_at);
  }
  return out;
}

TEST(Patch, NoSyscallInstructionNoPlan) {
  Code code = code_with({});
  *code.at(kSite + 1) = 0x34;  // sysenter
  EXPECT_TRUE(plans_of(code, kSite, 1).empty());
}

TEST(Patch, TheMovOfTheNumber) {
  EXPECT_EQ(methods({0xb8, 0x27, 0, 0, 0}, 39), "A5B");
  EXPECT_EQ(methods({0xb8, 0x27, 0, 0, 0}, 40), "B") << "the number came from elsewhere";
  EXPECT_EQ(methods({0xb8, 0x06, 0x01, 0, 0}, 262), "A5B");
  EXPECT_EQ(methods({0xb8, 0, 0, 0, 0}, 0), "A5B");
  EXPECT_EQ(methods({0x48, 0xc7, 0xc0, 0x27, 0, 0, 0}, 39), "A7B") << "mov $39,%rax";
  EXPECT_EQ(methods({0x48, 0xc7, 0xc0, 0x27, 0, 0, 0}, 40), "B");
}

TEST(Patch, MovsToOtherRegisters) {
  EXPECT_EQ(methods({0x48, 0x89, 0xfe, 0xbf, 0x9c, 0xff, 0xff, 0xff}, 257), "A5B") << "mov $AT_FDCWD,%edi: open";
  EXPECT_EQ(methods({0x41, 0x89, 0xd2, 0xba, 0x08, 0, 0, 0}, 289), "A5B");
  EXPECT_EQ(methods({0x48, 0xc7, 0xc7, 0x01, 0, 0, 0}, 1), "A7B") << "mov $1,%rdi";
  EXPECT_EQ(methods({0x49, 0xc7, 0xc0, 0x01, 0, 0, 0}, 1), "A7B") << "mov $1,%r8";
  EXPECT_EQ(methods({0xbe, 0, 0, 1, 0}, 1), "B") << "hardly an argument";
}

// The end of __syscall_cp_asm of musl and of __syscall_cancel_arch of glibc 2.41, from `mov %rdi,%r11` on.
const Bytes kCancellable{0x49, 0x89, 0xfb, 0x48, 0x89, 0xf0, 0x48, 0x89, 0xd7, 0x48, 0x89, 0xce,
                         0x4c, 0x89, 0xc2, 0x4d, 0x89, 0xca, 0x4c, 0x8b, 0x44, 0x24, 0x08, 0x4c,
                         0x8b, 0x4c, 0x24, 0x10, 0x4c, 0x89, 0x5c, 0x24, 0x08};

TEST(Patch, TheOneCallOfTheCancellationPoints) {
  EXPECT_EQ(methods(kCancellable, 0), "A5B");
  EXPECT_EQ(methods(kCancellable, 257), "A5B");
  EXPECT_EQ(methods({0x4c, 0x89, 0x5c, 0x24, 0x08}, 0), "B") << "not known well enough";
}

TEST(Patch, WhatOnlyLooksLikeAMovIsLeftAlone) {
  const struct {
    const char* what;
    Bytes before;
    int nr;
  } cases[] = {
      {"mov $39,%r8d", {0x41, 0xb8, 0x27, 0, 0, 0}, 39},
      {"movabs", {0x48, 0xb8, 0x27, 0, 0, 0}, 39},
      {"mov $8,%r10d", {0x41, 0xba, 0x08, 0, 0, 0}, 14},
      {"movl $39,-0x48(%rbp)", {0xc7, 0x45, 0xb8, 0x27, 0, 0, 0}, 39},
      {"movl $39,-0x48(%rsi)", {0xc7, 0x46, 0xb8, 0x27, 0, 0, 0}, 39},
      {"movl $0,-0x41(%rsp)", {0xc7, 0x44, 0x24, 0xbf, 0, 0, 0, 0}, 1},
      {"cmpl $39,-0x48(%rdi)", {0x81, 0x7f, 0xb8, 0x27, 0, 0, 0}, 39},
      {"imul $39,-0x48(%rdi),%edi", {0x69, 0x7f, 0xb8, 0x27, 0, 0, 0}, 39},
      {"testl $1,-0x42(%rbx)", {0xf7, 0x43, 0xbe, 0x01, 0, 0, 0}, 1},
      {"mov 0x110(%rdi),%edi", {0x8b, 0xbf, 0x10, 0x01, 0, 0}, 1},
      {"mov 0x2d0(%rsi),%edi", {0x8b, 0xbe, 0xd0, 0x02, 0, 0}, 1},
      {"movzbl 0x110(%rdi),%edi", {0x0f, 0xb6, 0xbf, 0x10, 0x01, 0, 0}, 1},
      {"lea 0x0(,%rdi,4),%edx", {0x8d, 0x14, 0xbd, 0, 0, 0, 0}, 1},
      {"mov 0x10(,%rdi,4),%eax", {0x8b, 0x04, 0xbd, 0x10, 0, 0, 0}, 1},
      {"mov 0x110(%rdi,%rdi,4),%edi", {0x8b, 0xbc, 0xbf, 0x10, 0x01, 0, 0}, 1},
      {"movb $0,(%r8)", {0xbf, 0x41, 0xc6, 0, 0}, 1},
      {"cmpb $0,(%rax,%rbx)", {0xbe, 0x80, 0x3c, 0, 0}, 1},
  };
  for (const auto& c : cases) EXPECT_EQ(methods(c.before, c.nr), "B") << c.what;
}

TEST(Patch, TheXorOfAReadIsAPunOfItsOwn) {
  EXPECT_EQ(methods({0x31, 0xc0}, 0), "C2B");
  EXPECT_EQ(methods({0x31, 0xc0}, 1), "B");
  for (std::uint8_t other : {0x45, 0x44, 0x41, 0x48, 0x66, 0x0f, 0x83, 0x6b})
    EXPECT_EQ(methods({other, 0x31, 0xc0}, 0), "B") << "another instruction: " << int(other);
}

TEST(Patch, APunThatLeadsOutOfTheAddressSpaceIsNone) {
  const Code back = code_with({}, {0, 0, 0x80});   // 2 GiB back, and from there it is too far to return
  EXPECT_TRUE(plans_of(back, kSite, 1).empty());
  const Code on = code_with({}, {0xff, 0xff, 0x7f});
  EXPECT_TRUE(plans_of(on, kSite, 1).empty());
  for (const std::uint64_t site : {0x400000ull, 0x7fff'ffff'0000ull}) {
    Code code = code_with({}, {0, 0, static_cast<std::uint8_t>(site == 0x400000 ? 0xff : 0x01)});
    code.address = site - 48;
    EXPECT_TRUE(plans_of(code, site, 1).empty()) << site;
  }
}

TEST(Patch, NoPatchMayChangeWhatAnotherIsMadeOf) {
  // syscall; mov $60,%eax; syscall: the first one's pun would be made of the second one's mov.
  Code code{kSite - 32, Bytes(64, 0x90)};
  code.write(kSite, Bytes{0x0f, 0x05, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05});
  const auto first = plans_of(code, kSite, 231), second = plans_of(code, kSite + 7, 60);
  ASSERT_EQ(first.size(), 1u);
  ASSERT_EQ(second[0].method, kMethodMov);
  const Site done_first = to_site(first[0], kSite, 0x7f00'0000'0020);
  const Site done_second = to_site(second[0], kSite + 7, 0x7f00'0000'0020);
  EXPECT_TRUE(disturbs(second[0], kSite + 7, std::span(&done_first, 1)));
  EXPECT_TRUE(disturbs(first[0], kSite, std::span(&done_second, 1)));
  EXPECT_FALSE(disturbs(first[0], kSite, {}));
  Site far = done_second;
  far.address += 8;
  EXPECT_FALSE(disturbs(first[0], kSite, std::span(&far, 1)));
}

TEST(SlotPages, APageHoldsAHundredAndTwentySevenSlotsThatDoNotOverlap) {
  const Plan plan = plans_of(code_with({0xb8, 1, 0, 0, 0}), kSite, 1)[0];
  SlotPages pages;
  EXPECT_EQ(pages.find(plan, kSite), std::nullopt);
  pages.add_page(kSite - 0x4000000);
  pages.add_page(kSite - 0x80000000);  // too far
  unsigned slots = 0;
  for (; auto slot = pages.find(plan, kSite); ++slots) {
    EXPECT_EQ(*slot & ~0xfffull, kSite - 0x4000000);
    EXPECT_GE(*slot & 0xfff, 8u);
    pages.take(*slot);
    ASSERT_LT(slots, 127u) << "a slot twice";
  }
  EXPECT_EQ(slots, 127u);
}

TEST(SlotPages, APunIsGivenOneOfItsPlacesInThePageThatIsThere) {
  Plan plan;
  plan.method = kMethodPun;
  plan.first = kSite + 0xf80;  // 128 places in the first page, of which 97 hold a slot; the rest in the next
  SlotPages pages;
  auto wanted = pages.wanted(plan);
  ASSERT_EQ(wanted.size(), 2u);
  EXPECT_EQ(wanted[0].page, kSite);
  EXPECT_EQ(wanted[0].slot, plan.first);
  EXPECT_EQ(wanted[1].page, kSite + 0x1000);
  EXPECT_EQ(wanted[1].slot, kSite + 0x1008) << "behind the entry's address";
  EXPECT_EQ(pages.find(plan, kSite), std::nullopt);
  pages.add_page(kSite + 0x1000);
  EXPECT_EQ(pages.find(plan, kSite), kSite + 0x1008);
  EXPECT_EQ(pages.wanted(plan).size(), 1u);
  pages.take(kSite + 0x1008);
  pages.take(kSite + 0x1050);
  EXPECT_EQ(pages.find(plan, kSite), kSite + 0x1028);
  pages.take(kSite + 0x1028);
  EXPECT_EQ(pages.find(plan, kSite), kSite + 0x1070);
}

TEST(SlotPages, ACopyOfAForkIsItsOwn) {
  const Plan plan = plans_of(code_with({0xb8, 1, 0, 0, 0}), kSite, 1)[0];
  SlotPages parent;
  parent.add_page(kSite - 0x4000000);
  SlotPages child = parent;
  const auto slot = child.find(plan, kSite);
  child.take(*slot);
  EXPECT_EQ(parent.find(plan, kSite), slot);
  EXPECT_NE(child.find(plan, kSite), slot);
}

// ---- code that runs: no filter is there, so a slot's own syscall is an ordinary one

class PatchRun : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kCodePage = 0x2000'0000'0000, kEnter = kCodePage + 0xf00;

  void SetUp() override {
    code_ = map(kCodePage);
    set_enter({0x41, 0xff, 0xe3});  // jmp *%r11
  }
  void TearDown() override {
    for (void* page : mapped_) munmap(page, 4096);
  }
  std::uint8_t* map(std::uint64_t at) {
    void* page = mmap(reinterpret_cast<void*>(at), 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    EXPECT_EQ(page, reinterpret_cast<void*>(at));
    mapped_.push_back(page);
    return static_cast<std::uint8_t*>(page);
  }
  void set_enter(const Bytes& code) { memcpy(code_ + (kEnter - kCodePage), code.data(), code.size()); }

  // Puts code there, patches it with that method, leaves the site's address.
  void patch(const Bytes& code, std::size_t site_offset, int nr, Method method) {
    memcpy(code_ + 64, code.data(), code.size());
    site_ = kCodePage + 64 + site_offset;
    const Code now{kCodePage, Bytes(code_, code_ + 4096)};
    for (const Plan& plan : plans_of(now, site_, nr)) {
      if (plan.method != method) continue;
      std::uint64_t page = method == kMethodMov ? SlotPages::hints(site_)[0] : 0;
      std::uint64_t slot = page + 32;
      if (!page) {
        const auto wanted = SlotPages().wanted(plan);
        ASSERT_FALSE(wanted.empty());
        page = wanted[0].page;
        slot = wanted[0].slot;
      }
      std::uint8_t* there = map(page);
      memcpy(there, &kEnter, sizeof kEnter);
      const auto slot_code = encode_slot(plan, site_, slot);
      memcpy(there + (slot - page), slot_code.data(), slot_code.size());
      const Bytes jump = encode_patch(plan, site_, slot);
      memcpy(code_ + (site_ - plan.patched_at - kCodePage), jump.data(), jump.size());
      return;
    }
    FAIL() << "no such plan";
  }
  long run(long a = 0, long b = 0, long c = 0) const { return call(kCodePage + 64, a, b, c); }
  // Begins with `code` and goes on at `to`, which is in reach of a short jump.
  long run_at(const Bytes& code, std::uint64_t to) {
    memcpy(code_ + 32, code.data(), code.size());
    code_[32 + code.size()] = 0xeb;
    code_[33 + code.size()] = static_cast<std::uint8_t>(to - (kCodePage + 34 + code.size()));
    return call(kCodePage + 32, 0, 0, 0);
  }
  static long call(std::uint64_t at, long a, long b, long c) {
    return reinterpret_cast<long (*)(long, long, long)>(at)(a, b, c);
  }

  std::uint8_t* code_ = nullptr;
  std::uint64_t site_ = 0;
  std::vector<void*> mapped_;
};

// add $2,%r11; mov $123,%eax; jmp *%r11
const Bytes kMadeInProcess{0x49, 0x83, 0xc3, 0x02, 0xb8, 0x7b, 0, 0, 0, 0x41, 0xff, 0xe3};

TEST_F(PatchRun, MovOfTheNumber) {
  patch({0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3}, 5, 39, kMethodMov);
  EXPECT_EQ(run(), getpid());
  EXPECT_EQ(run_at({0xb8, 110, 0, 0, 0}, site_), getppid()) << "the site itself is a system call still";
  set_enter(kMadeInProcess);
  EXPECT_EQ(run(), 123) << "made in process: it goes on behind the site";
}

TEST_F(PatchRun, LongMovOfTheNumber) {
  patch({0x48, 0xc7, 0xc0, 39, 0, 0, 0, 0x0f, 0x05, 0xc3}, 7, 39, kMethodMov);
  EXPECT_EQ(run(), getpid());
  EXPECT_EQ(run_at({0xb8, 110, 0, 0, 0}, site_), getppid());
  set_enter(kMadeInProcess);
  EXPECT_EQ(run(), 123);
}

TEST_F(PatchRun, MovOfAnotherRegister) {
  const mode_t before = umask(0);
  // mov $SYS_umask,%eax; mov $0x3f,%edi; syscall; ret
  patch({0xb8, 95, 0, 0, 0, 0xbf, 0x3f, 0, 0, 0, 0x0f, 0x05, 0xc3}, 10, 95, kMethodMov);
  EXPECT_EQ(run(), 0);
  EXPECT_EQ(umask(before), 0x3fu) << "the register had its value";
  set_enter(kMadeInProcess);
  EXPECT_EQ(run(), 123);
}

TEST_F(PatchRun, TheOneCallOfTheCancellationPoints) {
  Bytes code = kCancellable;
  code.insert(code.end(), {0x0f, 0x05, 0xc3});
  patch(code, kCancellable.size(), SYS_read, kMethodMov);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd in(ends[0]), out(ends[1]);
  ASSERT_EQ(write(out.get(), "abcdef", 6), 6);
  char text[4] = {};
  using Cancellable = long (*)(long, long, long, long, long, long, long, long);
  const auto cancellable = reinterpret_cast<Cancellable>(kCodePage + 64);
  EXPECT_EQ(cancellable(7, SYS_read, in.get(), reinterpret_cast<long>(text), 3, 0, 0, 0), 3);
  EXPECT_STREQ(text, "abc");
  EXPECT_EQ(cancellable(7, SYS_getpid, 0, 0, 0, 0, 0, 0), getpid());
  set_enter(kMadeInProcess);
  EXPECT_EQ(cancellable(7, SYS_read, in.get(), reinterpret_cast<long>(text), 3, 0, 0, 0), 123);
}

TEST_F(PatchRun, PunOnTheCallItself) {
  // mov %edi,%eax; nop; syscall; mov %rax,%rdx; ret
  patch({0x89, 0xf8, 0x90, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0xc3}, 3, 39, kMethodPun);
  EXPECT_EQ(run(39), getpid());
  EXPECT_EQ(run(110), getppid()) << "the number may be another each time";
  set_enter(kMadeInProcess);
  EXPECT_EQ(run(39), 123);
}

TEST_F(PatchRun, PunOnTheXor) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd in(ends[0]), out(ends[1]);
  ASSERT_EQ(write(out.get(), "abcdef", 6), 6);
  patch({0x90, 0x31, 0xc0, 0x0f, 0x05, 0xc3}, 3, 0, kMethodXor);
  char text[4] = {};
  EXPECT_EQ(run(in.get(), reinterpret_cast<long>(text), 3), 3);
  EXPECT_STREQ(text, "abc");
  EXPECT_EQ(run_at({0xb8, 39, 0, 0, 0}, site_), getpid());
  set_enter(kMadeInProcess);
  EXPECT_EQ(run(in.get(), reinterpret_cast<long>(text), 3), 123);
}

}  // namespace
}  // namespace supervise::stub
