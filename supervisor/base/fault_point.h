// Named places at which a test makes the program fail. SUPERVISE_FAULT_POINTS holds a
// comma-separated list of NAME=ACTION; ACTION is `kill` (SIGKILL to the calling process), `fail`
// (fault_point returns an error) or `hang` (sleeps for an hour: the deadline around it must fire).
// NAME@N means the Nth time the point is reached. ACTION:FILE acts only for the one that can remove FILE
// then: once in all processes. Unset in ordinary use: costs one branch.
#pragma once

#include <string_view>

#include "supervisor/base/result.h"

namespace supervise {

Status fault_point(std::string_view name);
// None is reached any more in this process.
void disarm_fault_points();

}  // namespace supervise
