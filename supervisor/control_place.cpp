#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "supervisor/control.h"

namespace supervise {

std::string control_dir() {
  if (const char* dir = std::getenv("SUPERVISE_RUNDIR"); dir != nullptr && dir[0] == '/') return dir;
  if (::geteuid() == 0) return "/run/supervise";
  if (const char* dir = std::getenv("XDG_RUNTIME_DIR"); dir != nullptr && dir[0] == '/')
    return std::string(dir) + "/supervise";
  return fmt::format("/tmp/supervise-{}", ::geteuid());
}

std::string control_socket_path(const std::string& name) {
  return control_dir() + "/" + name + ".sock";
}

std::vector<std::string> control_names() {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(control_dir(), error), end; !error && it != end;
       it.increment(error))
    if (it->path().extension() == ".sock") names.push_back(it->path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace supervise
