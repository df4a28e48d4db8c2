// `supervise adopt NAME`: another version of this program takes a running application over, in the same process. The
// running supervisor makes what was written durable, lets all threads stand in state T without a tracer,
// as for an image, and execve(2)s the program of the one who asked: PID, children, world, standard streams and
// terminal stay what they are. The successor reads the session's state from a memfd, seizes the threads and goes on.
//
// A successor that can't puts the former program in its place again, which was kept open for that. Should
// it die, the keeper of the former one takes over, as after any death (keeper.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "supervisor/base/passed_fds.h"
#include "supervisor/base/result.h"

namespace supervise {

// Of the state. Both programs must have the same; it changes when a field changes its meaning or goes.
inline constexpr int kSuccessionForm = 1;

// In the former. Comes back with the error only. `state` is completed here ("fds", "former").
Error exec_successor(int program, nlohmann::json state, PassedFds& fds);

// In main(): this process was a supervisor until now, by the variable that exec_successor sets.
bool is_successor();
int run_successor();  // the program's exit status

}  // namespace supervise
