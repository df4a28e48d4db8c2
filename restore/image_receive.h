// The standby's end: serves one connection of an origin, and keeps what arrives in the store of the
// application, STORE/NAME. Until an image is whole its parts lie in STORE/NAME/.incoming/UPLOAD/,
// where the next connection with the same upload goes on; then its hashes are compared with the
// sender's manifest, and only then it gets a name (a generation of this store) and can be seen.
#pragma once

#include <functional>
#include <string>

#include "restore/tls.h"

namespace supervise {

struct ReceiveLog {
  std::function<void(const std::string& text)> info, warn;
};

// Until the origin ends the connection (ok) or it breaks.
Status serve_origin(TlsStream stream, const std::string& app_dir, const std::string& app, const ReceiveLog& log);

// Removes what never became an image: uploads that nobody has gone on with for `seconds`.
void sweep_incoming(const std::string& app_dir, long seconds = 24 * 3600);

}  // namespace supervise
