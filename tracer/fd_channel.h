// The way of descriptors into one process: a socket pair opened in it for the moment (SCM_RIGHTS, unix(7);
// pidfd_getfd(2)).
#pragma once

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "tracer/inject.h"

namespace supervise {

// A copy of another process's descriptor.
Result<UniqueFd> descriptor_of(pid_t pid, int fd);

class FdChannel {
 public:
  static Result<FdChannel> open(Injector& in);
  FdChannel(FdChannel&& other) noexcept;
  FdChannel& operator=(FdChannel&&) = delete;
  ~FdChannel();

  // The descriptor's number in the process. It stays apart from the channel's own.
  Result<int> give(int fd);

 private:
  explicit FdChannel(Injector& in) : in_(&in) {}
  Injector* in_;
  int theirs_ = -1, ours_remote_ = -1;
  UniqueFd ours_;
};

}  // namespace supervise
