#include "supervisor/warm/reference.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>

#include "seccomp/syscall_table.h"

namespace supervise {
namespace {

struct ClassName {
  RefClass cls;
  std::string_view name;
};
constexpr std::array<ClassName, 12> kClasses{{
    {RefClass::Connect, "connect"},
    {RefClass::Datagram, "datagram"},
    {RefClass::Listen, "listen"},
    {RefClass::Accept, "accept"},
    {RefClass::Netlink, "netlink"},
    {RefClass::Socket, "socket"},
    {RefClass::Fifo, "fifo"},
    {RefClass::Device, "device"},
    {RefClass::Terminal, "terminal"},
    {RefClass::Shm, "shm"},
    {RefClass::NetworkFile, "network-file"},
    {RefClass::Call, "call"},
}};

struct ModeName {
  WarmRules::Mode mode;
  std::string_view name;
};
constexpr std::array<ModeName, 6> kModes{{
    {WarmRules::Auto, "auto"},
    {WarmRules::Connect, "connect"},
    {WarmRules::Bind, "bind"},
    {WarmRules::Listen, "listen"},
    {WarmRules::Accept, "accept"},
    {WarmRules::Manual, "manual"},
}};

template <class T>
std::optional<T> as(std::span<const std::byte> bytes, std::size_t least) {
  if (bytes.size() < least) return {};
  T value{};
  memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
  return value;
}

Address inet(const sockaddr_in& in) {
  Address a;
  a.family = AF_INET;
  a.port = ntohs(in.sin_port);
  const std::uint32_t ip = ntohl(in.sin_addr.s_addr);
  a.loopback = ip >> 24 == 127;
  a.wildcard = ip == INADDR_ANY;
  a.multicast = IN_MULTICAST(ip);
  char text[INET_ADDRSTRLEN] = {};
  inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
  a.host = text;
  a.raw = fmt::format("{:08X}", in.sin_addr.s_addr);
  return a;
}

Address inet6(const sockaddr_in6& in) {
  if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
    sockaddr_in v4{};
    v4.sin_port = in.sin6_port;
    memcpy(&v4.sin_addr, in.sin6_addr.s6_addr + 12, 4);
    return inet(v4);
  }
  Address a;
  a.family = AF_INET6;
  a.port = ntohs(in.sin6_port);
  a.loopback = IN6_IS_ADDR_LOOPBACK(&in.sin6_addr);
  a.wildcard = IN6_IS_ADDR_UNSPECIFIED(&in.sin6_addr);
  a.multicast = IN6_IS_ADDR_MULTICAST(&in.sin6_addr);
  char text[INET6_ADDRSTRLEN] = {};
  inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
  a.host = text;
  for (const std::uint32_t word : in.sin6_addr.s6_addr32) a.raw += fmt::format("{:08X}", word);
  return a;
}

}  // namespace

std::string_view to_string(RefClass c) {
  for (const auto& row : kClasses)
    if (row.cls == c) return row.name;
  return "?";
}

std::optional<RefClass> ref_class_from(std::string_view name) {
  for (const auto& row : kClasses)
    if (row.name == name && row.cls != RefClass::Call) return row.cls;
  return {};
}

std::string ref_class_names() {
  std::string all;
  for (const auto& row : kClasses)
    if (row.cls != RefClass::Call) all += (all.empty() ? "" : ", ") + std::string(row.name);
  return all;
}

