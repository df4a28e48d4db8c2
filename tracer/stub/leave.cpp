#include "tracer/stub/leave.h"

#include <errno.h>

namespace supervise::stub {
namespace {

constexpr unsigned long long kNoCall = ~0ull;

void restore_kept(user_regs_struct& r, const Area& a) {
  r.rsp = a.rsp;
  r.rbx = a.rbx;
  r.rbp = a.rbp;
  r.r12 = a.r12;
  r.r13 = a.r13;
  r.r14 = a.r14;
  r.r15 = a.r15;
}

void restore_args(user_regs_struct& r, const Area& a) {
  r.rdi = a.rdi;
  r.rsi = a.rsi;
  r.rdx = a.rdx;
  r.r10 = a.r10;
  r.r8 = a.r8;
  r.r9 = a.r9;
}

Was not_made(user_regs_struct& r, std::uint64_t site, std::uint64_t number) {
  r.rip = site;
  r.rax = number;
  r.orig_rax = kNoCall;
  return Was::NotMade;
}

// `in_kernel`: this very system call has just ended, and the kernel may still restart it.
Was made(user_regs_struct& r, std::uint64_t site, std::uint64_t number, std::uint64_t result, bool in_kernel, Was was) {
  r.rip = site + 2;
  r.rax = result;
  r.orig_rax = in_kernel ? number : kNoCall;
  return was;
}

}  // namespace

bool in_code(std::uint64_t rip, std::uint64_t window) {
  return rip >= window + kCode && rip < window + kTraced + kTracedSize;
}

Was leave(user_regs_struct& r, const Area& a, const CodeHead& h, std::uint64_t window, const SiteOf& site_of) {
  if (!in_code(r.rip, window)) return Was::Outside;
  const std::uint64_t at = r.rip - window - kCode;
  const auto within = [at](std::uint32_t from, std::uint32_t to) { return at >= from && at < to; };

  if (within(h.enter, h.entered)) {  // r11 is the slot's, all but rcx as the application has it
    const auto site = site_of(r.r11);
    return site ? not_made(r, *site, r.rax) : Was::Outside;
  }
  if (within(h.leaving, h.leave_end)) {
    if (const auto site = site_of(r.r11)) return not_made(r, *site, r.rax);
    const auto site = site_of(r.r11 - kSlotReturn);
    return site ? made(r, *site, a.rax, r.rax, false, Was::Made) : Was::Outside;
  }
  const auto site = site_of(a.slot);
  if (!site) return Was::Outside;
  if (at == h.traced_entry || at == h.traced_result) {
    restore_kept(r, a);  // the arguments may be those of a piece: they are in the registers
    if (a.stage == kEntered) return not_made(r, *site, a.rax);
    return made(r, *site, a.rax, static_cast<std::uint64_t>(a.result), false,
                a.stage == kExecuted ? Was::Untold : Was::Made);
  }
  if (at == h.traced_entry + 2 || at == h.traced_result + 2) {
    restore_kept(r, a);
    if (at == h.traced_result + 2 && static_cast<std::int64_t>(r.rax) == -ENOSYS) {  // nobody was there to be told
      restore_args(r, a);
      return made(r, *site, a.rax, static_cast<std::uint64_t>(a.result), false,
                  a.stage == kExecuted ? Was::Untold : Was::Made);
    }
    return made(r, *site, a.rax, r.rax, true, Was::Made);
  }
  if (within(h.traced_back, h.traced_recorded)) {
    const std::uint64_t result = r.rax;
    restore_kept(r, a);
    restore_args(r, a);
    return made(r, *site, a.rax, result, false, Was::Made);
  }
  if (within(h.native_insn + 2, h.native_recorded)) {
    const std::uint64_t result = r.rax;
    const bool first = at == h.native_insn + 2;
    restore_kept(r, a);
    restore_args(r, a);
    return made(r, *site, a.rax, result, first, Was::Untold);
  }
  restore_kept(r, a);
  restore_args(r, a);
  switch (a.stage) {
    case kExecuted: return made(r, *site, a.rax, static_cast<std::uint64_t>(a.result), false, Was::Untold);
    case kDone: return made(r, *site, a.rax, static_cast<std::uint64_t>(a.result), false, Was::Made);
    default: return not_made(r, *site, a.rax);
  }
}

}  // namespace supervise::stub
