// A shell command of the operator (--path-up, --path-down, --on-activate), run on the host as the user that
// started us, with extra environment and a deadline. Its output goes to our stderr.
#pragma once

#include <string>
#include <vector>

#include "supervisor/base/process_runner.h"

namespace supervise {

Result<ExitInfo> run_host_command(const std::string& command, const std::vector<std::string>& env,
                                  Deadline deadline);

}  // namespace supervise
