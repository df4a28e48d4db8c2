// What the tests of this folder share: a scratch directory, files, children with a deadline, and a
// run of this very program with other environment (fault points are read once a process).
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "supervisor/base/clock.h"

namespace supervise::test {

class ScratchDir {
 public:
  ScratchDir() {
    std::string pattern = std::filesystem::temp_directory_path() / "supervise-restore-XXXXXX";
    path_ = mkdtemp(pattern.data()) ? pattern : "";
  }
  ~ScratchDir() {
    if (mounted_) umount2(path_.c_str(), MNT_DETACH);
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
  }
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;

  // A file system of its own, so that it can be filled; false without the privilege.
  bool mount_tmpfs(const char* options) {
    mounted_ = mount("tmpfs", path_.c_str(), "tmpfs", 0, options) == 0;
    return mounted_;
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
  bool mounted_ = false;
};

inline void put(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

inline std::string get(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(f), {});
}

// The wait status, or -1 after killing a child that is late.
inline int wait_for(pid_t pid, Millis limit) {
  auto deadline = Deadline::in(limit);
  for (;;) {
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) == pid) return status;
    if (deadline.passed()) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      return -1;
    }
    usleep(500);
  }
}

inline pid_t in_child(const std::function<int()>& fn) {
  pid_t pid = fork();
  if (pid == 0) _exit(fn());
  return pid;
}

// Runs the disabled test `name` of this program with KEY=VALUE added to its environment.
inline int run_again(const std::string& name, const std::vector<std::string>& env) {
  pid_t pid = fork();
  if (pid == 0) {
    for (const auto& e : env) putenv(const_cast<char*>(e.c_str()));
    int null = open("/dev/null", O_RDWR);
    dup2(null, 1);
    std::string filter = "--gtest_filter=" + name;
    execl("/proc/self/exe", "tests", filter.c_str(), "--gtest_also_run_disabled_tests", nullptr);
    _exit(127);
  }
  return wait_for(pid, Millis(30000));
}

}  // namespace supervise::test
