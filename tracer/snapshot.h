// What a dumper that dies in the middle leaves changed in a stopped process, saved before and put
// back after: registers (general, floating point and vector), signal masks, the code at the start of
// the first executable mapping, where CRIU borrows a place for its system call, and descriptors and
// mappings that it left open. CRIU 4.2.1, Linux 6.18: integration/kill_criu_long kills it in dumps.
//
// A thread that has just trapped, but whose tracer has not yet waited for it, gets the SIGTRAP when
// the tracer dies (ptrace_stop() returns the exit code that no wait4() took), and its process ends.
// With a handler it only gets a frame for it: the group stop comes before its first instruction.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "tracer/tracer.h"

namespace supervise {

// Processes whose SIGTRAP has the default action; all others survive one by themselves. Pure /proc.
std::set<pid_t> default_traps(const Tracer& tracer);
// Gives these a handler for the time of a dump, and takes it away. All tasks held, and not "safe".
// An image has the handler too: the second host takes it away as well.
void guard_traps(Tracer& tracer, const std::set<pid_t>& pids);
void unguard_traps(Tracer& tracer, const std::set<pid_t>& pids);

class Snapshot {
 public:
  // All tasks held.
  static Snapshot take(Tracer& tracer);
  // All tasks stopped, and none has run since the dumper's death (Tracer::adopt). Returns how many
  // threads or processes had to be repaired.
  std::size_t put_back(Tracer& tracer) const;
  // All tasks held again: closes what was left open.
  void tidy(Tracer& tracer) const;
  std::size_t threads() const { return threads_.size(); }

 private:
  struct Thread {
    ptrace_raw::Regs regs{};
    std::vector<std::byte> extended;  // NT_X86_XSTATE
    std::uint64_t sigmask = 0;
  };
  struct Process {
    std::uint64_t code_addr = 0;
    std::vector<std::byte> code;
    std::set<int> fds;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> mappings;
  };
  static bool foreign(const Process& was, std::uint64_t rip);
  static void tidy_process(Tracer& tracer, pid_t pid, const Process& was);

  std::map<pid_t, Thread> threads_;
  std::map<pid_t, Process> processes_;
};

}  // namespace supervise
