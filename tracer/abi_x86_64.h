// Registers <-> system call, x86-64. Pure. syscall(2): number in rax (orig_rax in a stop),
// arguments in rdi, rsi, rdx, r10, r8, r9, result in rax; the `syscall` instruction has 2 bytes.
#pragma once

#include <sys/syscall.h>
#include <sys/user.h>

#include <array>
#include <cstdint>

namespace supervise {

using Args = std::array<std::uint64_t, 6>;

inline constexpr unsigned kSyscallInsnSize = 2;

inline Args args_of(const user_regs_struct& r) { return {r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9}; }

inline void set_args(user_regs_struct& r, const Args& a) {
  r.rdi = a[0];
  r.rsi = a[1];
  r.rdx = a[2];
  r.r10 = a[3];
  r.r8 = a[4];
  r.r9 = a[5];
}

inline bool in_call(const user_regs_struct& r) { return static_cast<long>(r.orig_rax) >= 0; }

// The kernel continues an interrupted nanosleep, poll or futex wait with a call of its own.
inline bool is_restart_syscall(const user_regs_struct& r) {
  return r.cs == 0x33 && static_cast<long>(r.orig_rax) == SYS_restart_syscall;
}

// Makes the thread execute its call (again) from the beginning when it is resumed: back to the
// `syscall` instruction, number in rax, and orig_rax such that the kernel does no restart itself.
inline void rewind_call(user_regs_struct& r) {
  r.rip -= kSyscallInsnSize;
  r.rax = r.orig_rax;
  r.orig_rax = static_cast<decltype(r.orig_rax)>(-1);
}

// At an entry stop: the call is not executed and returns `result`. -2 and not -1: after a sigreturn
// -1 also means "no call".
inline void skip_call(user_regs_struct& r, long result) {
  r.orig_rax = static_cast<decltype(r.orig_rax)>(-2);
  r.rax = static_cast<decltype(r.rax)>(result);
}

}  // namespace supervise
