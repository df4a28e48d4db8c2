#include "tracer/snapshot.h"

#include <sys/syscall.h>

#include <cstring>

#include "tracer/inject.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {
constexpr std::size_t kCode = 256;
}

Snapshot Snapshot::take(Tracer& tracer) {
  Snapshot s;
  for (const auto& [tid, task] : tracer.all()) {
    auto regs = ptrace_raw::get_regs(tid);
    auto mask = ptrace_raw::get_sigmask(tid);
    if (!regs || !mask) continue;
    s.threads_[tid] = {*regs, ptrace_raw::get_xstate(tid).value_or({}), *mask};
    if (s.processes_.contains(task.tgid)) continue;
    auto maps = maps_of(task.tgid);
    if (!maps) continue;
    Process& p = s.processes_[task.tgid];
    for (int fd : fds_of(task.tgid)) p.fds.insert(fd);
    for (const Vma& v : *maps) {
      p.mappings.emplace_back(v.start, v.end);
      if (!p.code.empty() || !v.exec || v.path == "[vsyscall]") continue;
      p.code_addr = v.start;
      p.code.resize(kCode);
      p.code.resize(read_some(task.tgid, v.start, p.code));
    }
  }
  return s;
}

// What was not there before goes: CRIU's log and socket, and the pages of its parasite.
void Snapshot::tidy(Tracer& tracer, pid_t pid, const Process& was) {
  std::vector<int> fds;
  for (int fd : fds_of(pid))
    if (!was.fds.contains(fd)) fds.push_back(fd);
  std::vector<Vma> foreign;
  if (auto maps = maps_of(pid)) {
    for (const Vma& v : *maps) {
      bool known = false;
      for (const auto& [start, end] : was.mappings) known |= v.start < end && start < v.end;
      if (!known) foreign.push_back(v);
    }
  }
  if (fds.empty() && foreign.empty()) return;
  Task* task = tracer.any_thread(pid);
  if (!task) return;
  auto in = Injector::open(tracer, *task, Deadline::in(Millis(5000)));
  if (!in) return;
  for (int fd : fds) in->call(SYS_close, {static_cast<std::uint64_t>(fd)}).value_or(0);
  for (const Vma& v : foreign) in->call(SYS_munmap, {v.start, v.end - v.start}).value_or(0);
}

std::size_t Snapshot::put_back(Tracer& tracer) const {
  std::size_t repaired = 0;
  for (const auto& [pid, was] : processes_) {
    std::vector<std::byte> now(was.code.size());
    now.resize(read_some(pid, was.code_addr, now));
    if (now == was.code) continue;
    if (write_exact(pid, was.code_addr, was.code)) ++repaired;
  }
  for (const auto& [tid, was] : threads_) {
    Task* task = tracer.find(tid);
    if (!task || task->state != RunState::Stopped) continue;
    auto regs = ptrace_raw::get_regs(tid);
    auto mask = ptrace_raw::get_sigmask(tid);
    const bool changed = !regs || memcmp(&*regs, &was.regs, sizeof was.regs) != 0 || !mask ||
                         *mask != was.sigmask;
    if (!changed) continue;
    // The vector state may have been used by foreign code whenever the registers were.
    if (!was.extended.empty()) ptrace_raw::set_xstate(tid, was.extended).ignore();
    if (ptrace_raw::set_regs(tid, was.regs) && ptrace_raw::set_sigmask(tid, was.sigmask)) ++repaired;
    task->drop_sigtrap = true;
  }
  for (const auto& [pid, was] : processes_) tidy(tracer, pid, was);
  return repaired;
}

}  // namespace supervise
