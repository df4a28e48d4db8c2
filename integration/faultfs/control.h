// The command socket of a fault daemon: a unix stream socket, one command a line, one answer a
// command, "ok ..." or "error ...". It has threads of its own, so it answers while I/O hangs.
//   ping | stats | rules | fail ... | hang ... | unhang | delay ... | clear [ID]
// `rules` answers "ok N" and then N lines.
#pragma once

#include <string>
#include <vector>

#include "integration/faultfs/fault_rules.h"

namespace supervise::faults {

// Binds and listens (owner only). Returns the descriptor, or -1 with errno set.
int listen_control(const std::string& socket_path);

// Serves `listener` from detached threads until the process ends; `rules` must live as long.
void serve_control(int listener, FaultRules& rules);

std::string run_command(const std::string& line, FaultRules& rules);

// `PROGRAM ctl SOCKET WORD...`: sends one command, prints the answer. Exit status 0 when it was
// "ok", 1 when refused, 2 when the daemon can't be reached within 5 seconds.
int control_client(const std::vector<std::string>& args);

}  // namespace supervise::faults
