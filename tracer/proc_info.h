// What /proc tells of tasks: parsed, never cached. proc(5). Reading these files never touches the
// file system that a descriptor or mapping belongs to.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise {

struct TaskStatus {
  char state = '?';
  pid_t tgid = 0;
  pid_t ppid = 0;
  pid_t tracer = 0;          // 0: none, or one that we can't see
  std::uint64_t pending = 0, shared_pending = 0, blocked = 0, ignored = 0, caught = 0;
  std::vector<pid_t> ns_pid;  // outermost first, as NSpid
  std::string name;
  int seccomp_mode = 0;
  std::uint64_t cap_eff = 0;
  uid_t uid = 0, euid = 0;
  // A signal waits that is neither blocked nor ignored.
  bool deliverable_signal() const { return ((pending | shared_pending) & ~blocked & ~ignored) != 0; }
};

Result<TaskStatus> task_status(pid_t tid);
char task_state(pid_t tid);  // from stat; '?' when gone
std::vector<pid_t> threads_of(pid_t pid);
// Children of all threads, recursively, `root` first.
std::vector<pid_t> process_tree_of(pid_t root);
// Those whose parent is not among them, and that have not ended.
std::vector<pid_t> roots_among(const std::set<pid_t>& processes);
std::string task_name(pid_t tid);

struct LockInfo {  // a "lock:" line of fdinfo
  enum Kind { Posix, Flock, Ofd, Lease } kind = Posix;
  bool write = false;
  pid_t pid = 0;
  std::uint64_t start = 0;
  std::optional<std::uint64_t> end;  // nothing: to the end of the file
};

struct FdInfo {  // /proc/TID/fdinfo/FD
  std::uint64_t pos = 0;
  int flags = 0;                     // open(2) flags as the kernel keeps them, O_CLOEXEC included
  std::uint64_t mnt_id = 0;
  std::uint64_t ino = 0;
  std::vector<LockInfo> locks;
};
Result<FdInfo> fd_info(pid_t tid, int fd);
FdInfo parse_fdinfo(std::string_view text);  // pure
std::vector<int> fds_of(pid_t tid);
Result<std::string> fd_link(pid_t tid, int fd);
Result<std::string> proc_link(pid_t tid, const char* what);  // cwd, root, exe

struct Vma {
  std::uint64_t start = 0, end = 0, offset = 0;
  bool read = false, write = false, exec = false, shared = false;
  unsigned dev_major = 0, dev_minor = 0;
  std::uint64_t ino = 0;
  std::string path;
  bool deleted = false;
};
Result<std::vector<Vma>> maps_of(pid_t pid);
std::optional<Vma> parse_maps_line(std::string_view line);  // pure

Result<std::string> read_proc_file(const std::string& path);
bool strip_deleted(std::string& path);  // removes " (deleted)"; was it there?

}  // namespace supervise
