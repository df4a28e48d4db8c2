// The only file that calls ptrace(2). Thin, typed; ESRCH (the tracee died, even inside a stop) is
// a normal outcome: Error::is_gone(). All calls for one tracee must come from one thread.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise::ptrace_raw {

using Regs = user_regs_struct;

enum class CallPhase { None, Entry, Exit, Seccomp };

struct CallInfo {  // PTRACE_GET_SYSCALL_INFO
  CallPhase phase = CallPhase::None;
  std::uint32_t arch = 0;  // AUDIT_ARCH_*
  std::uint64_t ip = 0;
  std::uint64_t nr = 0;
  std::uint64_t args[6] = {};
  std::int64_t result = 0;
  std::uint32_t seccomp_data = 0;
};

// All events that the tracer wants, without PTRACE_O_EXITKILL.
extern const unsigned long kOptions;
extern const unsigned long kExitKill;

Status seize(pid_t tid, unsigned long options);
Status set_options(pid_t tid, unsigned long options);
Status interrupt(pid_t tid);
Status cont(pid_t tid, int sig = 0);          // until the next event
Status cont_to_exit(pid_t tid, int sig = 0);  // PTRACE_SYSCALL
Status listen(pid_t tid);                     // stay in group stop, tell of events
Status detach(pid_t tid, int sig = 0);
Result<Regs> get_regs(pid_t tid);
Status set_regs(pid_t tid, const Regs& regs);
Status set_gs_base(pid_t tid, std::uint64_t base);
// The whole extended state (XSAVE format, NT_X86_XSTATE of PTRACE_GETREGSET).
Result<std::vector<std::byte>> get_xstate(pid_t tid);
Status set_xstate(pid_t tid, const std::vector<std::byte>& state);
Result<unsigned long> event_message(pid_t tid);
Result<siginfo_t> get_siginfo(pid_t tid);
Status set_siginfo(pid_t tid, const siginfo_t& info);
Result<bool> has_shared_signal(pid_t tid);  // one waits for the process, blocked or not
Result<std::uint64_t> get_sigmask(pid_t tid);
Status set_sigmask(pid_t tid, std::uint64_t mask);
Result<CallInfo> call_info(pid_t tid);

}  // namespace supervise::ptrace_raw
