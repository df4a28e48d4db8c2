#include "restore/net_address.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <charconv>

#include "supervisor/base/scope_exit.h"

namespace supervise {

std::string NetAddress::text() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

Result<NetAddress> parse_net_address(const std::string& text, bool listener) {
  const auto bad = [&](const char* why) {
    return errno_error(EINVAL, fmt::format("{}: expected HOST:PORT or [V6ADDRESS]:PORT{}", why,
                                           listener ? ", or :PORT for all addresses" : ""));
  };
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return bad("no port");
  NetAddress address;
  const char* end = text.data() + text.size();
  const auto [p, ec] = std::from_chars(text.data() + colon + 1, end, address.port);
  if (ec != std::errc() || p != end || address.port < (listener ? 0 : 1) || address.port > 65535)
    return bad("the port is no number from 1 to 65535");
  std::string host = text.substr(0, colon);
  if (host.starts_with("[")) {
    if (!host.ends_with("]")) return bad("[ without ]");
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    return bad("an IPv6 address needs brackets");
  }
  if (host.empty() && !listener) return bad("no host");
  if (host.find_first_of("/ \t") != std::string::npos) return bad("that is no host");
  address.host = host;
  return address;
}

Result<std::vector<UniqueFd>> listen_on(const NetAddress& where) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  const int rc = getaddrinfo(where.host.empty() ? nullptr : where.host.c_str(), std::to_string(where.port).c_str(),
                             &hints, &found);
  if (rc != 0) return plain_error(fmt::format("listen on {}: {}", where.text(), gai_strerror(rc)));
  ScopeExit free_it([&] { freeaddrinfo(found); });
  std::vector<UniqueFd> all;
  Error last = plain_error(fmt::format("listen on {}: no address", where.text()));
  for (const addrinfo* a = found; a; a = a->ai_next) {
    UniqueFd fd(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int one = 1;
    if (fd) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd && a->ai_family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (!fd || bind(fd.get(), a->ai_addr, a->ai_addrlen) != 0 || listen(fd.get(), 16) != 0) {
      last = errno_error(fmt::format("listen on {}", where.text()));
      if (last.err == EADDRINUSE) return last;
      continue;
    }
    all.push_back(std::move(fd));
    if (where.port == 0) break;
  }
  if (all.empty()) return last;
  return all;
}

int port_of(int fd) {
  sockaddr_storage at{};
  socklen_t size = sizeof at;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) != 0) return 0;
  if (at.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6*>(&at)->sin6_port);
  return ntohs(reinterpret_cast<sockaddr_in*>(&at)->sin_port);
}

}  // namespace supervise
