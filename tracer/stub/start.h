// An arena, and patches of the sites that are known, for a program before it runs: code of ours at its begin makes
// the mappings and stops, and they are filled. The tracer runs the thread from one to the other.
#pragma once

#include <unistd.h>

#include <vector>

#include "tracer/notes.h"
#include "tracer/ptrace_raw.h"
#include "tracer/stub/code.h"
#include "tracer/stub/stub.h"

namespace supervise::stub {

class Start {
 public:
  // The thread is at the stop of its exec; `regs` are the program's first ones.
  Start(Stub& stub, pid_t tid, Space& space, const ptrace_raw::Regs& regs, std::uint64_t signals)
      : mask(signals), stub_(stub), tid_(tid), space_(space), begin_(regs), out_(tid) {}
  ~Start();
  Start(const Start&) = delete;

  // For whoever takes the thread over should we die; until it ends.
  void note(TracerNotes::Injection* note);
  // The same, there: `begin` are the registers in the note.
  static void undo(pid_t tid, const ptrace_raw::Regs& begin);

  // False: its code is not what is known, and nothing was changed.
  bool prepare(const KnownCode::Start& known);
  // At the stop. Afterwards the program's code is its own, but for patches. An Error: there is no arena.
  Status fill();

  bool is_stop(std::uint64_t ip) const { return ip == begin_.rip + code_head().first_stop + kSyscallInsnSize; }
  // The program's first registers, for a thread at the stop of a call that is not made.
  ptrace_raw::Regs begin() const;

  const std::uint64_t mask;    // all signals wait meanwhile
  bool group_stopped = false;  // it has to be led into its group stop again

 private:
  Stub& stub_;
  pid_t tid_;
  Space& space_;
  ptrace_raw::Regs begin_;
  MemoryWriter out_;
  std::vector<std::byte> original_;
  std::vector<Known> chosen_;
  BootTable table_{};
  TracerNotes::Injection* note_ = nullptr;
  pid_t owner_ = getpid();
};

}  // namespace supervise::stub
