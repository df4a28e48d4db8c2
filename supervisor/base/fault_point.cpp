#include "supervisor/base/fault_point.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>

namespace supervise {
namespace {

struct Armed {
  std::string action;
  int nth = 1;
  std::string file;
};

std::map<std::string, Armed, std::less<>> parse() {
  std::map<std::string, Armed, std::less<>> points;
  const char* env = getenv("SUPERVISE_FAULT_POINTS");
  std::string_view rest = env ? env : "";
  while (!rest.empty()) {
    auto comma = rest.find(',');
    std::string_view item = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? "" : rest.substr(comma + 1);
    auto eq = item.find('=');
    if (eq == std::string_view::npos) continue;
    std::string name(item.substr(0, eq));
    Armed armed{std::string(item.substr(eq + 1)), 1, {}};
    if (auto colon = armed.action.find(':'); colon != std::string::npos) {
      armed.file = armed.action.substr(colon + 1);
      armed.action.resize(colon);
    }
    if (auto at = name.find('@'); at != std::string::npos) {
      armed.nth = atoi(name.c_str() + at + 1);
      name.resize(at);
    }
    points[name] = armed;
  }
  return points;
}

auto& armed_points() {
  static auto points = parse();
  return points;
}

}  // namespace

void disarm_fault_points() { armed_points().clear(); }

Status fault_point(std::string_view name) {
  auto& points = armed_points();
  if (points.empty()) return {};
  auto it = points.find(name);
  if (it == points.end() || --it->second.nth != 0) return {};
  if (!it->second.file.empty() && unlink(it->second.file.c_str()) != 0) {
    it->second.nth = 1;
    return {};
  }
  const std::string& action = it->second.action;
  if (action == "kill") kill(getpid(), SIGKILL);
  if (action == "hang") {
    for (int i = 0; i < 3600; ++i) sleep(1);
  }
  return plain_error(fmt::format("fault point {} says {}", name, action));
}

}  // namespace supervise
