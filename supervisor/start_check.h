// May the application start here? Not while a second host runs what this one handed over.
#pragma once

#include <string>

#include "supervisor/events.h"
#include "supervisor/standby_link.h"

namespace supervise {

// Looks at the newest committed image of the application in the store of `--standby dir:DIR`, or asks the standby at
// HOST:PORT. EBUSY names the host that has claimed a committed hand-over and has not said that the
// application ended there. A claim of a process of this host that is gone does not count. A standby that can't
// be asked stops the start only when this host has handed the application over to it.
Status check_not_elsewhere(const StandbyTarget& target, Events& events);

// A mark in an image of this host that was, or may have been, committed to a standby over the network.
Status note_handed_over(const std::string& image_dir, const std::string& standby);
void forget_handed_over(const std::string& image_dir);

}  // namespace supervise
