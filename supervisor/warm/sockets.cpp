#include "supervisor/warm/sockets.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "tracer/proc_info.h"

namespace supervise {

Result<UniqueFd> borrow_fd(pid_t tgid, int fd) {
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, tgid, 0)));
  if (!process) return errno_error(fmt::format("pidfd_open of process {}", tgid));
  UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  if (!copy) return errno_error(fmt::format("descriptor {} of process {}", fd, tgid));
  return copy;
}

std::vector<PortOwner> parse_net_table(std::string_view text) {
  std::vector<PortOwner> all;
  std::size_t at = text.find('\n');  // the heading
  while (at != std::string_view::npos && at + 1 < text.size()) {
    const std::size_t end = std::min(text.find('\n', at + 1), text.size());
    const std::string line(text.substr(at + 1, end - at - 1));
    unsigned port = 0, far_port = 0, state = 0;
    char address[40] = {}, far[40] = {};
    std::uint64_t ino = 0;
    if (sscanf(line.c_str(), " %*d: %39[0-9A-Fa-f]:%x %39[0-9A-Fa-f]:%x %x %*s %*s %*s %*d %*d %" SCNu64,
               address, &port, far, &far_port, &state, &ino) == 6)
      all.push_back({address, static_cast<std::uint16_t>(port), state == 0x0a || (state == 0x07 && far_port == 0), ino});
    at = end;
  }
  return all;
}

std::set<std::uint64_t> sockets_of(const std::vector<pid_t>& processes) {
  std::set<std::uint64_t> inodes;
  for (pid_t pid : processes)
    for (int fd : fds_of(pid))
      if (auto link = fd_link(pid, fd); link && link->starts_with("socket:["))
        inodes.insert(strtoull(link->c_str() + 8, nullptr, 10));
  return inodes;
}

std::vector<std::uint64_t> takers(const std::vector<PortOwner>& rows, const Address& a) {
  // A v6 socket may serve v4 as well: ::ffff:ADDRESS, or ::.
  const std::string mapped = "0000000000000000FFFF0000" + a.raw;
  std::vector<std::uint64_t> exact, wildcard;
  for (const PortOwner& row : rows) {
    if (!row.listens || row.port != a.port) continue;
    if (row.address == a.raw || row.address == mapped) exact.push_back(row.ino);
    else if (row.address.find_first_not_of('0') == std::string::npos) wildcard.push_back(row.ino);
  }
  // To connect to the wildcard is to connect to loopback.
  if (a.wildcard && exact.empty())
    for (const PortOwner& row : rows)
      if (row.listens && row.port == a.port) exact.push_back(row.ino);
  return exact.empty() ? wildcard : exact;
}

std::vector<std::uint64_t> port_inodes(pid_t pid, bool udp, const Address& address) {
  std::vector<PortOwner> rows;
  for (const char* table : {udp ? "udp" : "tcp", udp ? "udp6" : "tcp6"}) {
    auto text = read_proc_file(fmt::format("/proc/{}/net/{}", pid, table));
    if (!text) continue;
    for (PortOwner& row : parse_net_table(*text)) rows.push_back(std::move(row));
  }
  return takers(rows, address);
}

