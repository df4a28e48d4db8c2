// What a dumper that dies in the middle leaves changed in a stopped thread, saved before and put
// back after: registers (general, floating point and vector), signal mask, and the code at the
// start of the first executable mapping of its process, where CRIU borrows a place for its system
// call. Verified with CRIU 4.2.1 on Linux 6.18 by killing it at every moment of a dump
// (integration/kill_criu); a thread that CRIU held exactly in a trap dies with it and is not saved.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "tracer/tracer.h"

namespace supervise {

class Snapshot {
 public:
  // All tasks held.
  static Snapshot take(Tracer& tracer);
  // All tasks held again. Returns how many threads or processes had to be repaired.
  std::size_t put_back(Tracer& tracer) const;
  std::size_t threads() const { return threads_.size(); }

 private:
  struct Thread {
    ptrace_raw::Regs regs{};
    std::vector<std::byte> extended;  // NT_X86_XSTATE
    std::uint64_t sigmask = 0;
  };
  struct Code {
    std::uint64_t addr = 0;
    std::vector<std::byte> bytes;
  };
  std::map<pid_t, Thread> threads_;
  std::map<pid_t, Code> code_;
};

}  // namespace supervise
