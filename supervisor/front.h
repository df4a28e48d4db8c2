// Whoever waits for the supervisor takes its death for the application's: a container ends with its first process, a
// service manager ends the whole service with its main process, and the keeper that goes on (keeper.h) with it. There a
// small process, the front, stands before the supervisor. It starts it, sends it what signals come, reaps what
// becomes its child, follows a keeper that takes over, and ends with the application's status.
//
// One stands when this is process 1 of its PID namespace, or systemd says that this is the service's main process
// (SYSTEMD_EXEC_PID, systemd.exec(5)), or the parent is process 1 and not a shell or a terminal's init (of the same
// session): there a signal to the process group would come twice.
#pragma once

#include <functional>

#include "supervisor/base/unique_fd.h"

namespace supervise::front {

// `supervise`, behind a front when one is wanted; the exit status.
int run(const std::function<int()>& supervise);

// What follows is for the supervisor behind it, and does nothing when there is no front.
// It is process 1: all processes of a container end with it.
bool is_first_process();
void tell_taken_over();
void tell_over(int status);
int line();                                  // -1: none. A successor inherits it
void inherit(UniqueFd line, bool first);
void forget();                               // in a child that is not to go on in the supervisor's place

}  // namespace supervise::front
