// Runs a function in a forked child and returns the bytes and descriptors that it hands back, with
// a deadline: file system work on a path that may hang never blocks the supervisor. The child
// shares nothing by reference but sees the parent's memory as it was. A child that does not end in
// time is killed (with its process group); when it sits in uninterruptible sleep it is left behind
// and named in the error. Errors: ETIMEDOUT at the deadline; otherwise fn's own error, with `what`
// in front. In the child all signals are blocked and it is a process group of its own. Call it only
// from a single-threaded process.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

struct WorkerResult {
  std::string bytes;
  std::vector<UniqueFd> fds;  // in the order in which the child gave them
};

// What the child gives back; its descriptors are sent with SCM_RIGHTS (at most 200 a message,
// several messages).
struct WorkerOutput {
  std::string bytes;
  std::vector<int> fds;
};

Result<WorkerResult> run_worker(const std::string& what, Deadline deadline,
                                const std::function<Result<WorkerOutput>()>& fn);

}  // namespace supervise
