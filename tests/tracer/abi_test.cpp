#include "tracer/abi_x86_64.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace supervise {
namespace {

TEST(Abi, ArgumentsLieInTheRegistersOfACall) {
  user_regs_struct r{};
  r.rdi = 1, r.rsi = 2, r.rdx = 3, r.r10 = 4, r.r8 = 5, r.r9 = 6, r.rcx = 99;
  EXPECT_EQ(args_of(r), (Args{1, 2, 3, 4, 5, 6}));
  set_args(r, {11, 12, 13, 14, 15, 16});
  EXPECT_EQ(args_of(r), (Args{11, 12, 13, 14, 15, 16}));
  EXPECT_EQ(r.r10, 14u);
  EXPECT_EQ(r.rcx, 99u) << "the kernel's own";
}

TEST(Abi, ARewoundCallIsMadeAnewAndNotRestartedByTheKernel) {
  user_regs_struct r{};
  r.rip = 0x1002;
  r.orig_rax = 35;
  r.rax = static_cast<unsigned long long>(-EINTR);
  ASSERT_TRUE(in_call(r));
  rewind_call(r);
  EXPECT_EQ(r.rip, 0x1000u);
  EXPECT_EQ(r.rax, 35u);
  EXPECT_FALSE(in_call(r));
}

TEST(Abi, ASkippedCallHasItsResultAndIsNone) {
  user_regs_struct r{};
  r.rip = 0x1002;
  r.orig_rax = 2;
  skip_call(r, -EROFS);
  EXPECT_FALSE(in_call(r));
  EXPECT_EQ(static_cast<long>(r.rax), -EROFS);
  EXPECT_EQ(r.rip, 0x1002u);
}

}  // namespace
}  // namespace supervise
