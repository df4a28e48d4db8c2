// One look at a running thread through /proc, without stopping it: is it in a call, which one, and
// is that a wait? proc(5): syscall, status, schedstat.
#pragma once

#include <string>

#include "supervisor/warm/planner.h"

namespace supervise {

// Which wait a sleeping thread's call is. Pure; `args` as in /proc/TID/syscall.
WaitKind wait_kind(int nr, const std::uint64_t (&args)[6]);
// "nr a b c d e f sp pc", "running", "-1 sp pc". False when the thread runs.
bool parse_proc_syscall(std::string_view text, int& nr, std::uint64_t (&args)[6], std::uint64_t& sp,
                        std::uint64_t& pc);

WaitSample sample_thread(pid_t tid);
// Keeps what judge() needs: of a stay without a change its beginning and its end.
void add_sample(std::deque<WaitSample>& samples, WaitSample sample);

}  // namespace supervise
