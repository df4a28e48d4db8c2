// Which rung comes next for one failed call: (call, errno, what was tried, what is there) -> rung.
// Pure. A rung that has nothing to work with (no alternate left, no standby) is passed over.
#pragma once

#include "supervisor/policy.h"

namespace supervise {

// How a failed call can be completed.
enum class CallKind {
  Ordinary,    // has had no effect: run it again (read, write, open, rename...)
  Durability,  // fsync, fdatasync, msync, sync_file_range, syncfs, O_SYNC writes: the kernel may
               // already have dropped the data, so running it again proves nothing; earlier writes
               // must be replayed from the journal first
  Close,       // close: the descriptor is gone already; the data must be replayed, the result is 0
};

enum class Act {
  RunAgain,        // after `delay`
  ReplayRunAgain,  // replay the journal over the same path, then run again, after `delay`
  Alternate,       // switch the path, replay, run again
  Handover,        // hand the application over (after the call has been completed)
  Report,          // the application sees the error
};

struct Attempts {
  int retries = 0;
  Millis waited{0};
  std::size_t rung = 0;          // index in the ladder
  bool alternate_done = false;   // the call was completed on another path in this incident
};

struct Surroundings {
  bool alternate_available = false;
  bool standby_configured = false;
  bool handover_failed = false;
};

struct NextStep {
  Act act = Act::Report;
  Millis delay{0};
  Attempts attempts;  // to be handed in at the next failure of the same call
};

NextStep next_step(const Ladder& ladder, CallKind kind, const Attempts& before,
                   const Surroundings& around);

// After the call was completed over the alternate: does the ladder go on to a hand-over?
bool ladder_wants_handover(const Ladder& ladder, const Surroundings& around);

}  // namespace supervise
