#include "tracer/signal_frame.h"

#include <cstring>

#include "tracer/memory.h"

namespace supervise {
namespace {

struct Context {  // struct ucontext of the kernel, not of the C library
  std::uint64_t flags, link;
  std::uint64_t stack[3];
  std::uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
  std::uint16_t cs, gs, fs, ss;
  std::uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
  std::uint64_t sigmask;
};
static_assert(sizeof(Context) == 304);

struct Frame {
  std::uint64_t restorer;
  Context context;
  siginfo_t info;
};

// In the legacy area of the saved state: what software may say (struct _fpx_sw_bytes).
constexpr std::size_t kSoftware = 464, kHeader = 512;
constexpr std::uint32_t kMagic = 0x46505853;
struct Software {
  std::uint32_t magic, extended_size;
  std::uint64_t features;
  std::uint32_t size;
};

}  // namespace

std::optional<SignalFrame> signal_frame(pid_t tid, const ptrace_raw::Regs& regs) {
  constexpr std::uint64_t kContext = offsetof(Frame, context), kInfo = offsetof(Frame, info);
  if (regs.cs != 0x33 || regs.rax != 0 || regs.rdi == 0 || regs.rdi > 64 || regs.rdx != regs.rsp + kContext ||
      regs.rsi != regs.rsp + kInfo)
    return std::nullopt;
  auto frame = read_value<Frame>(tid, regs.rsp);
  if (!frame || frame->info.si_signo != static_cast<int>(regs.rdi) || frame->context.cs != 0x33) return std::nullopt;
  const Context& c = frame->context;
  SignalFrame f;
  f.signal = frame->info.si_signo;
  f.info = frame->info;
  f.sigmask = c.sigmask;
  f.extended = c.fpstate;
  f.interrupted = regs;
  ptrace_raw::Regs& r = f.interrupted;
  r.r8 = c.r8, r.r9 = c.r9, r.r10 = c.r10, r.r11 = c.r11, r.r12 = c.r12, r.r13 = c.r13, r.r14 = c.r14, r.r15 = c.r15;
  r.rdi = c.rdi, r.rsi = c.rsi, r.rbp = c.rbp, r.rbx = c.rbx, r.rdx = c.rdx, r.rax = c.rax, r.rcx = c.rcx;
  r.rsp = c.rsp, r.rip = c.rip, r.eflags = c.eflags;
  r.orig_rax = static_cast<unsigned long long>(-1);
  return f;
}

Status leave_handler(pid_t tid, const SignalFrame& frame) {
  // A handler begins with the extended state cleared.
  if (frame.extended) {
    ASSIGN_OR_RETURN(auto state, ptrace_raw::get_xstate(tid));
    ASSIGN_OR_RETURN(const Software saved, read_value<Software>(tid, frame.extended + kSoftware));
    std::size_t size = saved.magic == kMagic ? saved.size : kHeader;
    size = std::min(size, state.size());
    std::vector<std::byte> was(size);
    RETURN_IF_ERROR(read_exact(tid, frame.extended, was));
    // The software's bytes are the kernel's own towards us.
    memcpy(state.data(), was.data(), std::min(size, kSoftware));
    if (size > kHeader) memcpy(state.data() + kHeader, was.data() + kHeader, size - kHeader);
    RETURN_IF_ERROR(ptrace_raw::set_xstate(tid, state));
  }
  RETURN_IF_ERROR(ptrace_raw::set_sigmask(tid, frame.sigmask));
  return ptrace_raw::set_regs(tid, frame.interrupted);
}

}  // namespace supervise