std::vector<std::uint64_t> unix_inodes_of_file(dev_t dev, ino_t ino) {
  std::vector<std::uint64_t> inodes;
  UniqueFd link(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!link) return inodes;
  struct {
    nlmsghdr head;
    unix_diag_req ask;
  } request{};
  request.head.nlmsg_len = sizeof request;
  request.head.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.ask.sdiag_family = AF_UNIX;
  request.ask.udiag_states = ~0u;
  request.ask.udiag_show = UDIAG_SHOW_VFS;
  if (send(link.get(), &request, sizeof request, 0) < 0) return inodes;
  alignas(nlmsghdr) char buffer[32768];
  for (;;) {
    const ssize_t n = recv(link.get(), buffer, sizeof buffer, 0);
    if (n <= 0) return inodes;
    auto left = static_cast<std::size_t>(n);
    for (auto* h = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) return inodes;
      const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(h));
      const char* at = reinterpret_cast<const char*>(message + 1);
      const char* end = reinterpret_cast<const char*>(h) + h->nlmsg_len;
      while (at + sizeof(nlattr) <= end) {
        nlattr attribute;
        memcpy(&attribute, at, sizeof attribute);
        if (attribute.nla_len < sizeof attribute || at + attribute.nla_len > end) break;
        if (attribute.nla_type == UNIX_DIAG_VFS && attribute.nla_len >= sizeof attribute + sizeof(unix_diag_vfs)) {
          unix_diag_vfs file;
          memcpy(&file, at + sizeof attribute, sizeof file);
          // The kernel's own form of a device number: 12 bits of major above 20 of minor.
          const std::uint32_t wanted = static_cast<std::uint32_t>(gnu_dev_major(dev) << 20 | gnu_dev_minor(dev));
          if (file.udiag_vfs_ino == static_cast<std::uint32_t>(ino) && file.udiag_vfs_dev == wanted)
            inodes.push_back(message->udiag_ino);
        }
        at += NLA_ALIGN(attribute.nla_len);
      }
    }
  }
}

std::vector<std::uint64_t> unix_inodes_of_abstract(pid_t pid, std::string_view name) {
  std::vector<std::uint64_t> inodes;
  auto text = read_proc_file(fmt::format("/proc/{}/net/unix", pid));
  if (!text) return inodes;
  // The table shows NUL bytes in a name as '@'.
  std::string shown = "@" + std::string(name);
  for (char& c : shown)
    if (c == '\0') c = '@';
  std::size_t at = text->find('\n');
  while (at != std::string::npos && at + 1 < text->size()) {
    const std::size_t end = std::min(text->find('\n', at + 1), text->size());
    const std::string line = text->substr(at + 1, end - at - 1);
    std::uint64_t ino = 0;
    int skipped = 0;
    if (sscanf(line.c_str(), "%*[^:]: %*s %*s %*s %*s %*s %" SCNu64 "%n", &ino, &skipped) == 1 &&
        static_cast<std::size_t>(skipped) + 1 <= line.size() && line.substr(static_cast<std::size_t>(skipped) + 1) == shown)
      inodes.push_back(ino);
    at = end;
  }
  return inodes;
}

std::size_t end_tcp_repair(const std::vector<pid_t>& processes) {
  std::size_t ended = 0;
  for (pid_t pid : processes) {
    for (int fd : fds_of(pid)) {
      auto link = fd_link(pid, fd);
      if (!link || !link->starts_with("socket:[")) continue;
      auto copy = borrow_fd(pid, fd);
      if (!copy) continue;
      int on = 0;
      socklen_t size = sizeof on;
      if (getsockopt(copy->get(), IPPROTO_TCP, TCP_REPAIR, &on, &size) != 0 || on != 1) continue;
      const int off = TCP_REPAIR_OFF_NO_WP;
      if (setsockopt(copy->get(), IPPROTO_TCP, TCP_REPAIR, &off, sizeof off) == 0) ++ended;
    }
  }
  return ended;
}

bool is_local_address(const Address& address) {
  if (address.loopback || address.wildcard) return true;
  if (address.family != AF_INET && address.family != AF_INET6) return false;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return false;
  bool local = false;
  for (ifaddrs* one = all; one && !local; one = one->ifa_next) {
    if (!one->ifa_addr || one->ifa_addr->sa_family != address.family) continue;
    char text[INET6_ADDRSTRLEN] = {};
    const void* ip = address.family == AF_INET
                         ? static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(one->ifa_addr)->sin_addr)
                         : static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(one->ifa_addr)->sin6_addr);
    if (inet_ntop(address.family, ip, text, sizeof text)) local = address.host == text;
  }
  freeifaddrs(all);
  return local;
}

}  // namespace supervise
