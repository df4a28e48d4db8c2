// The standby's listening process (`--listen`): a process for each connection of an origin, which writes
// to the local store; what is there the standby sees as it would in a shared directory.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "restore/net_address.h"
#include "restore/tls.h"
#include "supervisor/base/helper.h"
#include "supervisor/events.h"

namespace supervise {

class ImageReceiver {
 public:
  // Binds now: an address that can't be had is an error here. `tls` as in restore/tls.h.
  static Result<std::unique_ptr<ImageReceiver>> open(const std::string& listen, const std::string& tls_dir);
  Status start(Events& events, const std::string& app_dir, const std::string& app, const std::function<void()>& in_child);
  std::string where() const;  // HOST:PORT with the port that it got
  Helper& process() { return helper_; }
  // In a forked child that may outlive the standby: the address must be free then.
  void close_listeners() { listeners_.clear(); }

 private:
  NetAddress address_;
  std::optional<TlsContext> tls_;
  std::vector<UniqueFd> listeners_;
  Helper helper_;
};

}  // namespace supervise
