// The way of descriptors into one process: a socket pair opened in it for the moment (SCM_RIGHTS, unix(7);
// pidfd_getfd(2)).
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "tracer/inject.h"

namespace supervise {

// A copy of another process's descriptor.
Result<UniqueFd> descriptor_of(pid_t pid, int fd);
// One descriptor, over a socket.
Status send_descriptor(int socket, int fd);

// What a process needs in its memory to receive one (recvmsg(2)): all in one piece, which lies there at `at`.
struct DescriptorMessage {
  explicit DescriptorMessage(std::uint64_t at);
  std::uint64_t header_at(std::uint64_t at) const;
  // As it is after the call. An Error: it has no descriptor.
  Result<int> number() const;

  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))] = {};
  iovec vector;
  msghdr header{};
  std::byte data[8] = {};
};

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
