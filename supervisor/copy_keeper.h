// The inside of a copy's keeper (parked.h), and the packets between it and the standby.
#pragma once

#include <string>

#include "supervisor/parked.h"

namespace supervise {

// Prepares the copy, waits, supervises; returns the exit status of the process.
int keep_copy(const StandbyOptions& options, Events& events, const CopyPlan& plan, UniqueFd line);

std::string news_to_text(const CopyNews& news);
Result<CopyNews> news_from_text(const std::string& text);

}  // namespace supervise
