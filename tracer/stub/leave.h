// Takes a thread out of the stub, as if the call were an ordinary system call at its site: registers
// restored; a call that was not made goes back to its site, one that was made lies behind it. Pure.
// Asked for whenever a signal is delivered or a thread is stopped: no handler, dump or debugger ever sees
// the stub's own registers or stack. The stages are in layout.h.
#pragma once

#include <sys/user.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "tracer/stub/layout.h"

namespace supervise::stub {

enum class Was {
  Outside,   // not in the stub: registers unchanged
  NotMade,   // the call lies before it
  Made,      // rax is its result
  Untold,    // made, but neither journal nor policy know yet
};

// Where a slot's `slow` belongs: address of the site's syscall instruction.
using SiteOf = std::function<std::optional<std::uint64_t>(std::uint64_t slow)>;

// Is the instruction pointer in the stub's code (traced part included) of that window?
bool in_code(std::uint64_t rip, std::uint64_t window);

// `regs` at a stop that is no entry of a system call (those are rewound first).
Was leave(user_regs_struct& regs, const Area& area, const CodeHead& head, std::uint64_t window, const SiteOf& site_of);

}  // namespace supervise::stub
