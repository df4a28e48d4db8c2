// System calls made by a held tracee on our behalf. While an Injector lives, the tracee's signals
// are blocked; at its end registers and signal mask are as before. The task must be stopped and
// clean (Tracer::hold_all). Strings and structures for the calls go to a scratch page, which is
// mapped in the tracee for the Injector's life and never overlaps its stack.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "supervisor/base/clock.h"
#include "tracer/notes.h"
#include "tracer/tracer.h"

namespace supervise {

class Injector {
 public:
  static Result<Injector> open(Tracer& tracer, Task& task, Deadline deadline);
  // For a task at the entry stop of a call: the call is not made, and lies before it at the end.
  static Result<Injector> open_at_entry(Tracer& tracer, Task& task, Deadline deadline);
  Injector(Injector&& other) noexcept;
  Injector& operator=(Injector&&) = delete;
  ~Injector();

  // The kernel's result: negative errno on failure. An Error means that the tracee is gone or
  // that the call did not end in time.
  Result<long> call(long nr, Args args = {});
  // The same, with an Error naming the call for a negative result.
  Result<long> call_checked(long nr, Args args = {});

  // Copies into the scratch page (64 KiB); returns the address in the tracee.
  Result<std::uint64_t> put(std::span<const std::byte> bytes);
  Result<std::uint64_t> put(std::string_view text);  // with a NUL
  void reset_scratch() { used_ = 0; }
  pid_t tid() const { return tid_; }

 private:
  Injector(Tracer& tracer, pid_t tid, Deadline deadline)
      : tracer_(&tracer), tid_(tid), deadline_(deadline) {}
  Result<std::uint64_t> find_syscall_insn();
  Result<long> run_to_exit(long nr);
  Result<std::uint64_t> reserve(std::size_t size);
  void note(TracerNotes::State state);
  void forget_note();
  void put_back();

  Tracer* tracer_;
  pid_t tid_;
  Deadline deadline_;
  ptrace_raw::Regs saved_{};
  std::uint64_t sigmask_ = 0;
  std::uint64_t insn_ = 0;
  std::uint64_t scratch_ = 0;
  std::size_t used_ = 0;
  bool active_ = false;
  TracerNotes::Injection* note_ = nullptr;  // for whoever takes the thread over when we die
};

}  // namespace supervise
