// What a dumper that dies in the middle leaves changed in a stopped process, saved before and put
// back after: registers (general, floating point and vector), signal masks, the code at the start of
// the first executable mapping, where CRIU borrows a place for its system call, and descriptors and
// mappings that it left open. CRIU 4.2.1, Linux 6.18: integration/kill_steps kills it in a dump. A
// thread that it held exactly in a trap can die of that trap; nothing brings it back.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <utility>
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
  struct Process {
    std::uint64_t code_addr = 0;
    std::vector<std::byte> code;
    std::set<int> fds;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> mappings;
  };
  static void tidy(Tracer& tracer, pid_t pid, const Process& was);

  std::map<pid_t, Thread> threads_;
  std::map<pid_t, Process> processes_;
};

}  // namespace supervise
