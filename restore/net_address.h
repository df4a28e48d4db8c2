// HOST:PORT or [V6]:PORT, and the addresses behind it (getaddrinfo(3), which may take long).
#pragma once

#include <string>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

struct NetAddress {
  std::string host;  // name, or address without brackets; empty: every address of this host
  int port = 0;
  std::string text() const;
};

// Errors say what was expected. An empty host is allowed only for a listener.
Result<NetAddress> parse_net_address(const std::string& text, bool listener);

// Listening sockets, one for each address family that `where` stands for. Port 0 takes a free one.
Result<std::vector<UniqueFd>> listen_on(const NetAddress& where);
int port_of(int fd);

}  // namespace supervise
