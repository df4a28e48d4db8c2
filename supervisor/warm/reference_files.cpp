// References by open(2): FIFOs, devices, terminals, shared memory of others, network file systems.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "supervisor/warm/reference_finder.h"
#include "supervisor/world_mounts.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

constexpr std::string_view kNetworkTypes[] = {
    "nfs",  "nfs4", "cifs", "smb3", "ceph",           "afs",          "9p",        "coda",
    "gfs2", "ocfs2", "lustre", "gpfs", "beegfs", "orangefs", "fuse.sshfs", "fuse.glusterfs",
    "fuse.s3fs", "fuse.ceph", "fuse.cephfs", "fuse.rclone", "fuse.davfs"};

// memory(4) devices without state, the terminal multiplexer and the process's own terminal.
bool harmless(dev_t device) {
  const unsigned ma = gnu_dev_major(device), mi = gnu_dev_minor(device);
  return (ma == 1 && (mi == 3 || mi == 5 || mi == 7 || mi == 8 || mi == 9)) || (ma == 5 && (mi == 0 || mi == 2));
}

struct Opened {
  UniqueFd fd;  // O_PATH: opens nothing really
  std::string name;
  int flags = 0;
};

std::optional<Opened> look(const Task& task) {
  const auto& args = task.call->args;
  const bool at = task.call->nr == SYS_openat || task.call->nr == SYS_openat2;
  Opened o;
  auto path = read_cstring(task.tid, args[at ? 1 : 0]);
  if (!path || path->empty()) return {};
  if (task.call->nr == SYS_openat2) {
    if (auto how = read_value<open_how>(task.tid, args[2])) o.flags = static_cast<int>(how->flags);
  } else if (task.call->nr == SYS_creat) {
    o.flags = O_WRONLY | O_CREAT | O_TRUNC;
  } else {
    o.flags = static_cast<int>(args[at ? 2 : 1]);
  }
  o.name = *path;
  if (!path->starts_with('/')) {
    const int dir = at ? static_cast<int>(args[0]) : AT_FDCWD;
    auto base = dir == AT_FDCWD ? proc_link(task.tid, "cwd") : fd_link(task.tid, dir);
    if (!base) return {};
    o.name = *base + "/" + *path;
  }
  UniqueFd root(open(fmt::format("/proc/{}/root", task.tid).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return {};
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_CACHED;
  o.fd.reset(static_cast<int>(syscall(SYS_openat2, root.get(), o.name.c_str(), &how, sizeof how)));
  if (!o.fd && errno == EAGAIN) {
    how.resolve = RESOLVE_IN_ROOT;
    o.fd.reset(static_cast<int>(syscall(SYS_openat2, root.get(), o.name.c_str(), &how, sizeof how)));
  }
  if (!o.fd) return {};
  return o;
}

Reference opening(RefClass cls, const Task& task, std::string peer, OtherEnd end) {
  return {cls, std::string(task.call->row->name), std::move(peer), end};
}

}  // namespace

std::string ReferenceFinder::file_system(pid_t tid, std::uint64_t mnt_id) {
  if (!file_systems_.contains(mnt_id)) {
    file_systems_[mnt_id] = "";
    if (auto mounts = read_mountinfo(fmt::format("/proc/{}/mountinfo", tid)))
      for (const MountEntry& m : *mounts) file_systems_[m.id] = m.type;
  }
  return file_systems_[mnt_id];
}

// The other end of a FIFO is inside when a process of ours has it open for the other direction, or
// stands before the open of it.
OtherEnd ReferenceFinder::fifo_end(const Task& task, dev_t dev, ino_t ino, int flags) {
  const int mode = flags & O_ACCMODE;
  if (mode == O_RDWR) return OtherEnd::Inside;
  fifo_waiters_[task.tid] = {dev, ino, mode};
  for (const auto& [tid, other] : fifo_waiters_)
    if (tid != task.tid && other.dev == dev && other.ino == ino && other.mode != mode) return OtherEnd::Inside;
  for (pid_t pid : around_.processes()) {
    for (int fd : fds_of(pid)) {
      struct stat st {};
      if (stat(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), &st) != 0 || st.st_dev != dev || st.st_ino != ino)
        continue;
      auto info = fd_info(pid, fd);
      if (info && (info->flags & O_ACCMODE) != mode) return OtherEnd::Inside;
    }
  }
  return OtherEnd::Outside;
}

// Ours: the terminal of the world, and those whose master one of our processes holds.
OtherEnd ReferenceFinder::terminal_end(const std::string& name) const {
  if (name == around_.own_terminal()) return OtherEnd::Inside;
  const auto slash = name.rfind('/');
  const std::string number = name.substr(slash + 1);
  for (pid_t pid : around_.processes()) {
    for (int fd : fds_of(pid)) {
      auto link = fd_link(pid, fd);
      if (!link) continue;
      if (*link == name) return OtherEnd::Inside;
      if (!link->ends_with("/ptmx")) continue;
      auto info = read_proc_file(fmt::format("/proc/{}/fdinfo/{}", pid, fd));
      const auto at = info ? info->find("tty-index:\t") : std::string::npos;
      if (at != std::string::npos && info->substr(at + 11, info->find('\n', at) - at - 11) == number)
        return OtherEnd::Inside;
    }
  }
  return OtherEnd::Outside;
}

std::optional<Reference> ReferenceFinder::at_open(const Task& task) {
  auto opened = look(task);
  if (!opened || (opened->flags & O_PATH) != 0) return {};
  struct statx sx;
  if (statx(opened->fd.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &sx) != 0)
    return {};
  if (around_.storage_path(sx.stx_mnt_id)) return {};
  auto link = fd_link(getpid(), opened->fd.get());
  const std::string name = link ? *link : opened->name;
  portability_.saw_open(name, opened->flags);
  const dev_t device = makedev(sx.stx_rdev_major, sx.stx_rdev_minor);
  if (S_ISFIFO(sx.stx_mode)) {
    const auto end = fifo_end(task, makedev(sx.stx_dev_major, sx.stx_dev_minor), sx.stx_ino, opened->flags);
    return opening(RefClass::Fifo, task, "fifo " + name, end);
  }
  if (S_ISCHR(sx.stx_mode) || S_ISBLK(sx.stx_mode)) {
    if (harmless(device)) return {};
    const unsigned ma = sx.stx_rdev_major;
    if (S_ISCHR(sx.stx_mode) && (ma >= 136 && ma <= 143))
      return opening(RefClass::Terminal, task, "terminal " + name, terminal_end(name));
    return opening(RefClass::Device, task,
                   fmt::format("device {} ({}:{})", name, sx.stx_rdev_major, sx.stx_rdev_minor), OtherEnd::Outside);
  }
  if (!S_ISREG(sx.stx_mode) && !S_ISDIR(sx.stx_mode)) return {};
  const std::string type = file_system(task.tid, sx.stx_mnt_id);
  for (const auto network : kNetworkTypes)
    if (type == network)
      return opening(RefClass::NetworkFile, task, fmt::format("network-file {} ({})", name, type), OtherEnd::Outside);
  if (S_ISREG(sx.stx_mode) && name.starts_with("/dev/shm/")) {
    // shm_open(3) of what was there before the application was: another's.
    const std::int64_t born = sx.stx_btime.tv_sec * 1'000'000'000ll + sx.stx_btime.tv_nsec;
    const bool older = (sx.stx_mask & STATX_BTIME) != 0 && born < around_.started_unix_ns;
    return opening(RefClass::Shm, task, "shm " + name, older ? OtherEnd::Outside : OtherEnd::Inside);
  }
  return {};
}

}  // namespace supervise
