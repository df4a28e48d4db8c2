// What the kernel pushes for a signal handler (x86-64: arch/x86/kernel/signal_64.c, struct rt_sigframe;
// sigreturn(2)), as the handler's first instruction finds it.
#pragma once

#include <signal.h>
#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tracer/ptrace_raw.h"

namespace supervise {

struct SignalFrame {
  int signal = 0;
  siginfo_t info{};
  ptrace_raw::Regs interrupted{};  // orig_rax: no call
  std::uint64_t sigmask = 0;
  std::uint64_t extended = 0;      // address of the saved extended state (XSAVE format), 0: none
};

// Of a stopped thread whose registers these are; nothing when it does not stand at a handler's first instruction.
std::optional<SignalFrame> signal_frame(pid_t tid, const ptrace_raw::Regs& regs);
// Puts the thread back to where the signal came, as if its handler had returned.
Status leave_handler(pid_t tid, const SignalFrame& frame);

}  // namespace supervise
