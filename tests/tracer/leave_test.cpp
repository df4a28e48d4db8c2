#include "tracer/stub/leave.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "tracer/stub/code.h"

namespace supervise::stub {
namespace {

constexpr std::uint64_t kBase = 7 * kWindow, kSite = 0x7f0012345678, kSlow = 0x7f0000001018;

struct LeaveTest : testing::Test {
  LeaveTest() {
    // What the thread has in the stub differs from what the application had in every register.
    regs.rdi = 101; regs.rsi = 102; regs.rdx = 103; regs.r10 = 104; regs.r8 = 105; regs.r9 = 106;
    regs.rsp = 107; regs.rbx = 108; regs.rbp = 109;
    regs.r12 = 110; regs.r13 = 111; regs.r14 = 112; regs.r15 = 113;
    regs.rax = 0xdead; regs.r11 = 0; regs.orig_rax = ~0ull;
    area.rax = 1; area.rdi = 3; area.rsi = 0x1000; area.rdx = 64; area.r10 = 4; area.r8 = 5; area.r9 = 6;
    area.rsp = 0x7ffff000; area.rbx = 8; area.rbp = 9;
    area.r12 = 12; area.r13 = 13; area.r14 = 14; area.r15 = 15;
    area.slot = kSlow;
    area.result = 64;
  }
  Was leave_at(std::uint64_t offset) {
    regs.rip = kBase + kCode + offset;
    return leave(regs, area, head, kBase, [](std::uint64_t slow) -> std::optional<std::uint64_t> {
      if (slow == kSlow) return kSite;
      return std::nullopt;
    });
  }
  void expect_kept() const {
    EXPECT_EQ(regs.rsp, area.rsp);
    EXPECT_EQ(regs.rbx, area.rbx);
    EXPECT_EQ(regs.rbp, area.rbp);
    EXPECT_EQ(regs.r12, area.r12);
    EXPECT_EQ(regs.r13, area.r13);
    EXPECT_EQ(regs.r14, area.r14);
    EXPECT_EQ(regs.r15, area.r15);
  }
  void expect_args() const {
    EXPECT_EQ(regs.rdi, area.rdi);
    EXPECT_EQ(regs.rsi, area.rsi);
    EXPECT_EQ(regs.rdx, area.rdx);
    EXPECT_EQ(regs.r10, area.r10);
    EXPECT_EQ(regs.r8, area.r8);
    EXPECT_EQ(regs.r9, area.r9);
  }
  void expect_not_made() const {
    EXPECT_EQ(regs.rip, kSite);
    EXPECT_EQ(regs.rax, area.rax);
    EXPECT_LT(static_cast<long>(regs.orig_rax), 0) << "the kernel would restart a call";
  }
  void expect_made(std::uint64_t result) const {
    EXPECT_EQ(regs.rip, kSite + 2);
    EXPECT_EQ(regs.rax, result);
  }
  user_regs_struct regs{};
  Area area{};
  const CodeHead& head = code_head();
};

TEST_F(LeaveTest, OutsideNothingChanges) {
  regs.rip = kSite;
  const auto before = regs;
  EXPECT_EQ(leave(regs, area, head, kBase, [](std::uint64_t) { return std::optional<std::uint64_t>(1); }), Was::Outside);
  EXPECT_EQ(memcmp(&before, &regs, sizeof regs), 0);
  regs.rip = 6 * kWindow + kCode + head.native_insn;  // another window is not ours
  EXPECT_EQ(leave(regs, area, head, kBase, [](std::uint64_t) { return std::optional<std::uint64_t>(1); }), Was::Outside);
}

TEST_F(LeaveTest, OnTheWayInTheRegistersAreTheApplicationsStill) {
  for (std::uint32_t at = head.enter; at < head.entered; ++at) {
    regs.r11 = kSlow;
    regs.rax = 1;
    ASSERT_EQ(leave_at(at), Was::NotMade) << at;
    expect_not_made();
    EXPECT_EQ(regs.rdi, 101u);
    EXPECT_EQ(regs.rsp, 107u);
  }
}

TEST_F(LeaveTest, BeforeTheCallAllIsUndone) {
  area.stage = kEntered;
  for (std::uint32_t at = head.entered; at <= head.native_insn; ++at) {
    if (at >= head.leaving && at < head.leave_end) continue;
    ASSERT_EQ(leave_at(at), Was::NotMade) << at;
    expect_not_made();
    expect_kept();
    expect_args();
  }
}

TEST_F(LeaveTest, BehindTheCallItsResultIsInRax) {
  area.stage = kEntered;
  for (std::uint32_t at = head.native_insn + 2; at < head.native_recorded; ++at) {
    regs.rax = 4096;
    regs.orig_rax = 1;
    ASSERT_EQ(leave_at(at), Was::Untold) << at;
    expect_made(4096);
    expect_kept();
    expect_args();
    // Only right behind the instruction the kernel may still restart the call.
    EXPECT_EQ(static_cast<long>(regs.orig_rax) >= 0, at == head.native_insn + 2);
  }
}

TEST_F(LeaveTest, ARestartIsTheKernelsAndHappensAtTheSite) {
  area.stage = kEntered;
  regs.rax = static_cast<unsigned long long>(-512);
  regs.orig_rax = 1;
  ASSERT_EQ(leave_at(head.native_insn + 2), Was::Untold);
  EXPECT_EQ(regs.rip - 2, kSite);
  EXPECT_EQ(regs.orig_rax, 1u);
}

TEST_F(LeaveTest, AfterItTheStageSaysWhoKnows) {
  const std::uint32_t in_the_middle = head.native_recorded;
  area.stage = kExecuted;
  EXPECT_EQ(leave_at(in_the_middle), Was::Untold);
  expect_made(64);
  area.stage = kDone;
  EXPECT_EQ(leave_at(in_the_middle), Was::Made);
  expect_made(64);
  expect_kept();
  expect_args();
}

TEST_F(LeaveTest, AtATracedCallTheArgumentsAreThoseOfThePiece) {
  area.stage = kEntered;
  ASSERT_EQ(leave_at(head.traced_entry), Was::NotMade);
  expect_not_made();
  expect_kept();
  EXPECT_EQ(regs.rsi, 102u);
  EXPECT_EQ(regs.rdx, 103u);

  regs.rax = 32;
  ASSERT_EQ(leave_at(head.traced_entry + 2), Was::Made);
  expect_made(32);
  EXPECT_EQ(regs.orig_rax, area.rax);
}

TEST_F(LeaveTest, AReportThatWasNotHeardIsToldNow) {
  area.stage = kExecuted;
  area.result = -5;
  ASSERT_EQ(leave_at(head.traced_result), Was::Untold);
  expect_made(static_cast<std::uint64_t>(-5));
  expect_kept();
}

TEST_F(LeaveTest, ATracedCallThatHasEndedIsMade) {
  area.stage = kEntered;
  for (std::uint32_t at = head.traced_back; at < head.traced_recorded; ++at) {
    regs.rax = 7;
    ASSERT_EQ(leave_at(at), Was::Made) << at;
    expect_made(7);
    expect_kept();
    expect_args();
  }
}

TEST_F(LeaveTest, OnTheWayOutTheTargetTells) {
  for (std::uint32_t at = head.leaving; at < head.leave_end; ++at) {
    regs.r11 = kSlow;
    regs.rax = 1;
    ASSERT_EQ(leave_at(at), Was::NotMade) << at;
    expect_not_made();
    regs.r11 = kSlow + kSlotReturn;
    regs.rax = 64;
    ASSERT_EQ(leave_at(at), Was::Made) << at;
    expect_made(64);
    EXPECT_EQ(regs.rdi, 101u);
  }
}

TEST(StubCode, IsWhereTheFilterLooks) {
  const CodeHead& head = code_head();
  EXPECT_EQ(head.magic, kMagic);
  EXPECT_EQ(head.version, kVersion);
  EXPECT_LE(code_bytes().size(), kCodeSize);
  EXPECT_LT(head.native_insn, head.size);
  EXPECT_GE(head.traced_entry, kCodeSize);
  EXPECT_LT(head.traced_result + 2, kCodeSize + kTracedSize);
  for (unsigned w = kFirstWindow; w <= kLastWindow; ++w) {
    const std::uint64_t code = w * kWindow + kCode;
    EXPECT_EQ((code + head.native_insn) & kCodeMask, kCode);
    EXPECT_NE((code + head.traced_entry) & kCodeMask, kCode);
  }
  const auto insn = code_bytes().subspan(head.native_insn, 2);
  EXPECT_EQ(insn[0], std::byte{0x0f});
  EXPECT_EQ(insn[1], std::byte{0x05});
}

}  // namespace
}  // namespace supervise::stub
