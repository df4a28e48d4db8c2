// One thread under trace, and what the tracer knows of it. Pure data.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "seccomp/syscall_table.h"
#include "supervisor/base/clock.h"
#include "tracer/abi_x86_64.h"
#include "tracer/stop.h"

namespace supervise {

namespace stub {
struct Space;
class Start;
}

enum class RunState {
  Running,
  Stopped,    // in a ptrace stop: registers and memory can be reached
  Listening,  // PTRACE_LISTEN: in the application's own group stop
};

struct Call {
  int nr = -1;
  Args args{};
  bool foreign = false;              // int 0x80 or x32
  const SyscallRow* row = nullptr;   // nothing when the table has none
};

struct Task {
  pid_t tid = 0;
  pid_t tgid = 0;
  RunState state = RunState::Running;
  Stop stop;                 // the last one
  bool announced = false;    // the parent's birth event came, or we seized it ourselves
  bool vfork_child = false;  // runs on its parent's memory until exec or exit
  pid_t vfork_parent = 0;
  bool vfork_waiting = false;  // in uninterruptible sleep until its vfork child lets go
  std::optional<Call> call;  // between entry stop and exit stop
  bool clean = false;        // stopped at a user-mode boundary with no call half done
  bool reported = false;     // a status was waited for that is not served yet: it stands
  bool interrupted = false;  // PTRACE_INTERRUPT sent, its stop not yet seen
  bool app_stopped = false;  // the application itself stopped it (job control)
  bool injected = false;     // a call was injected since the stop
  bool held = false;         // the policy keeps it from running until Tracer::release
  bool detained = false;     // held at its next clean stop, whatever the others do
  bool exempt = false;       // runs although everything else is held
  bool call_done = false;    // a watched call of an exempt task has ended
  bool drop_sigcont = false; // our own SIGCONT is still to be delivered
  bool drop_sigtrap = false; // left by a dumper that died
  std::vector<siginfo_t> sent_again;  // by us, for its former tracer: this is what they say
  int deferred_signal = 0;   // was about to be delivered when the task was held: goes first when it runs on
  // --- the stub (tracer/stub/layout.h)
  std::shared_ptr<stub::Space> space;  // shared by all that run on the same memory
  std::shared_ptr<stub::Start> start;  // the program does not run yet: its arena is being made
  std::uint64_t area = 0;              // its Area, 0: it has none, and its calls go the slow way
  enum Begin : std::uint8_t { Begun, NewThread, NewProcess, Stranger } begin = Begun;  // until its first stop
  bool no_area = false;                // it never gets one
  bool stranger = false;               // the descriptor table of its memory is not that of its descriptors
  bool knows_files = true;             // the stub can be told of an open file
  bool wants_hint = false;             // the stub asks what the descriptor of the call at hand is
  std::uint32_t hint = 0;              // set by on_entry: what the call's descriptor is (stub::FdClass)
  Clock::time_point unparked{};
};

}  // namespace supervise
