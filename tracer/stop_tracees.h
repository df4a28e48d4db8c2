// For the time between a tracer's death and its successor: its tasks must not run without a tracer, as
// calls that the filter traces would return ENOSYS.
#pragma once

#include <sys/types.h>

#include <set>

#include "supervisor/base/clock.h"

namespace supervise {

// Sends SIGSTOP to each thread below `root` (not to itself) that `tracer` traces, once, until there is no new one
// and none of them runs. `tracer` is about to die and serves none of them: they stop where it would be told of
// the signal, and enter state T, without an instruction in between, when it is dead. With `tracer` 0 it is
// dead already: those that have a filter and no tracer. Returns the processes, also when the deadline has passed.
std::set<pid_t> stop_tracees(pid_t root, pid_t tracer, Deadline deadline);

// Until all threads of these are in state T, or sleep so that they can't be stopped.
void await_stopped(const std::set<pid_t>& processes, Deadline deadline);

}  // namespace supervise
