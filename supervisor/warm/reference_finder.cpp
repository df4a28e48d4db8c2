#include "supervisor/warm/reference_finder.h"

#include <fmt/format.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>

#include "supervisor/warm/sockets.h"
#include <sys/stat.h>

#include "tracer/memory.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

std::optional<Address> address_at(pid_t tid, std::uint64_t where, std::uint64_t length) {
  std::byte bytes[sizeof(sockaddr_storage)];
  const std::size_t size = std::min<std::size_t>(length, sizeof bytes);
  if (where == 0 || size < sizeof(sa_family_t)) return {};
  const std::size_t got = read_some(tid, where, std::span(bytes, size));
  return parse_address(std::span(bytes, got));
}

int option_of(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

std::optional<Address> own_address(int fd) {
  sockaddr_storage own{};
  socklen_t size = sizeof own;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) != 0) return {};
  return parse_address(std::as_bytes(std::span(reinterpret_cast<const char*>(&own), size)));
}

std::string_view protocol_name(const Address& address, bool datagram) {
  if (address.family == AF_UNIX) return "unix";
  return datagram ? "udp" : "tcp";
}

Reference reference(RefClass cls, const Task& task, std::string peer, OtherEnd end) {
  return {cls, std::string(task.call->row ? task.call->row->name : "?"), std::move(peer), end};
}

}  // namespace

OtherEnd ReferenceFinder::owner(const std::vector<std::uint64_t>& inodes) const {
  if (inodes.empty()) return OtherEnd::Nobody;
  const auto own = sockets_of(around_.processes());
  for (std::uint64_t ino : inodes)
    if (!own.contains(ino)) return OtherEnd::Outside;
  return OtherEnd::Inside;
}

std::optional<Reference> ReferenceFinder::to_address(const Task& task, const Address& a, bool datagram) const {
  const std::string peer = to_string(a, protocol_name(a, datagram));
  OtherEnd end = OtherEnd::Outside;
  if (a.family == AF_UNIX && a.abstract) {
    end = owner(unix_inodes_of_abstract(task.tgid, a.name));
  } else if (a.family == AF_UNIX) {
    const std::string where = a.name.starts_with('/') ? "root" : "cwd/";
    struct stat st {};
    if (stat(fmt::format("/proc/{}/{}{}", task.tid, where, a.name).c_str(), &st) != 0) {
      end = OtherEnd::Nobody;
    } else {
      // A name crosses network namespaces, the kernel's table does not: a socket there that is not in
      // ours is another container's, or stale.
      end = owner(unix_inodes_of_file(st.st_dev, st.st_ino));
      if (end == OtherEnd::Nobody && S_ISSOCK(st.st_mode)) end = OtherEnd::Outside;
    }
  } else if ((a.family == AF_INET || a.family == AF_INET6) && !a.multicast && is_local_address(a)) {
    end = owner(port_inodes(task.tgid, datagram, a));
  }
  return reference(datagram ? RefClass::Datagram : RefClass::Connect, task, peer, end);
}

std::optional<Reference> ReferenceFinder::at_socket(const Task& task) const {
  const int family = static_cast<int>(task.call->args[0]);
  const int type = static_cast<int>(task.call->args[1]) & 0xf;
  const int protocol = static_cast<int>(task.call->args[2]);
  if (family == AF_NETLINK) {
    if (protocol == NETLINK_ROUTE) return {};
    return reference(RefClass::Netlink, task, fmt::format("netlink protocol {}", protocol), OtherEnd::Outside);
  }
  if (family == AF_UNIX || family == AF_UNSPEC) return {};
  if ((family == AF_INET || family == AF_INET6) && type != SOCK_RAW && type != SOCK_PACKET) return {};
  return reference(RefClass::Socket, task, fmt::format("socket of family {}, type {}", family, type),
                   OtherEnd::Outside);
}

std::optional<Reference> ReferenceFinder::at_connect(const Task& task) const {
  const auto& args = task.call->args;
  const auto address = address_at(task.tid, args[1], args[2]);
  if (!address || address->family == AF_NETLINK) return {};
  auto fd = borrow_fd(task.tgid, static_cast<int>(args[0]));
  if (!fd) return {};  // no descriptor: EBADF
  return to_address(task, *address, option_of(fd->get(), SO_TYPE) == SOCK_DGRAM);
}

std::optional<Reference> ReferenceFinder::at_bind(const Task& task) const {
  const auto& args = task.call->args;
  const auto address = address_at(task.tid, args[1], args[2]);
  if (!address) return {};
  if (address->family == AF_NETLINK)
    return address->groups == 0 ? std::nullopt
                                : std::optional(reference(RefClass::Netlink, task,
                                                          fmt::format("netlink groups {:#x}", address->groups),
                                                          OtherEnd::Outside));
  if (address->family != AF_INET && address->family != AF_INET6) return {};
  auto fd = borrow_fd(task.tgid, static_cast<int>(args[0]));
  const bool datagram = fd && option_of(fd->get(), SO_TYPE) == SOCK_DGRAM;
  const bool serves = address->port != 0 && !address->loopback;
  return reference(RefClass::Listen, task, to_string(*address, protocol_name(*address, datagram)),
                   serves ? OtherEnd::Outside : OtherEnd::Inside);
}

