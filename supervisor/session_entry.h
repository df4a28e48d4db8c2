// What the commands `run`, `standby` and `restore` do once their options are parsed. They return
// the program's exit status (see docs: the application's own, 128+n, 113, 125 to 127).
#pragma once

#include "supervisor/events.h"
#include "supervisor/options.h"

namespace supervise {

int run_application(const RunOptions& options, Events& events);
int run_standby(const StandbyOptions& options, Events& events);
int run_restore(const StandbyOptions& options, Events& events);

}  // namespace supervise
