#include "seccomp/filter.h"

namespace supervise {
namespace {

bool demanded(IoClass io, const FilterOptions& options) {
  switch (io) {
    case IoClass::Map: return options.mappings;
    case IoClass::Process:
    case IoClass::Descriptor: return options.processes;
    default: return options.sockets_and_ipc;
  }
}

}  // namespace

FilterPlan filter_plan(const FilterOptions& options) {
  FilterPlan plan;
  plan.pass_stub = options.stub;
  for (const auto& row : syscall_table()) {
    switch (row.trap) {
      case Trap::Always:
        if (options.storage) plan.traced.push_back(row.number);
        break;
      case Trap::OnDemand:
        if (demanded(row.io, options)) plan.traced.push_back(row.number);
        break;
      case Trap::Errno: plan.enosys.push_back(row.number); break;
    }
  }
  return plan;
}

}  // namespace supervise
