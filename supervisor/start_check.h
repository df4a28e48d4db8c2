// May the application start here? Not while a second host runs what this one handed over.
#pragma once

#include <string>

#include "supervisor/base/result.h"

namespace supervise {

// Looks at the newest image of `name` in the store DIR of `--standby dir:DIR`. EBUSY names the host that
// has claimed a committed hand-over and has not said that the application ended there. A claim of a
// process of this host that is gone does not count.
Status check_not_elsewhere(const std::string& standby, const std::string& name);

}  // namespace supervise
