// What the supervisor itself was started with and later changes for its own use: the signal mask
// (it blocks signals for a signalfd), ignored signals, resource limits and the umask. The
// application gets these back, so that it starts as it would have without us. execve(2): the mask
// and ignored signals survive an exec. Call record() first thing in main().
#pragma once

#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>

#include <array>

namespace supervise {

struct InheritedState {
  sigset_t mask{};
  std::array<bool, 65> ignored{};
  std::array<rlimit, RLIM_NLIMITS> limits{};
  mode_t file_mask = 022;
  std::array<bool, 3> closed{};  // standard streams

  // Takes the state of this process, once; later calls change nothing. Standard streams that were
  // closed become /dev/null for us, so that nothing that we open lands on their numbers.
  static const InheritedState& record();
  // In a child before exec: dispositions, limits and umask, then the mask. Async-signal-safe.
  void apply() const;
  // For our own tools: default dispositions and an empty mask.
  static void apply_defaults();
};

}  // namespace supervise
