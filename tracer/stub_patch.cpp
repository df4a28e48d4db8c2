// Call sites of tasks: which are due, what is learned of them for other processes, and their patching while all that
// run on the same memory stand.
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "tracer/inject.h"
#include "tracer/proc_info.h"
#include "tracer/stub/leave.h"
#include "tracer/stub/stub.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;
using stub::KnownCode;
using stub::KnownSegment;
using stub::KnownSite;

namespace {

constexpr auto kPatchDeadline = Millis(2000);
constexpr std::size_t kMostWanted = 64;

// Calls that end, replace or copy the caller: their sites stay as they are.
bool never_patched(int nr) {
  switch (nr) {
    case SYS_clone: case SYS_clone3: case SYS_fork: case SYS_vfork: case SYS_execve: case SYS_execveat:
    case SYS_rt_sigreturn: case SYS_exit: case SYS_exit_group: case SYS_restart_syscall:
      return true;
    default: return false;
  }
}

}  // namespace

bool Tracer::patch_due(Task& task, std::uint64_t site, int nr,
                       std::vector<stub::Known>& known) {
  if (!task.space || holding_ || safe_ || task.exempt || task.detained || stub_->paused || task.vfork_child ||
      never_patched(nr))
    return false;
  stub::Space& space = *task.space;
  if (!space.refused.empty()) return false;
  if (stub_->control().modes[nr & (stub::kModes - 1)] == stub::kModeSlow) return false;
  if (space.installed &&
      (space.by_slow.contains(site) || stub::in_code(site, space.window) || space.by_address.contains(site) ||
       space.unpatchable.contains(site)))
    return false;
  ++space.traps;
  unsigned& traps = space.site_traps[site];
  const bool first = ++traps == 1;
  if (traps >= stub_->site_traps && space.traps >= stub_->space_traps) return true;
  if (traps <= stub_->site_traps) known = learn_site(task, site, nr, first);
  if (!space.installed || !task.area) known.clear();
  return false;
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

// Stops all others that run on the same memory. What they reported is to be handled afterwards. Threads
// that sleep in a call are left alone: interrupted at each patch, their time-outs would begin anew. They
// return behind their call, which no patch touches; for one to wake and come to the patched bytes within
// the nanoseconds of their writing would take less time than to return from its call does. Those in a tracing
// stop stand already: what they reported may be taken, and not yet handled.
bool Tracer::stop_others(const Task& self, std::vector<std::pair<pid_t, int>>& stopped, bool sleeping_too) {
  std::vector<pid_t> waiting;
  for (auto& [tid, task] : tasks_) {
    if (task.space != self.space || tid == self.tid) continue;
    if (task.vfork_child || task.vfork_waiting) return false;
    if (task.state != RunState::Running || !task.announced || task.reported) continue;
    const char state = task_state(tid);
    if (state == 't' || (!sleeping_too && (state == 'S' || state == 'D'))) continue;
    waiting.push_back(tid);
  }
  for (pid_t tid : waiting) ptrace_raw::interrupt(tid).ignore();
  const Deadline deadline = Deadline::in(kPatchDeadline);
  bool all = true;
  for (pid_t tid : waiting) {
    for (;;) {
      int status = 0;
      const pid_t got = waitpid(tid, &status, __WALL | WNOHANG);
      if (got == tid) {
        // Task::interrupted stays as it was: any other stop that came first has called the interruption off.
        stopped.emplace_back(tid, status);
        if (Task* task = find(tid)) task->reported = true;
        break;
      }
      if (got < 0) break;
      if (deadline.passed()) {
        all = false;
        break;
      }
      const timespec pause{0, 20'000};
      nanosleep(&pause, nullptr);
    }
  }
  return all;
}

// It is about to make its call at `site`: it makes it through the stub, when that is patched.
void Tracer::enter_slot(const Task& task, std::uint64_t site, Regs& regs) {
  const auto patched = task.space->by_address.find(site);
  if (!task.area || regs.rip != site || patched == task.space->by_address.end()) return;
  const stub::Site& at = task.space->sites[patched->second];
  regs.rip = at.slot + at.patched_at;
}

// The task is at the entry of its call; afterwards it makes it again, through the stub when that worked.
bool Tracer::patch(Task& task, std::uint64_t site, int nr) {
  const pid_t tid = task.tid;
  std::shared_ptr<stub::Space> space = task.space;
  std::vector<std::pair<pid_t, int>> stopped;
  bool entered = true;  // still at the entry of its call
  if (stop_others(task, stopped)) {
    auto in = Injector::open_at_entry(*this, task, Deadline::in(kPatchDeadline));
    entered = false;
    std::string why;
    if (!in) {
      why = in.error().message();
    } else {
      if (!space->installed) {
        if (auto installed = stub_->install(*in, *space); !installed) {
          space->refused = stub_->figures.last_refusal = installed.error().message();
        } else {
          // All of its threads get an area now.
          for (auto& [other, t] : tasks_) {
            if (t.space != space || t.begin != Task::Begun) continue;
            const bool stands = other == tid || t.state != RunState::Running ||
                                std::ranges::any_of(stopped, [other](const auto& s) { return s.first == other; });
            if (!stands || t.tgid != task.tgid) continue;
            t.begin = Task::NewThread;
            if (other != tid) begin(t);  // those that sleep get theirs at their next call
          }
        }
      }
      if (space->installed) {
        auto done = stub_->patch(*in, *space, site, nr, why);
        if (!done) space->refused = stub_->figures.last_refusal = done.error().message();
        else if (!*done) space->unpatchable[site] = why;
      }
    }
  }
  space->site_traps.erase(site);
  // Only now: the injector has put the registers back.
  if (Task* self = find(tid); self && self->begin == Task::NewThread) begin(*self);
  for (auto [other, status] : stopped) handle(other, status);
  Task* self = find(tid);
  if (!self) return true;
  if (entered) return false;
  if (auto regs = ptrace_raw::get_regs(tid)) {
    enter_slot(*self, site, *regs);
    ptrace_raw::set_regs(tid, *regs).ignore();
  }
  policy_.on_call_dropped(*self);
  self->call.reset();
  self->injected = false;
  go_on(*self);
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

}  // namespace supervise
