// From the table to a BPF program. filter_plan (pure) picks the numbers; filter_build lets
// libseccomp make the program; filter_install is async-signal-safe and runs in the child between
// fork and exec. Calls through other architectures' tables (int 0x80, x32) are traced with a tag
// of their own, never allowed unseen and never killed. seccomp(2), SECCOMP_RET_TRACE.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

#include "seccomp/syscall_table.h"
#include "supervisor/base/result.h"

namespace supervise {

// Tags in the low 16 bits of RET_TRACE (PTRACE_GETEVENTMSG); they start at 0x100 so that they can't
// be taken for event codes.
inline constexpr std::uint16_t kTagNative = 0x100;
inline constexpr std::uint16_t kTagForeignArch = 0x101;  // i386 or x32 call

struct FilterPlan {
  std::vector<int> traced;   // numbers with RET_TRACE
  std::vector<int> enosys;   // numbers that the filter answers with ENOSYS
  bool pass_stub = false;    // calls made by the stub's own code (tracer/stub/layout.h) are let through
};

struct FilterOptions {
  // Trap::OnDemand rows, by class.
  bool sockets_and_ipc = false;  // Socket, Ipc, None
  bool mappings = false;         // Map: munmap, mremap, mprotect
  bool processes = false;        // Process and Descriptor: clone, fork, execve...
  bool storage = true;           // what only storage paths need; without any, all of it runs untouched
  bool stub = false;             // FilterPlan::pass_stub
};

FilterPlan filter_plan(const FilterOptions& options);
Result<std::vector<sock_filter>> filter_build(const FilterPlan& plan);
// 0, or the errno. Sets no_new_privs only when the caller lacks CAP_SYS_ADMIN (setuid programs keep
// working for root).
int filter_install(const sock_fprog* program);

}  // namespace supervise
