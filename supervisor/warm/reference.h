// External references, the pure part: what kinds there are, whom a call refers to, and whether a
// thread that is about to make it has reached the warm point. The facts come from
// reference_finder.h. A reference is the use of an entity outside the set of supervised processes:
// where nobody is at the other end (a loopback port without a listener, an unbound unix(7) name)
// there is none, and the call runs and fails as it always did.
//
// Where each class stops, and why there:
//  connect, datagram  at connect(2) and at the first send to an address. An unconnected INET or UNIX
//                     socket is part of an image, so socket(2) passes.
//  listen             at bind(2) of an address that the network reaches, port 0 excepted, or at
//                     listen(2): a parked copy must hold no port.
//  accept             only when it is asked for as the warm point.
//  netlink            at socket(2) for all protocols but NETLINK_ROUTE; there, questions (RTM_GET*)
//                     are facts of the host (portability.h), changes and multicast groups stop.
//  socket             at socket(2): packet, vsock, raw, bluetooth...: an image can't hold most.
//  fifo, device, terminal, shm, network-file   at the open(2) of it.
// System V IPC and POSIX message queues live in the IPC namespace of the world, and signals end at
// its PID namespace: their other end is inside by construction. Descriptors from outside can only
// come over a unix socket whose connect(2) was stopped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"

namespace supervise {

enum class RefClass : std::uint8_t {
  Connect, Datagram, Listen, Accept, Netlink, Socket, Fifo, Device, Terminal, Shm, NetworkFile, Call,
};
std::string_view to_string(RefClass c);
std::optional<RefClass> ref_class_from(std::string_view name);
std::string ref_class_names();  // for messages, with commas

enum class OtherEnd : std::uint8_t { Nobody, Inside, Outside };

struct Reference {
  RefClass cls = RefClass::Call;
  std::string call;    // name of the system call that would come next
  std::string peer;    // "tcp 10.1.2.3:5432", "unix /run/x.sock", "device /dev/fuse (10:229)"...
  OtherEnd end = OtherEnd::Outside;
};

struct Address {
  int family = 0;
  std::uint16_t port = 0;
  bool loopback = false;
  bool wildcard = false;
  bool multicast = false;
  std::uint32_t groups = 0;  // netlink
  std::string host;      // INET: without the port
  std::string raw;       // INET: the address as /proc/PID/net/tcp writes it
  std::string name;      // UNIX: path, or the abstract name without its leading NUL
  bool abstract = false;
};
// sockaddr as the application passed it; nothing for AF_UNSPEC and what is too short.
std::optional<Address> parse_address(std::span<const std::byte> bytes);
std::string to_string(const Address& address, std::string_view protocol);

struct WarmRules {
  enum Mode : std::uint8_t { Off, Auto, Connect, Bind, Listen, Accept, Call, Manual };
  Mode mode = Off;
  std::string call;                    // Mode::Call
  std::set<RefClass> classes;          // --external; empty: all
  std::vector<std::string> internal;   // --internal: fnmatch(3) patterns for Reference::peer
  Millis settle{300};
  Millis deadline{60000};

  bool watches() const { return mode != Off && mode != Manual; }
};
// "auto", "connect", "call:NAME"...; the error names what is allowed.
Status parse_warm_point(std::string_view text, WarmRules& rules);
std::string to_string(const WarmRules& rules);

// True: the thread stops before this call.
bool stops_at(const WarmRules& rules, const Reference& reference);
// A pattern with or without the protocol: "10.0.0.0:*", "unix /run/*", "/dev/fuse".
bool matches_internal(const WarmRules& rules, std::string_view peer);

}  // namespace supervise
