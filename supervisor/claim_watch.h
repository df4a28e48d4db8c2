// Who must know what becomes of a resumed session: the claim of its image names the process that supervises it,
// keepers that take over (keeper.h) and successors (succession.h) too, and says when it has ended. For a copy that
// was activated it is the standby that keeps the claim up to date, as long as there is one.
#pragma once

#include <cstdint>
#include <string>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/events.h"

namespace supervise {

class Session;

void watch_claim(Session& session, Events& events, const std::string& image);
Status note_first_io(const std::string& image, std::int64_t unix_ns);

// `line`: parked.h. The standby tells by a byte on it that the control socket's name is free, its end says the
// same: then the session answers, and from then on it goes on when its supervisor dies.
void watch_standby(Session& session, Events& events, UniqueFd line, const std::string& image, int instance);

}  // namespace supervise
