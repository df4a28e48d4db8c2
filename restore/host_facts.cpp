#include "restore/host_facts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "restore/image_store.h"
#include "supervisor/base/process_runner.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {
namespace {

// Reads until the writer closes, and reaps it. At the deadline the child is killed.
Result<std::string> collect(int fd, pid_t pid, const std::string& what, Deadline deadline) {
  std::string out;
  bool open = true;
  for (;;) {
    int status = 0;
    if (!open && waitpid(pid, &status, WNOHANG) == pid) {
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return out;
      ExitInfo end{WIFSIGNALED(status), WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)};
      return plain_error(fmt::format("{}: {}: {}", what, end.describe(), out.substr(0, 200)));
    }
    if (deadline.passed()) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      return errno_error(ETIMEDOUT, what);
    }
    pollfd p{open ? fd : -1, POLLIN, 0};
    if (poll(&p, 1, open ? deadline.left_ms() : std::min(1, deadline.left_ms())) <= 0) continue;
    char buffer[4096];
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n > 0) out.append(buffer, static_cast<std::size_t>(n));
    if (n == 0 || (n < 0 && errno != EINTR)) open = false;
  }
}

}  // namespace

std::vector<std::string> cpu_flags_in(const std::string& cpuinfo) {
  std::istringstream lines(cpuinfo);
  for (std::string line; std::getline(lines, line);) {
    auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string key = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    if (colon == 0 || (key != "flags" && key != "Features")) continue;
    std::istringstream words(line.substr(colon + 1));
    std::vector<std::string> flags;
    for (std::string w; words >> w;) flags.push_back(w);
    std::sort(flags.begin(), flags.end());
    flags.erase(std::unique(flags.begin(), flags.end()), flags.end());
    return flags;
  }
  return {};
}

std::vector<std::string> missing_flags(const std::vector<std::string>& image,
                                       const std::vector<std::string>& here) {
  std::vector<std::string> missing;
  for (const auto& f : image) {
    if (std::find(here.begin(), here.end(), f) == here.end()) missing.push_back(f);
  }
  return missing;
}

HostFacts host_facts() {
  HostFacts facts;
  utsname u{};
  if (uname(&u) == 0) {
    facts.kernel = u.release;
    facts.machine = u.machine;
    facts.host = u.nodename;
  }
  facts.cpu_flags = cpu_flags_in(read_small_file("/proc/cpuinfo").value_or(""));
  return facts;
}

Result<std::string> criu_version(const std::string& binary, Deadline deadline) {
  std::string what = fmt::format("{} --version", binary);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return errno_error("pipe");
  UniqueFd in(ends[0]), out(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, out.get(), 2);
  char arg[] = "--version";
  std::string path = binary;
  char* argv[] = {path.data(), arg, nullptr};
  pid_t pid = 0;
  int err = posix_spawn(&pid, binary.c_str(), &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (err != 0) return errno_error(err, fmt::format("run {}", what));
  out.reset();
  ASSIGN_OR_RETURN(std::string text, collect(in.get(), pid, what, deadline));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    constexpr std::string_view kKey = "Version: ";
    if (line.starts_with(kKey)) return line.substr(kKey.size());
  }
  return plain_error(fmt::format("{}: printed no version: {}", what, text.substr(0, 200)));
}

}  // namespace supervise
