// How CRIU and other tools are run inside the application's world, without restore/ knowing what
// a world is. Implemented by supervisor/world (a child of the world's init) and by tests.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"

namespace supervise {

struct ProcessSpec {
  std::vector<std::string> argv;         // argv[0]: absolute path
  std::vector<std::string> env;          // KEY=VALUE; empty: a minimal one (PATH)
  std::vector<std::pair<int, int>> fds;  // (our descriptor, its number in the process); others are closed
  std::string cwd = "/";
};

struct ExitInfo {
  bool signaled = false;
  int code = 0;  // exit status or signal number
  bool success() const { return !signaled && code == 0; }
  std::string describe() const;  // "exit status 1", "killed by SIGKILL"
};

class ProcessRunner {
 public:
  virtual ~ProcessRunner() = default;
  // Runs to the end. At the deadline the process (group) is killed and an error with ETIMEDOUT
  // names it.
  virtual Result<ExitInfo> run(const ProcessSpec& spec, Deadline deadline) = 0;
};

}  // namespace supervise