std::optional<Reference> ReferenceFinder::at_listen(const Task& task) const {
  auto fd = borrow_fd(task.tgid, static_cast<int>(task.call->args[0]));
  if (!fd) return {};
  const auto own = own_address(fd->get());
  if (!own) return {};
  const bool serves = (own->family == AF_INET || own->family == AF_INET6) && !own->loopback;
  return reference(RefClass::Listen, task, to_string(*own, protocol_name(*own, false)),
                   serves ? OtherEnd::Outside : OtherEnd::Inside);
}

std::optional<Reference> ReferenceFinder::at_accept(const Task& task) const {
  auto fd = borrow_fd(task.tgid, static_cast<int>(task.call->args[0]));
  if (!fd) return {};
  const auto own = own_address(fd->get());
  if (!own) return {};
  return reference(RefClass::Accept, task, to_string(*own, protocol_name(*own, false)), OtherEnd::Outside);
}

// What is sent on a connected socket was decided at connect(2).
std::optional<Reference> ReferenceFinder::at_send(const Task& task) {
  const auto& args = task.call->args;
  const int fd_number = static_cast<int>(args[0]);
  std::vector<msghdr> messages;
  if (task.call->nr == SYS_sendto) {
    msghdr m{};
    m.msg_name = reinterpret_cast<void*>(args[4]);
    m.msg_namelen = static_cast<socklen_t>(args[5]);
    messages.push_back(m);
  } else if (task.call->nr == SYS_sendmsg) {
    if (auto m = read_value<msghdr>(task.tid, args[1])) messages.push_back(*m);
  } else {
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(args[2], 16); ++i)
      if (auto m = read_value<mmsghdr>(task.tid, args[1] + i * sizeof(mmsghdr))) messages.push_back(m->msg_hdr);
  }
  std::optional<Reference> found;
  for (const msghdr& m : messages) {
    const auto address =
        address_at(task.tid, reinterpret_cast<std::uint64_t>(m.msg_name), m.msg_namelen);
    if (!address && m.msg_name != nullptr) continue;
    if (!address || address->family == AF_NETLINK) {
      auto fd = borrow_fd(task.tgid, fd_number);
      if (!fd || option_of(fd->get(), SO_DOMAIN) != AF_NETLINK) continue;
      if (task.call->nr == SYS_sendto) return to_netlink(task, args[1], args[2]);
      if (auto vectors = read_iovecs(task.tid, reinterpret_cast<std::uint64_t>(m.msg_iov), 1); vectors && !vectors->empty())
        return to_netlink(task, (*vectors)[0].base, (*vectors)[0].length);
      continue;
    }
    found = to_address(task, *address, true);
    if (found && found->end == OtherEnd::Outside) break;
  }
  return found;
}

std::optional<Reference> ReferenceFinder::to_netlink(const Task& task, std::uint64_t data, std::uint64_t size) {
  auto head = read_value<nlmsghdr>(task.tid, data);
  if (!head || size < sizeof(nlmsghdr)) return {};
  // rtnetlink(7): of four types in a row the third is a question.
  const bool question = head->nlmsg_type >= RTM_BASE && (head->nlmsg_type - RTM_BASE) % 4 == 2;
  if (question) portability_.saw_interfaces();
  return reference(RefClass::Netlink, task, fmt::format("netlink route message {}", head->nlmsg_type),
                   question ? OtherEnd::Nobody : OtherEnd::Outside);
}

std::optional<Reference> ReferenceFinder::find(const Task& task) {
  fifo_waiters_.erase(task.tid);
  switch (task.call->nr) {
    case SYS_socket: return at_socket(task);
    case SYS_connect: return at_connect(task);
    case SYS_bind: return at_bind(task);
    case SYS_listen: return at_listen(task);
    case SYS_accept:
    case SYS_accept4: return at_accept(task);
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_sendmmsg: return at_send(task);
    case SYS_open:
    case SYS_openat:
    case SYS_openat2:
    case SYS_creat: return at_open(task);
    case SYS_getrandom: portability_.saw_random(task.call->args[1]); return {};
    case SYS_uname: portability_.saw_uname(); return {};
    default: return {};
  }
}

bool ReferenceFinder::any_listens(const std::vector<pid_t>& processes) {
  for (pid_t pid : processes) {
    for (int fd : fds_of(pid)) {
      auto link = fd_link(pid, fd);
      if (!link || !link->starts_with("socket:[")) continue;
      auto copy = borrow_fd(pid, fd);
      if (copy && option_of(copy->get(), SO_ACCEPTCONN) == 1) return true;
    }
  }
  return false;
}

}  // namespace supervise
