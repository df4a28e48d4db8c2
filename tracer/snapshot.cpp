#include "tracer/snapshot.h"

#include <cstring>

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
    if (s.code_.contains(task.tgid)) continue;
    auto maps = maps_of(task.tgid);
    if (!maps) continue;
    for (const Vma& v : *maps) {
      if (!v.exec || v.path == "[vsyscall]") continue;
      Code code{v.start, std::vector<std::byte>(kCode)};
      code.bytes.resize(read_some(task.tgid, v.start, code.bytes));
      s.code_[task.tgid] = std::move(code);
      break;
    }
  }
  return s;
}

std::size_t Snapshot::put_back(Tracer& tracer) const {
  std::size_t repaired = 0;
  for (const auto& [pid, code] : code_) {
    std::vector<std::byte> now(code.bytes.size());
    now.resize(read_some(pid, code.addr, now));
    if (now == code.bytes) continue;
    if (write_exact(pid, code.addr, code.bytes)) ++repaired;
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
  return repaired;
}

}  // namespace supervise
