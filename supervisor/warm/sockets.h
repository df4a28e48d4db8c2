// Who is at the other end of a socket address, as the kernel's tables tell: /proc/PID/net/{tcp,udp}
// for ports, sock_diag(7) for unix(7) names (by inode of the bound name, so that relative names and
// links don't matter).
#pragma once

#include <sys/types.h>

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/warm/reference.h"

namespace supervise {

// A copy of a tracee's descriptor: pidfd_getfd(2).
Result<UniqueFd> borrow_fd(pid_t tgid, int fd);

struct PortOwner {
  std::string address;   // hexadecimal, as in the table
  std::uint16_t port = 0;
  bool listens = false;  // tcp: LISTEN; udp: not connected
  std::uint64_t ino = 0;
};
std::vector<PortOwner> parse_net_table(std::string_view text);  // pure; of /proc/PID/net/tcp, udp...

// Inodes of the sockets that these processes hold.
std::set<std::uint64_t> sockets_of(const std::vector<pid_t>& processes);
// Of the rows those that take what is sent to the address: bound to it, or else to the wildcard. Pure.
std::vector<std::uint64_t> takers(const std::vector<PortOwner>& rows, const Address& address);
// The same in the network namespace of `pid`: who listens there (for udp: receives).
std::vector<std::uint64_t> port_inodes(pid_t pid, bool udp, const Address& address);
// Sockets that are bound to the name: by the identity of its file, or by the abstract name.
std::vector<std::uint64_t> unix_inodes_of_file(dev_t dev, ino_t ino);
std::vector<std::uint64_t> unix_inodes_of_abstract(pid_t pid, std::string_view name);
// TCP connections that CRIU has left in repair mode (tcp(7), TCP_REPAIR) come out of it: it does so
// itself only for `--leave-running`, and not when it is killed. In repair mode recv(2) says EPERM.
// Returns how many. Shown by integration/warm_point.
std::size_t end_tcp_repair(const std::vector<pid_t>& processes);
// Is the address one of this host's own?
bool is_local_address(const Address& address);

}  // namespace supervise
