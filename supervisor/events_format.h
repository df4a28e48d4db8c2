// An event as one line: for people (`supervise: 12:01:02.123 [i1] NAME: sentence key=value`) or as
// one JSON object (time in UTC, level, incident, event, text, fields). Control characters and
// broken UTF-8 are escaped, so that a line is always one line. Without the newline at the end.
#pragma once

#include <string>
#include <string_view>

#include "supervisor/events.h"

namespace supervise {

std::string event_as_text(const Event& event);  // local time
std::string event_as_json(const Event& event);
std::string_view to_string(LogLevel level);

}  // namespace supervise
