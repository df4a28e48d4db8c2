// Programs that get their arena before they run (tracer/stub/start.h), and what is learned of call sites for it.
#include <sys/syscall.h>
#include <sys/wait.h>

#include <utility>

#include "tracer/inject.h"
#include "tracer/proc_info.h"
#include "tracer/stub/code.h"
#include "tracer/stub/start.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;
using stub::KnownCode;
using stub::KnownSegment;
using stub::KnownSite;

namespace {

constexpr auto kSoon = std::chrono::microseconds(60);
constexpr std::size_t kMostWanted = 64;
constexpr auto kShareDeadline = Millis(2000), kMapsDeadline = Millis(20000);

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

// The task is at the entry of its call, at the first one of these sites. It makes it again.
bool Tracer::patch_known(Task& task, const std::vector<stub::Known>& sites) {
  const pid_t tid = task.tid;
  std::shared_ptr<stub::Space> space = task.space;
  std::vector<std::pair<pid_t, int>> stopped;
  bool gone = false, tried = false;
  if (stop_others(task, stopped)) {
    stub::BootMap maps[stub::kBootMaps + 1] = {};
    stub::Stub::pages_for(sites, *space, maps);
    auto regs = ptrace_raw::get_regs(tid);
    if (regs) {
      tried = true;
      Status done = maps[0].size == 0 ? Status() : make_maps(task, *regs, maps);
      gone = find(tid) == nullptr;
      if (!gone) {
        if (done) done = stub_->patch_known(tid, *space, sites, maps);
        if (!done) space->refused = stub_->figures.last_refusal = done.error().message();
        rewind_call(*regs);
        enter_slot(task, sites.front().site, *regs);
        ptrace_raw::set_regs(tid, *regs).ignore();
      }
    }
  }
  const auto from = space->forked_from.lock();
  for (const auto& known : sites) {
    if (!tried) break;
    space->site_traps.erase(known.site);
    if (!space->by_address.contains(known.site)) space->unpatchable.try_emplace(known.site, "no page near the call");
    else if (from && !from->by_address.contains(known.site) && from->wanted.size() < kMostWanted) from->wanted.push_back(known);
  }
  for (auto [other, status] : stopped) handle(other, status);
  Task* self = find(tid);
  if (!self || gone) return true;
  if (!tried) return false;
  policy_.on_call_dropped(*self);
  self->call.reset();
  go_on(*self);
  return true;
}

// By the task itself, in its arena. It has to be put back to `regs`.
Status Tracer::make_maps(Task& task, const Regs& regs, stub::BootMap (&maps)[stub::kBootMaps + 1]) {
  const pid_t tid = task.tid;
  const stub::Space& space = *task.space;
  const std::uint64_t table = task.area + stub::kAreaTable;
  const std::uint64_t stop = space.at(stub::kCode) + stub::code_head().maps_stop;
  ASSIGN_OR_RETURN(const std::uint64_t mask, ptrace_raw::get_sigmask(tid));
  RETURN_IF_ERROR(write_exact(tid, table, std::as_bytes(std::span(maps))));
  Regs again = regs;
  rewind_call(again);
  // For whoever takes it over should we die.
  auto* note = notes_ ? notes_->claim(tid, again, mask) : nullptr;
  const auto forget = [](TracerNotes::Injection* at) { at->state = TracerNotes::Free; };
  const std::unique_ptr<TracerNotes::Injection, decltype(forget)> noted(note, forget);
  if (note) note->state = TracerNotes::Active;
  RETURN_IF_ERROR(ptrace_raw::set_sigmask(tid, ~0ull));
  Regs there = regs;
  skip_call(there, 0);
  there.rip = space.at(stub::kCode) + stub::code_head().first;
  there.rsp = table + stub::kBootTable;
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
  const Status read = read_exact(tid, table, std::as_writable_bytes(std::span(maps)));
  ptrace_raw::set_regs(tid, again).ignore();
  ptrace_raw::set_sigmask(tid, mask).ignore();
  return read;
}

// A program with a copy of the control block that writes much to storage paths: it makes the call at hand again.
bool Tracer::share_with(Task& task) {
  const pid_t tid = task.tid;
  std::shared_ptr<stub::Space> space = task.space;
  std::vector<std::pair<pid_t, int>> stopped;
  bool entered = true;  // still at the entry of its call
  if (stop_others(task, stopped, true)) {
    auto in = Injector::open_at_entry(*this, task, Deadline::in(kShareDeadline));
    entered = false;
    auto shared = in ? stub_->share(*in, *space) : Status(in.error());
    if (!shared) space->refused = stub_->figures.last_refusal = shared.error().message();
    space->calls_to_share = 0;
  }
  for (auto [other, status] : stopped) handle(other, status);
  Task* self = find(tid);
  if (!self) return true;
  if (entered) return false;
  policy_.on_call_dropped(*self);
  self->call.reset();
  self->injected = false;
  go_on(*self);
  return true;
}

// The task stands at the birth of a process, which has a copy of its memory already: those to come find the sites
// patched that the ones before had to have patched. Where that takes another page, they go on having it done.
void Tracer::patch_wanted(Task& task) {
  if (!stub_ || !task.space || task.space->wanted.empty()) return;
  std::shared_ptr<stub::Space> space = task.space;
  auto sites = std::exchange(space->wanted, {});
  if (!space->installed || !space->refused.empty() || holding_ || safe_ || stub_->paused) return;
  std::erase_if(sites, [&](const stub::Known& known) {
    return space->by_address.contains(known.site) || stub::Stub::code_around(task.tid, known.site) != known.code;
  });
  stub::BootMap maps[stub::kBootMaps + 1] = {};
  stub::Stub::pages_for(sites, *space, maps);
  if (sites.empty() || maps[0].size != 0) return;
  std::vector<std::pair<pid_t, int>> stopped;
  if (stop_others(task, stopped))
    if (auto done = stub_->patch_known(task.tid, *space, sites, maps); !done)
      space->refused = stub_->figures.last_refusal = done.error().message();
  for (auto [other, status] : stopped) handle(other, status);
}

// Changes of the control block, for those that have a copy of it.
void Tracer::renew_copies(bool all_of_it) {
  if (!stub_) return;
  std::set<const stub::Space*> done;
  for (auto& [tid, task] : tasks_) {
    if (!task.space || !task.space->light || !task.space->installed || !done.insert(task.space.get()).second) continue;
    if (all_of_it) stub_->copy_control(tid, *task.space).ignore();
    else stub_->copy_flags(tid, *task.space).ignore();
  }
}

// At a stop at a site that is not patched; `first`: of this address space. The sites to be patched now, if any: this
// one, when it is known as a busy one, and those that are common where it is.
std::vector<stub::Known> Tracer::learn_site(const Task& task, std::uint64_t site, int nr, bool first) {
  stub::Space& space = *task.space;
  const auto code = stub::Stub::code_around(task.tid, site);
  KnownSegment* segment = nullptr;
  KnownSite* known = stub_->known().find(site, code, &segment);
  if (!known) {
    auto maps = maps_of(task.tid);
    if (!maps) return {};
    for (const Vma& v : *maps) {
      if (site < v.start || site >= v.end || !v.exec || v.ino == 0) continue;
      known = &stub_->known().learn({std::uint64_t{v.dev_major} << 32 | v.dev_minor, v.ino, v.offset}, v.start, site, nr,
                                    code, &segment);
      if (space.entry >= v.start && space.entry < v.end)
        stub_->known().learn_entry(*segment, v.start, space.entry, stub::Stub::code_around(task.tid, space.entry));
      break;
    }
    if (!known) return {};
  }
  const std::uint64_t begin = site - known->offset;
  const auto [there, first_of_all] = space.segments.try_emplace(begin, false);
  KnownCode::stopped(*segment, *known, first, first_of_all, !space.started);
  if (!known->hot || known->nr != nr) return {};
  std::vector<stub::Known> due{{site, nr, code}};
  if (!space.installed || std::exchange(there->second, true)) return due;
  for (const auto& [offset, other] : segment->sites) {
    const std::uint64_t at = begin + offset;
    if (other.common && at != site && !space.by_address.contains(at) && stub::Stub::code_around(task.tid, at) == other.code)
      due.push_back({at, other.nr, other.code});
  }
  return due;
}

}  // namespace supervise
