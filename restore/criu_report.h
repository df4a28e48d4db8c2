// Reading what CRIU leaves behind: its log and its figures. Pure.
#pragma once

#include <optional>
#include <string>

#include "restore/criu.h"

namespace supervise {

// The errors of a log, first ones first, without time stamps, at most four; the last line when no
// error was logged (CRIU was killed). Empty for an empty log.
std::string criu_telling_lines(const std::string& log);

// From stats-dump: two magic numbers, a length, a protobuf message (CRIU's images/stats.proto).
std::optional<Criu::DumpFigures> criu_dump_figures(const std::string& stats);

}  // namespace supervise
