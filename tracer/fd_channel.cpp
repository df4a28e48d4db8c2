#include "tracer/fd_channel.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "tracer/memory.h"
#include "tracer/proc_info.h"

namespace supervise {

Result<UniqueFd> descriptor_of(pid_t pid, int fd) {
  // By number: glibc 2.36's <sys/pidfd.h> lacks extern "C".
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return errno_error(fmt::format("pidfd_open {}", pid));
  UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), fd, 0)));
  if (!copy) return errno_error(fmt::format("pidfd_getfd of process {}", pid));
  return copy;
}

Status send_descriptor(int socket, int fd) {
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof fd);
  if (sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
    return errno_error("send a descriptor to the application");
  return {};
}

DescriptorMessage::DescriptorMessage(std::uint64_t at)
    : vector{reinterpret_cast<void*>(at + offsetof(DescriptorMessage, data)), 1} {
  header.msg_iov = reinterpret_cast<iovec*>(at + offsetof(DescriptorMessage, vector));
  header.msg_iovlen = 1;
  header.msg_control = reinterpret_cast<void*>(at + offsetof(DescriptorMessage, control));
  header.msg_controllen = sizeof control;
}

std::uint64_t DescriptorMessage::header_at(std::uint64_t at) const { return at + offsetof(DescriptorMessage, header); }

Result<int> DescriptorMessage::number() const {
  cmsghdr head;
  memcpy(&head, control, sizeof head);
  if (head.cmsg_type != SCM_RIGHTS || head.cmsg_len != CMSG_LEN(sizeof(int)))
    return errno_error(EMFILE, "a descriptor could not be received");
  int number;
  memcpy(&number, control + CMSG_LEN(0), sizeof number);
  return number;
}

Result<FdChannel> FdChannel::open(Injector& in) {
  FdChannel c(in);
  int pair[2] = {-1, -1};
  ASSIGN_OR_RETURN(const std::uint64_t at, in.put(std::as_bytes(std::span(pair))));
  ASSIGN_OR_RETURN(const long r, in.call_checked(SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, at, 0, 0}));
  (void)r;
  RETURN_IF_ERROR(read_exact(in.tid(), at, std::as_writable_bytes(std::span(pair))));
  c.theirs_ = pair[0];
  c.ours_remote_ = pair[1];
  auto task = task_status(in.tid());
  ASSIGN_OR_RETURN(c.ours_, descriptor_of(task ? task->tgid : in.tid(), pair[1]));
  return c;
}

FdChannel::FdChannel(FdChannel&& o) noexcept
    : in_(o.in_), theirs_(std::exchange(o.theirs_, -1)), ours_remote_(std::exchange(o.ours_remote_, -1)),
      ours_(std::move(o.ours_)) {}

FdChannel::~FdChannel() {
  if (theirs_ < 0) return;
  in_->call(SYS_close, {static_cast<std::uint64_t>(theirs_)}).value_or(0);
  in_->call(SYS_close, {static_cast<std::uint64_t>(ours_remote_)}).value_or(0);
}

Result<int> FdChannel::give(int fd) {
  RETURN_IF_ERROR(send_descriptor(ours_.get(), fd));
  in_->reset_scratch();
  // Its own address has to be known before it can be written.
  const DescriptorMessage empty(0);
  ASSIGN_OR_RETURN(const std::uint64_t at, in_->put(std::as_bytes(std::span(&empty, 1))));
  DescriptorMessage message(at);
  RETURN_IF_ERROR(write_exact(in_->tid(), at, std::as_bytes(std::span(&message, 1))));
  ASSIGN_OR_RETURN(const long n, in_->call_checked(SYS_recvmsg, {static_cast<std::uint64_t>(theirs_), message.header_at(at),
                                                                 MSG_DONTWAIT, 0, 0, 0}));
  (void)n;
  RETURN_IF_ERROR(read_exact(in_->tid(), at, std::as_writable_bytes(std::span(&message, 1))));
  auto number = message.number();
  if (!number) return errno_error(EMFILE, fmt::format("process {} could not receive a descriptor", in_->tid()));
  return number;
}

}  // namespace supervise
