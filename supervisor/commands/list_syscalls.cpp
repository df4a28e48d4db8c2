#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "seccomp/syscall_table.h"
#include "supervisor/commands/commands.h"

namespace supervise {
namespace {

std::string arguments(const SyscallRow& row) {
  std::string out;
  for (const auto kind : row.args)
    if (kind != ArgKind::None) out += fmt::format("{}{}", out.empty() ? "" : ",", to_string(kind));
  return out;
}

std::string as_json() {
  auto rows = nlohmann::ordered_json::array();
  for (const auto& row : syscall_table()) {
    nlohmann::ordered_json item;
    item["number"] = row.number;
    item["name"] = row.name;
    item["class"] = to_string(row.io);
    item["trap"] = to_string(row.trap);
    auto args = nlohmann::ordered_json::array();
    for (const auto kind : row.args)
      if (kind != ArgKind::None) args.push_back(to_string(kind));
    item["arguments"] = args;
    item["exit_stop"] = row.exit_stop;
    item["idempotent"] = row.idempotent;
    item["conditional"] = !row.when.empty();
    item["note"] = row.note;
    rows.push_back(std::move(item));
  }
  return rows.dump(2) + "\n";
}

}  // namespace

int command_list_syscalls(bool json) {
  if (json) return print_out(as_json());
  std::string out = fmt::format("{:>4} {:<18} {:<11} {:<10} {:<38} {}\n", "NR", "NAME", "CLASS",
                                "TRAP", "ARGUMENTS", "NOTE");
  for (const auto& row : syscall_table()) {
    auto line = fmt::format("{:>4} {:<18} {:<11} {:<10} {:<38} {}", row.number, row.name,
                            to_string(row.io), to_string(row.trap), arguments(row), row.note);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return print_out(out);
}

}  // namespace supervise
