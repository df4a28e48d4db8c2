#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "supervisor/base/unique_fd.h"
#include "supervisor/base/worker.h"
#include "supervisor/relocate.h"
#include "tracer/memory.h"

namespace supervise {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kPresent = 1ull << 63, kSwapped = 1ull << 62, kFilePage = 1ull << 61;

// kcmp(2): 0 equal; anything else (also "not allowed") different. Without kcmp, descriptors with
// the same number, inode, offset and flags in related processes are taken for one.
int compare(int type, pid_t a, pid_t b, unsigned long x, unsigned long y) {
  return static_cast<int>(syscall(SYS_kcmp, a, b, type, x, y));
}

std::vector<std::uint64_t> pagemap(pid_t pid, std::uint64_t start, std::uint64_t end) {
  std::vector<std::uint64_t> entries((end - start) / kPage);
  UniqueFd fd(open(fmt::format("/proc/{}/pagemap", pid).c_str(), O_RDONLY | O_CLOEXEC));
  std::size_t done = 0;
  const std::size_t want = entries.size() * 8;
  while (fd && done < want) {
    const ssize_t n = pread(fd.get(), reinterpret_cast<char*>(entries.data()) + done, want - done,
                            static_cast<off_t>(start / kPage * 8 + done));
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  entries.resize(done / 8);
  return entries;
}

// FIONREAD is answered by the VFS, whatever state the file system is in: size less position.
std::optional<std::uint64_t> size_by_ioctl(pid_t tid, int fd, std::uint64_t pos) {
  auto status = task_status(tid);
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, status ? status->tgid : tid, 0)));
  UniqueFd copy(pidfd ? static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), fd, 0)) : -1);
  int rest = 0;
  if (!copy || ioctl(copy.get(), FIONREAD, &rest) != 0) return std::nullopt;
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(pos) + rest);
}

}  // namespace

Result<Relocation> Relocation::collect(Tracer& tracer, StoragePath& path) {
  Relocation r(tracer, path);
  for (pid_t pid : tracer.processes()) {
    // Threads share descriptors and directories unless they asked for their own.
    std::vector<pid_t> seen;
    for (auto& [tid, task] : tracer.tasks()) {
      if (task.tgid != pid) continue;
      const bool fresh = std::none_of(seen.begin(), seen.end(), [&, t = tid](pid_t s) {
        return compare(KCMP_FILES, s, t, 0, 0) <= 0;
      });
      if (fresh) {
        r.collect_descriptors(tid);
        r.collect_directories(tid);
        seen.push_back(tid);
      }
    }
    r.collect_mappings(pid);
  }
  return r;
}

void Relocation::collect_descriptors(pid_t tid) {
  for (int fd : fds_of(tid)) {
    auto info = fd_info(tid, fd);
    if (!info || !path_->mounts.contains(info->mnt_id)) continue;
    bool deleted = false;
    auto name = StoragePaths::name_of_fd(tid, fd, *path_, deleted);
    if (!name) continue;
    const FdRef ref{tid, fd};
    for (const LockInfo& lock : info->locks)
      if (lock.kind == LockInfo::Posix) posix_locks_.push_back({ref, lock});
    OpenFile* same = nullptr;
    for (OpenFile& f : files_) {
      if (f.ino != info->ino || f.pos != info->pos ||
          (f.flags & ~O_CLOEXEC) != (info->flags & ~O_CLOEXEC))
        continue;
      const FdRef& other = f.refs.front();
      const int c = compare(KCMP_FILE, other.tid, tid, static_cast<unsigned long>(other.fd),
                            static_cast<unsigned long>(fd));
      if (c == 0 || (c < 0 && (errno == EPERM || errno == ENOSYS) && other.fd == fd)) {
        same = &f;
        break;
      }
    }
    if (same) {
      same->refs.push_back(ref);
      continue;
    }
    OpenFile f;
    f.name = name.take();
    f.deleted = deleted;
    f.flags = info->flags;
    f.pos = info->pos;
    f.ino = info->ino;
    if (auto facts = facts_of_fd(tid, fd)) {
      // FUSE and NFS drop a name that they could not look up: it reads "(deleted)" and is not.
      f.deleted = deleted && facts->nlink == 0;
      f.sized = true;
      f.mode = facts->mode;
      f.size = facts->size;
      f.uid = facts->uid;
      f.gid = facts->gid;
    } else if (deleted) {
      f.mode = S_IFREG | 0600;
      if (auto size = size_by_ioctl(tid, fd, f.pos)) {
        f.sized = true;
        f.size = *size;
      }
    }
    f.refs.push_back(ref);
    for (const LockInfo& lock : info->locks)
      if (lock.kind == LockInfo::Flock || lock.kind == LockInfo::Ofd) f.locks.push_back(lock);
    files_.push_back(std::move(f));
  }
}

void Relocation::collect_directories(pid_t tid) {
  for (const bool is_root : {false, true}) {
    auto link = proc_link(tid, is_root ? "root" : "cwd");
    if (!link) continue;
    UniqueFd fd(open(fmt::format("/proc/{}/{}", tid, is_root ? "root" : "cwd").c_str(),
                     O_PATH | O_CLOEXEC));
    if (!fd) continue;
    auto info = fd_info(getpid(), fd.get());
    if (!info || !path_->mounts.contains(info->mnt_id)) continue;
    strip_deleted(*link);
    std::string_view rest = std::string_view(*link).substr(std::min(link->size(), path_->place.size()));
    while (rest.starts_with('/')) rest.remove_prefix(1);
    dirs_.push_back({tid, std::string(rest), is_root});
  }
}

