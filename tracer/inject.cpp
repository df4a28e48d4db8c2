#include "tracer/inject.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>

#include "tracer/memory.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {
constexpr std::size_t kScratchSize = 64 << 10;
}

Result<Injector> Injector::open(Tracer& tracer, Task& task, Deadline deadline) {
  if (task.state != RunState::Stopped || !task.clean)
    return plain_error(fmt::format("thread {} is not held", task.tid));
  Injector in(tracer, task.tid, deadline);
  ASSIGN_OR_RETURN(in.saved_, ptrace_raw::get_regs(task.tid));
  ASSIGN_OR_RETURN(in.sigmask_, ptrace_raw::get_sigmask(task.tid));
  ASSIGN_OR_RETURN(in.insn_, in.find_syscall_insn());
  in.note(TracerNotes::Active);
  RETURN_IF_ERROR(ptrace_raw::set_sigmask(task.tid, ~0ull));
  in.active_ = true;
  return in;
}

Result<Injector> Injector::open_at_entry(Tracer& tracer, Task& task, Deadline deadline) {
  Injector in(tracer, task.tid, deadline);
  ASSIGN_OR_RETURN(in.saved_, ptrace_raw::get_regs(task.tid));
  ASSIGN_OR_RETURN(in.sigmask_, ptrace_raw::get_sigmask(task.tid));
  ASSIGN_OR_RETURN(in.insn_, in.find_syscall_insn());
  ptrace_raw::Regs regs = in.saved_;
  rewind_call(in.saved_);
  regs.orig_rax = static_cast<unsigned long long>(-1);
  in.note(TracerNotes::AtEntry);
  RETURN_IF_ERROR(ptrace_raw::set_regs(task.tid, regs));
  in.note(TracerNotes::Active);
  RETURN_IF_ERROR(ptrace_raw::set_sigmask(task.tid, ~0ull));
  in.active_ = true;
  ASSIGN_OR_RETURN(const long skipped, in.run_to_exit(static_cast<long>(in.saved_.rax)));
  (void)skipped;
  return in;
}

Injector::Injector(Injector&& o) noexcept
    : tracer_(o.tracer_), tid_(o.tid_), deadline_(o.deadline_), saved_(o.saved_),
      sigmask_(o.sigmask_), insn_(o.insn_), scratch_(o.scratch_), used_(o.used_),
      active_(std::exchange(o.active_, false)), note_(std::exchange(o.note_, nullptr)) {}

Injector::~Injector() {
  if (active_) put_back();
  forget_note();
}

void Injector::note(TracerNotes::State state) {
  if (!note_ && tracer_->notes()) note_ = tracer_->notes()->claim(tid_, saved_, sigmask_);
  if (note_) note_->state = state;
}

void Injector::forget_note() {
  if (note_) note_->state = TracerNotes::Free;
  note_ = nullptr;
}

void Injector::put_back() {
  if (scratch_) call(SYS_munmap, {scratch_, kScratchSize, 0, 0, 0, 0}).value_or(0);
  if (note_) note_->scratch = 0;
  ptrace_raw::set_regs(tid_, saved_).ignore();
  ptrace_raw::set_sigmask(tid_, sigmask_).ignore();
  if (Task* task = tracer_->find(tid_)) task->injected = true;
}

Result<std::uint64_t> Injector::find_syscall_insn() {
  ASSIGN_OR_RETURN(const auto maps, maps_of(tid_));
  // The vDSO has one in its fallbacks; otherwise any code will do.
  for (int pass = 0; pass < 2; ++pass) {
    for (const Vma& v : maps) {
      if (!v.exec || !v.read || v.path == "[vsyscall]" || (pass == 0) != (v.path == "[vdso]"))
        continue;
      std::vector<std::byte> code(std::min<std::uint64_t>(v.end - v.start, 4 << 20));
      code.resize(read_some(tid_, v.start, code));
      static constexpr std::byte insn[] = {std::byte{0x0f}, std::byte{0x05}};
      auto it = std::search(code.begin(), code.end(), std::begin(insn), std::end(insn));
      if (it != code.end()) return v.start + static_cast<std::uint64_t>(it - code.begin());
    }
  }
  return plain_error(fmt::format("process {} has no syscall instruction to borrow", tid_));
}

Result<long> Injector::call(long nr, Args args) {
  ptrace_raw::Regs regs = saved_;
  regs.rip = insn_;
  regs.rax = static_cast<unsigned long long>(nr);
  regs.orig_rax = static_cast<unsigned long long>(-1);
  set_args(regs, args);
  RETURN_IF_ERROR(ptrace_raw::set_regs(tid_, regs));
  return run_to_exit(nr);
}

Result<long> Injector::run_to_exit(long nr) {
  RETURN_IF_ERROR(ptrace_raw::cont_to_exit(tid_));
  for (;;) {
    int status = 0;
    const pid_t got = waitpid(tid_, &status, __WALL | WNOHANG);
    if (got < 0) return errno_error(ESRCH, fmt::format("thread {} ended", tid_));
    if (got == 0) {
      if (deadline_.passed())
        return errno_error(ETIMEDOUT, fmt::format("{} injected into thread {}",
                                                  syscall_name(static_cast<int>(nr)), tid_));
      wait_for_sigchld(deadline_);
      continue;
    }
    const Stop stop = classify(status);
    if (stop.is_end()) {
      active_ = false;
      tracer_->handle(tid_, status);
      return errno_error(ESRCH, fmt::format("thread {} ended", tid_));
    }
    if (stop.kind == StopKind::CallStop) {
      ASSIGN_OR_RETURN(const auto info, ptrace_raw::call_info(tid_));
      if (info.phase == ptrace_raw::CallPhase::Exit) return static_cast<long>(info.result);
    }
    // Entry, the filter's own stop, or an interruption from a hold that was called off, which has come now.
    if (stop.kind == StopKind::Interrupted) {
      if (Task* task = tracer_->find(tid_)) task->interrupted = false;
    }
    RETURN_IF_ERROR(ptrace_raw::cont_to_exit(tid_, stop.kind == StopKind::Signal ? stop.signal : 0));
  }
}

Result<long> Injector::call_checked(long nr, Args args) {
  ASSIGN_OR_RETURN(const long result, call(nr, args));
  if (result < 0 && result > -4096)
    return errno_error(static_cast<int>(-result),
                       fmt::format("{} in process {}", syscall_name(static_cast<int>(nr)), tid_));
  return result;
}

Result<std::uint64_t> Injector::reserve(std::size_t size) {
  if (!scratch_) {
    ASSIGN_OR_RETURN(const long at,
                     call_checked(SYS_mmap, {0, kScratchSize, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, ~0ull, 0}));
    scratch_ = static_cast<std::uint64_t>(at);
    if (note_) note_->scratch = scratch_;
  }
  const std::size_t need = (size + 15) & ~std::size_t{15};
  if (used_ + need > kScratchSize) return errno_error(ENOMEM, "scratch page is full");
  const std::uint64_t at = scratch_ + used_;
  used_ += need;
  return at;
}

Result<std::uint64_t> Injector::put(std::span<const std::byte> bytes) {
  ASSIGN_OR_RETURN(const std::uint64_t at, reserve(bytes.size()));
  RETURN_IF_ERROR(write_exact(tid_, at, bytes));
  return at;
}

Result<std::uint64_t> Injector::put(std::string_view text) {
  std::string copy(text);
  return put(std::as_bytes(std::span(copy.c_str(), copy.size() + 1)));
}

}  // namespace supervise
