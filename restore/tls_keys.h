// Certificates for hosts that hand applications to each other: one authority, and for each host a key
// and a certificate for its name (EC P-256, X.509 v3, both ends of TLS). Any authority of the operator's
// will do as well; these are for those who have none.
#pragma once

#include <string>

#include "supervisor/base/result.h"

namespace supervise {

// DIR/ca.pem and DIR/ca-key.pem, unless they are there. `made` tells which.
Status make_authority(const std::string& dir, bool& made);
// DIR/HOST/{ca,cert,key}.pem. HOST is the name or address that --standby of the other hosts will have.
// EEXIST: it has one already.
Status make_host_keys(const std::string& dir, const std::string& host);

}  // namespace supervise
