// A process to be: what the world's init (or, without namespaces, the supervisor) does between
// fork and exec. Descriptors travel beside the plan: the error pipe first, then the release pipe
// when there is one, then those of `targets` in order. The child writes ChildNote records into the
// error pipe: Ready when it waits for its release, any other stage when that stage failed; the
// pipe closes at a successful exec.
#pragma once

#include <linux/filter.h>

#include <string>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise {

enum class ChildStage : int {
  Ready,
  Session,      // setsid, setpgid
  Ipc,          // unshare(CLONE_NEWIPC)
  Terminal,     // TIOCSCTTY
  Descriptors,
  Chdir,
  Release,      // whoever had to release it is gone
  Filter,
  Exec,
};

struct ChildNote {
  ChildStage stage = ChildStage::Ready;
  int err = 0;
};

struct SpawnPlan {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string cwd = "/";
  bool path_search = false;      // as execvpe(3), with PATH of `env`
  bool new_session = false;
  bool new_group = false;
  bool new_ipc = false;
  bool inherited_state = false;  // signals and limits as the supervisor had got them
  bool wait_release = false;
  bool keep_stdio_closed = false;  // otherwise missing standard streams become /dev/null
  int controlling_terminal = -1;   // a number of `targets`
  int pid_base = 0;                // ns_last_pid before the fork; 0: leave it
  bool watch = true;               // report its end
  bool tool = false;               // the pid cursor goes back when the last tool has ended
  std::vector<int> targets;
  std::vector<sock_filter> filter;

  std::string encode() const;
  static Result<SpawnPlan> decode(const std::string& bytes);
};

// Never returns; exits with 127 (not found), 126 (not executable) or 125 when a stage fails.
[[noreturn]] void run_child(const SpawnPlan& plan, std::vector<int> passed);

// The sentence for a failed stage.
Error child_error(const SpawnPlan& plan, const ChildNote& note);

}  // namespace supervise