void Relocation::collect_mappings(pid_t pid) {
  auto maps = maps_of(pid);
  if (!maps) return;
  const std::string prefix = path_->place + "/";
  for (Vma& v : *maps) {
    if (v.ino == 0 || !v.path.starts_with(prefix)) continue;
    Map m;
    m.pid = pid;
    std::string name = v.path.substr(prefix.size());
    // A description of its own: the application may have closed its descriptor, and what the
    // mapping may become (mprotect) decides how it must be open.
    auto same = std::find_if(files_.begin(), files_.end(), [&](const OpenFile& f) {
      return f.for_mapping && f.ino == v.ino && f.name == name &&
             ((f.flags & O_ACCMODE) == O_RDWR) == v.shared;
    });
    if (same == files_.end()) {
      OpenFile f;
      f.name = name;
      f.deleted = v.deleted;
      f.flags = v.shared ? O_RDWR : O_RDONLY;
      f.ino = v.ino;
      f.for_mapping = true;
      struct statx sx;
      const std::string link = fmt::format("/proc/{}/map_files/{:x}-{:x}", pid, v.start, v.end);
      if (statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &sx) == 0) {
        f.deleted = v.deleted && sx.stx_nlink == 0;
        f.sized = true;
        f.mode = sx.stx_mode;
        f.size = sx.stx_size;
        f.uid = sx.stx_uid;
        f.gid = sx.stx_gid;
      } else if (const FileState* state = path_->journal.find({0, v.ino}); state && state->size) {
        f.sized = true;
        f.size = *state->size;
      }
      f.refs.push_back({pid, -1});
      files_.push_back(std::move(f));
      same = files_.end() - 1;
    }
    m.file = static_cast<std::size_t>(same - files_.begin());
    m.vma = std::move(v);
    maps_.push_back(std::move(m));
  }
}

std::uint64_t Relocation::save_mappings() {
  std::uint64_t told = 0;
  std::vector<std::byte> run;
  for (Map& m : maps_) {
    const OpenFile& file = files_[m.file];
    const auto pages = pagemap(m.pid, m.vma.start, m.vma.end);
    if (m.vma.shared && !m.vma.write) continue;
    for (std::size_t i = 0; i < pages.size();) {
      auto wanted = [&](std::size_t k) {
        const std::uint64_t e = pages[k];
        if (m.vma.shared) return (e & kPresent) != 0;
        return (e & kSwapped) != 0 || ((e & kPresent) && !(e & kFilePage));
      };
      if (!wanted(i)) {
        ++i;
        continue;
      }
      std::size_t j = i;
      while (j < pages.size() && j - i < 256 && wanted(j)) ++j;
      const std::uint64_t addr = m.vma.start + i * kPage;
      run.resize((j - i) * kPage);
      const std::size_t got = read_some(m.pid, addr, run);
      if (got > 0 && m.vma.shared) {
        if (file.sized) told += tell(file, m.vma.offset + i * kPage, std::span(run).first(got));
        else m.shared.push_back({addr, {run.begin(), run.begin() + static_cast<std::ptrdiff_t>(got)}});
      } else if (got > 0) {
        m.own.push_back({addr, {run.begin(), run.begin() + static_cast<std::ptrdiff_t>(got)}});
      }
      i = j;
    }
  }
  return told;
}

std::uint64_t Relocation::tell(const OpenFile& file, std::uint64_t offset,
                               std::span<const std::byte> bytes) {
  if (offset >= file.size) return 0;
  const auto n = std::min<std::uint64_t>(bytes.size(), file.size - offset);
  path_->journal.wrote({0, file.ino}, file.name, offset, bytes.first(n), file.size);
  return n;
}

Result<std::uint64_t> Relocation::tell_unsized(const std::string& dir, Deadline deadline) {
  std::vector<std::size_t> asked;
  for (std::size_t i = 0; i < files_.size(); ++i)
    if (files_[i].for_mapping && !files_[i].sized && !files_[i].deleted) asked.push_back(i);
  if (asked.empty()) return 0;
  ASSIGN_OR_RETURN(const WorkerResult found,
                   run_worker("look at mapped files on " + dir, deadline, [&]() -> Result<WorkerOutput> {
                     std::string text;
                     for (std::size_t i : asked) {
                       struct stat st;
                       const std::string name = dir + "/" + files_[i].name;
                       if (stat(name.c_str(), &st) != 0) return errno_error("stat " + name);
                       text += fmt::format("{} {} ", st.st_ino, st.st_size);
                     }
                     return WorkerOutput{text, {}};
                   }));
  std::istringstream words(found.bytes);
  std::uint64_t told = 0;
  for (std::size_t i : asked) {
    OpenFile& f = files_[i];
    f.sized = static_cast<bool>(words >> f.ino >> f.size);
    for (const Map& m : maps_) {
      if (m.file != i) continue;
      for (const SavedPage& page : m.shared)
        told += tell(f, m.vma.offset + (page.addr - m.vma.start), page.bytes);
    }
  }
  return told;
}

std::string Relocation::summary() const {
  std::size_t descriptors = 0, descriptions = 0;
  for (const OpenFile& f : files_) {
    if (f.for_mapping) continue;
    ++descriptions;
    descriptors += f.refs.size();
  }
  return fmt::format("{} descriptors of {} open files, {} mappings, {} directories, {} locks",
                     descriptors, descriptions, maps_.size(), dirs_.size(), posix_locks_.size());
}

}  // namespace supervise
