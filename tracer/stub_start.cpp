// Programs that get their arena before they run (tracer/stub/start.h).
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <utility>

#include "tracer/memory.h"
#include "tracer/stub/code.h"
#include "tracer/stub/start.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;
using stub::KnownCode;
using stub::KnownSegment;

namespace {

constexpr auto kSoon = std::chrono::microseconds(60);
constexpr auto kMapsDeadline = Millis(20000);

}  // namespace

// What this task will report within microseconds is served at once: to sleep and be woken takes longer.
void Tracer::serve_soon(pid_t tid) {
  const auto end = Clock::now() + kSoon;
  do {
    int status = 0;
    const pid_t got = waitpid(tid, &status, __WALL | WNOHANG);
    if (got == tid) handle(tid, status);
    if (got != 0) return;
  } while (Clock::now() < end);
}

bool Tracer::start_program(Task& task) {
  if (!stub_ || holding_ || safe_ || task.exempt || task.detained || task.held) return false;
  auto regs = ptrace_raw::get_regs(task.tid);
  if (!regs || !stub_->may_start()) return false;
  task.space->entry = regs->rip;
  const auto known = stub_->known().start(regs->rip, stub::Stub::code_around(task.tid, regs->rip));
  if (!known) return false;
  ++known->segment->starts;
  if (!KnownCode::worth_starting(*known->segment)) {
    ++known->segment->plain_starts;
    return false;
  }
  auto mask = ptrace_raw::get_sigmask(task.tid);
  if (!mask) return false;
  auto start = std::make_shared<stub::Start>(*stub_, task.tid, *task.space, *regs, *mask);
  if (notes_) {
    auto* note = notes_->claim(task.tid, *regs, *mask);
    if (!note) return false;
    start->note(note);
  }
  if (!start->prepare(*known) || !ptrace_raw::set_sigmask(task.tid, ~0ull)) return false;
  task.start = std::move(start);
  const pid_t tid = task.tid;
  go_on(task);
  serve_soon(tid);
  return true;
}

// At an entry stop of a task that is being started. False: the call is somebody else's.
bool Tracer::serve_start(Task& task, std::uint64_t ip) {
  if (!task.start->is_stop(ip)) return false;
  const auto start = std::exchange(task.start, nullptr);
  const pid_t tid = task.tid;
  Regs regs = start->begin();
  if (auto filled = start->fill(); !filled) {
    const bool taken = task.space->sites.empty();
    if (taken) *task.space = stub::Space{};
    task.space->refused = stub_->figures.last_refusal = filled.error().message();
    task.no_area = true;
  } else if (const auto area = task.space->take_area()) {
    task.area = *area;
    write_area(task);
    regs.gs_base = task.area;
  }
  ptrace_raw::set_sigmask(tid, start->mask).ignore();
  ptrace_raw::set_regs(tid, regs).ignore();
  if (start->group_stopped) {
    ptrace_raw::interrupt(tid).ignore();
    task.interrupted = true;
  }
  go_on(task);
  return true;
}

// Runs code of the arena with a table in the task's area, up to its stop: `table` is what has become of it. The task
// has to be put back to `regs`.
Status Tracer::run_in_arena(Task& task, const Regs& regs, std::uint32_t code, std::span<std::byte> table) {
  const pid_t tid = task.tid;
  const stub::Space& space = *task.space;
  const std::uint64_t at = task.area + stub::kAreaTable;
  const std::uint64_t stop = space.at(stub::kCode) + stub::code_head().maps_stop;
  ASSIGN_OR_RETURN(const std::uint64_t mask, ptrace_raw::get_sigmask(tid));
  RETURN_IF_ERROR(write_exact(tid, at, table));
  Regs again = regs;
  rewind_call(again);
  // For whoever takes it over should we die.
  auto* note = notes_ ? notes_->claim(tid, again, mask) : nullptr;
  const auto forget = [](TracerNotes::Injection* claimed) { claimed->state = TracerNotes::Free; };
  const std::unique_ptr<TracerNotes::Injection, decltype(forget)> noted(note, forget);
  if (note) note->state = TracerNotes::Active;
  RETURN_IF_ERROR(ptrace_raw::set_sigmask(tid, ~0ull));
  Regs there = regs;
  skip_call(there, 0);
  there.rip = space.at(stub::kCode) + code;
  there.rbp = at;
  there.rsp = at + stub::kBootTable;
  there.r15 = stop;
  RETURN_IF_ERROR(ptrace_raw::set_regs(tid, there));
  RETURN_IF_ERROR(ptrace_raw::cont(tid));
  const Deadline deadline = Deadline::in(kMapsDeadline);
  bool group_stopped = false;
  for (auto soon = Clock::now() + kSoon;;) {
    int status = 0;
    const pid_t got = waitpid(tid, &status, __WALL | WNOHANG);
    if (got == 0) {
      if (deadline.passed()) return plain_error("a thread did not come to its stop");
      if (Clock::now() > soon) wait_for_sigchld(deadline);
      continue;
    }
    const Stop seen = classify(status);
    if (got < 0 || seen.is_end()) {
      if (got > 0) handle(tid, status);
      return errno_error(ESRCH, "the thread ended");
    }
    if (seen.kind == StopKind::Seccomp) {
      auto info = ptrace_raw::call_info(tid);
      if (info && info->ip == stop + kSyscallInsnSize) break;
    }
    if (seen.kind == StopKind::Interrupted) task.interrupted = false;
    group_stopped |= seen.kind == StopKind::GroupStop;
    RETURN_IF_ERROR(ptrace_raw::cont(tid));
  }
  if (group_stopped) {
    ptrace_raw::interrupt(tid).ignore();
    task.interrupted = true;
  }
  const Status read = read_exact(tid, at, table);
  ptrace_raw::set_regs(tid, again).ignore();
  ptrace_raw::set_sigmask(tid, mask).ignore();
  return read;
}

Status Tracer::make_maps(Task& task, const Regs& regs, stub::BootMap (&maps)[stub::kBootMaps + 1]) {
  return run_in_arena(task, regs, stub::code_head().first, std::as_writable_bytes(std::span(maps)));
}

Status Tracer::make_calls(Task& task, const Regs& regs, std::span<stub::ArenaCall> calls) {
  std::array<stub::ArenaCall, stub::kArenaCalls + 1> table{};
  if (calls.size() > stub::kArenaCalls) return plain_error("too many calls for the arena");
  std::ranges::copy(calls, table.begin());
  table[calls.size()].nr = -1;
  RETURN_IF_ERROR(run_in_arena(task, regs, stub::code_head().calls, std::as_writable_bytes(std::span(table))));
  std::ranges::copy_n(table.begin(), static_cast<std::ptrdiff_t>(calls.size()), calls.begin());
  return {};
}

}  // namespace supervise