std::optional<Address> parse_address(std::span<const std::byte> bytes) {
  const auto family = as<sa_family_t>(bytes, sizeof(sa_family_t));
  if (!family) return {};
  switch (*family) {
    case AF_INET:
      if (auto in = as<sockaddr_in>(bytes, offsetof(sockaddr_in, sin_zero))) return inet(*in);
      return {};
    case AF_INET6:
      if (auto in = as<sockaddr_in6>(bytes, offsetof(sockaddr_in6, sin6_scope_id))) return inet6(*in);
      return {};
    case AF_UNIX: {
      Address a;
      a.family = AF_UNIX;
      const auto* text = reinterpret_cast<const char*>(bytes.data()) + offsetof(sockaddr_un, sun_path);
      const std::size_t size = bytes.size() - offsetof(sockaddr_un, sun_path);
      if (size == 0) return {};
      a.abstract = text[0] == '\0';
      a.name = a.abstract ? std::string(text + 1, size - 1) : std::string(text, strnlen(text, size));
      return a;
    }
    case AF_NETLINK:
      if (auto nl = as<sockaddr_nl>(bytes, sizeof(sockaddr_nl))) {
        Address a;
        a.family = AF_NETLINK;
        a.groups = nl->nl_groups;
        return a;
      }
      return {};
    case AF_UNSPEC: return {};
    default: {
      Address a;
      a.family = *family;
      return a;
    }
  }
}

std::string to_string(const Address& a, std::string_view protocol) {
  switch (a.family) {
    case AF_INET: return fmt::format("{} {}:{}", protocol, a.host, a.port);
    case AF_INET6: return fmt::format("{} [{}]:{}", protocol, a.host, a.port);
    case AF_UNIX: {
      std::string name = a.name;
      for (char& c : name)
        if (static_cast<unsigned char>(c) < ' ') c = '?';
      return fmt::format("unix {}{}", a.abstract ? "@" : "", name);
    }
    default: return fmt::format("{} address of family {}", protocol, a.family);
  }
}

Status parse_warm_point(std::string_view text, WarmRules& rules) {
  if (text.starts_with("call:")) {
    const std::string_view name = text.substr(5);
    if (!find_syscall(name))
      return plain_error(fmt::format("call:{}: no system call of that name is looked at (see `supervise "
                                     "list-syscalls`)", name));
    rules.mode = WarmRules::Call;
    rules.call = name;
    return {};
  }
  for (const auto& row : kModes) {
    if (row.name != text) continue;
    rules.mode = row.mode;
    return {};
  }
  return plain_error(fmt::format("`{}` is none of auto, connect, bind, listen, accept, call:NAME, manual", text));
}

std::string to_string(const WarmRules& rules) {
  if (rules.mode == WarmRules::Call) return "call:" + rules.call;
  for (const auto& row : kModes)
    if (row.mode == rules.mode) return std::string(row.name);
  return "off";
}

bool matches_internal(const WarmRules& rules, std::string_view peer) {
  const std::string whole(peer);
  const std::string bare(peer.substr(peer.find(' ') == std::string_view::npos ? 0 : peer.find(' ') + 1));
  for (const std::string& pattern : rules.internal)
    if (fnmatch(pattern.c_str(), whole.c_str(), 0) == 0 || fnmatch(pattern.c_str(), bare.c_str(), 0) == 0)
      return true;
  return false;
}

bool stops_at(const WarmRules& rules, const Reference& r) {
  switch (rules.mode) {
    case WarmRules::Off:
    case WarmRules::Manual: return false;
    case WarmRules::Call: return r.cls == RefClass::Call;
    case WarmRules::Accept: return r.cls == RefClass::Accept;
    case WarmRules::Auto:
      if (r.cls == RefClass::Accept || r.cls == RefClass::Call) return false;
      break;
    case WarmRules::Connect:
      if (r.cls != RefClass::Connect && r.cls != RefClass::Datagram) return false;
      break;
    case WarmRules::Bind:
      if (r.cls != RefClass::Listen) return false;
      break;
    case WarmRules::Listen:
      if (r.cls != RefClass::Listen || r.call != "listen") return false;
      break;
  }
  if (r.end != OtherEnd::Outside) return false;
  if (!rules.classes.empty() && !rules.classes.contains(r.cls)) return false;
  return !matches_internal(rules, r.peer);
}

}  // namespace supervise
