// The inside of a copy's keeper (parked.h), and the packets between it and the standby.
#pragma once

#include <optional>
#include <string>

#include "supervisor/parked.h"

namespace supervise {

// Prepares the copy, waits, supervises; returns the exit status of the process.
int keep_copy(const StandbyOptions& options, Events& events, const CopyPlan& plan, UniqueFd line);

std::string news_to_text(const CopyNews& news);
Result<CopyNews> news_from_text(const std::string& text);
// Without waiting. False: the other end is gone.
bool send_news(int line, const CopyNews& news);
// Nothing when there is none now; Lost, without a text, at the end of the line.
std::optional<CopyNews> receive_news(int line);

}  // namespace supervise
