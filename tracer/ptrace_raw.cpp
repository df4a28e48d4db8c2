#include "tracer/ptrace_raw.h"

#include <fmt/format.h>
#include <elf.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

namespace supervise::ptrace_raw {
namespace {

// glibc's ptrace() is variadic and maps PEEK results; the system call itself is plainer.
long call(long request, pid_t tid, unsigned long addr, void* data) {
  return syscall(SYS_ptrace, request, tid, addr, data);
}

Status simple(long request, pid_t tid, const char* name, unsigned long data = 0) {
  if (call(request, tid, 0, reinterpret_cast<void*>(data)) == 0) return {};
  return errno_error(fmt::format("{} of thread {}", name, tid));
}

}  // namespace

const unsigned long kOptions = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                               PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD;
const unsigned long kExitKill = PTRACE_O_EXITKILL;

Status seize(pid_t tid, unsigned long options) {
  return simple(PTRACE_SEIZE, tid, "PTRACE_SEIZE", options);
}
Status set_options(pid_t tid, unsigned long options) {
  return simple(PTRACE_SETOPTIONS, tid, "PTRACE_SETOPTIONS", options);
}
Status interrupt(pid_t tid) { return simple(PTRACE_INTERRUPT, tid, "PTRACE_INTERRUPT"); }
Status cont(pid_t tid, int sig) {
  return simple(PTRACE_CONT, tid, "PTRACE_CONT", static_cast<unsigned long>(sig));
}
Status cont_to_exit(pid_t tid, int sig) {
  return simple(PTRACE_SYSCALL, tid, "PTRACE_SYSCALL", static_cast<unsigned long>(sig));
}
Status listen(pid_t tid) { return simple(PTRACE_LISTEN, tid, "PTRACE_LISTEN"); }
Status detach(pid_t tid, int sig) {
  return simple(PTRACE_DETACH, tid, "PTRACE_DETACH", static_cast<unsigned long>(sig));
}

Result<Regs> get_regs(pid_t tid) {
  Regs regs;
  if (call(PTRACE_GETREGS, tid, 0, &regs) != 0)
    return errno_error(fmt::format("PTRACE_GETREGS of thread {}", tid));
  return regs;
}

Status set_regs(pid_t tid, const Regs& regs) {
  if (call(PTRACE_SETREGS, tid, 0, const_cast<Regs*>(&regs)) != 0)
    return errno_error(fmt::format("PTRACE_SETREGS of thread {}", tid));
  return {};
}

Status set_gs_base(pid_t tid, std::uint64_t base) {
  if (call(PTRACE_POKEUSR, tid, offsetof(user_regs_struct, gs_base), reinterpret_cast<void*>(base)) != 0)
    return errno_error(fmt::format("PTRACE_POKEUSER gs_base of thread {}", tid));
  return {};
}

Result<std::vector<std::byte>> get_xstate(pid_t tid) {
  std::vector<std::byte> state(16384);
  iovec iov{state.data(), state.size()};
  if (call(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &iov) != 0)
    return errno_error(fmt::format("PTRACE_GETREGSET of thread {}", tid));
  state.resize(iov.iov_len);
  return state;
}

Status set_xstate(pid_t tid, const std::vector<std::byte>& state) {
  iovec iov{const_cast<std::byte*>(state.data()), state.size()};
  if (call(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &iov) != 0)
    return errno_error(fmt::format("PTRACE_SETREGSET of thread {}", tid));
  return {};
}

Result<unsigned long> event_message(pid_t tid) {
  unsigned long message = 0;
  if (call(PTRACE_GETEVENTMSG, tid, 0, &message) != 0)
    return errno_error(fmt::format("PTRACE_GETEVENTMSG of thread {}", tid));
  return message;
}

Result<siginfo_t> get_siginfo(pid_t tid) {
  siginfo_t info;
  if (call(PTRACE_GETSIGINFO, tid, 0, &info) != 0)
    return errno_error(fmt::format("PTRACE_GETSIGINFO of thread {}", tid));
  return info;
}

Status set_siginfo(pid_t tid, const siginfo_t& info) {
  if (call(PTRACE_SETSIGINFO, tid, 0, const_cast<siginfo_t*>(&info)) != 0)
    return errno_error(fmt::format("PTRACE_SETSIGINFO of thread {}", tid));
  return {};
}

Result<bool> has_shared_signal(pid_t tid) {
  ptrace_peeksiginfo_args which{0, PTRACE_PEEKSIGINFO_SHARED, 1};
  siginfo_t info;
  const long found = syscall(SYS_ptrace, PTRACE_PEEKSIGINFO, tid, &which, &info);
  if (found < 0) return errno_error(fmt::format("PTRACE_PEEKSIGINFO of thread {}", tid));
  return found > 0;
}

Result<std::uint64_t> get_sigmask(pid_t tid) {
  std::uint64_t mask = 0;
  if (call(PTRACE_GETSIGMASK, tid, sizeof mask, &mask) != 0)
    return errno_error(fmt::format("PTRACE_GETSIGMASK of thread {}", tid));
  return mask;
}

Status set_sigmask(pid_t tid, std::uint64_t mask) {
  if (call(PTRACE_SETSIGMASK, tid, sizeof mask, &mask) != 0)
    return errno_error(fmt::format("PTRACE_SETSIGMASK of thread {}", tid));
  return {};
}

Result<CallInfo> call_info(pid_t tid) {
  ptrace_syscall_info raw{};
  if (call(PTRACE_GET_SYSCALL_INFO, tid, sizeof raw, &raw) <= 0)
    return errno_error(fmt::format("PTRACE_GET_SYSCALL_INFO of thread {}", tid));
  CallInfo info;
  info.arch = raw.arch;
  info.ip = raw.instruction_pointer;
  switch (raw.op) {
    case PTRACE_SYSCALL_INFO_ENTRY:
      info.phase = CallPhase::Entry;
      info.nr = raw.entry.nr;
      std::copy_n(raw.entry.args, 6, info.args);
      break;
    case PTRACE_SYSCALL_INFO_SECCOMP:
      info.phase = CallPhase::Seccomp;
      info.nr = raw.seccomp.nr;
      std::copy_n(raw.seccomp.args, 6, info.args);
      info.seccomp_data = raw.seccomp.ret_data;
      break;
    case PTRACE_SYSCALL_INFO_EXIT:
      info.phase = CallPhase::Exit;
      info.result = raw.exit.rval;
      break;
    default:
      break;
  }
  return info;
}

}  // namespace supervise::ptrace_raw
