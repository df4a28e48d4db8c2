#include "tracer/snapshot.h"

#include <signal.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "tracer/abi_x86_64.h"
#include "tracer/inject.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {
constexpr std::size_t kCode = 256;
constexpr std::uint64_t kTrap = 1ull << (SIGTRAP - 1);

std::uint64_t first_code(const std::vector<Vma>& maps) {
  for (const Vma& v : maps)
    if (v.exec && v.path != "[vsyscall]") return v.start;
  return 0;
}

// The kernel's struct sigaction, x86-64.
struct KernelAction {
  std::uint64_t handler = 0, flags = 0, restorer = 0, mask = 0;
};

void set_trap_action(Tracer& tracer, pid_t pid, const KernelAction& action) {
  Task* task = tracer.any_thread(pid);
  if (!task || task->app_stopped) return;
  auto in = Injector::open(tracer, *task, Deadline::in(Millis(5000)));
  if (!in) return;
  auto at = in->put(std::as_bytes(std::span(&action, 1)));
  if (at) in->call(SYS_rt_sigaction, {SIGTRAP, *at, 0, sizeof action.mask}).value_or(0);
}
}  // namespace

std::set<pid_t> default_traps(const Tracer& tracer) {
  std::set<pid_t> found;
  for (const auto& [tid, task] : tracer.all()) {
    if (tid != task.tgid && found.contains(task.tgid)) continue;
    auto status = task_status(tid);
    if (status && !((status->caught | status->ignored) & kTrap)) found.insert(task.tgid);
  }
  return found;
}

void guard_traps(Tracer& tracer, const std::set<pid_t>& pids) {
  constexpr std::uint64_t kRestorer = 0x04000000;
  for (pid_t pid : pids) {
    auto maps = maps_of(pid);
    // Where put_back knows a thread for a strayed one. Nothing is ever executed there.
    const std::uint64_t code = maps ? first_code(*maps) : 0;
    if (code) set_trap_action(tracer, pid, {code, kRestorer | SA_ONSTACK | SA_NODEFER, code, 0});
  }
}

void unguard_traps(Tracer& tracer, const std::set<pid_t>& pids) {
  for (pid_t pid : pids) set_trap_action(tracer, pid, {});
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
    for (const Vma& v : *maps) p.mappings.emplace_back(v.start, v.end);
    p.code_addr = first_code(*maps);
    p.code.resize(kCode);
    p.code.resize(read_some(task.tgid, p.code_addr, p.code));
  }
  return s;
}

// What was not there before goes: CRIU's log and socket, and the pages of its parasite.
void Snapshot::tidy_process(Tracer& tracer, pid_t pid, const Process& was) {
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

// In the dumper's code, or where it borrows a place for a call. The main thread may also have run on
// by itself: when the dumper's socket closes, its parasite returns to the application's code, until
// the tracer's end stops it. What it did then must not be done twice.
bool Snapshot::foreign(const Process& was, std::uint64_t rip) {
  if (rip >= was.code_addr && rip < was.code_addr + kCode) return true;
  for (const auto& [start, end] : was.mappings)
    if (rip >= start && rip < end) return false;
  return true;
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
    auto process = processes_.find(task->tgid);
    const bool strayed = !regs || process == processes_.end() || foreign(process->second, regs->rip);
    const bool same = regs && memcmp(&*regs, &was.regs, sizeof was.regs) == 0;
    const bool changed = strayed || (same && (!mask || *mask != was.sigmask));
    auto status = task_status(tid);
    task->drop_sigtrap = changed || (status && (status->pending & kTrap));
    if (!changed && !same && in_call(*regs) && static_cast<long>(regs->rax) == -ENOSYS) {
      // It ran on to a call that the filter wants traced, and nobody traced: not executed.
      rewind_call(*regs);
      if (ptrace_raw::set_regs(tid, *regs)) ++repaired;
    }
    if (!changed) continue;
    // The vector state may have been used by foreign code whenever the registers were.
    if (!was.extended.empty()) ptrace_raw::set_xstate(tid, was.extended).ignore();
    if (ptrace_raw::set_regs(tid, was.regs) && ptrace_raw::set_sigmask(tid, was.sigmask)) ++repaired;
  }
  return repaired;
}

void Snapshot::tidy(Tracer& tracer) const {
  for (const auto& [pid, was] : processes_) tidy_process(tracer, pid, was);
}

}  // namespace supervise
