#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "supervisor/base/worker.h"
#include "supervisor/relocate.h"
#include "tracer/fd_channel.h"
#include "tracer/inject.h"
#include "tracer/memory.h"

namespace supervise {
namespace {

constexpr int kNotAtOpen = O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY;

std::string relative(const std::string& place, const std::string& name) {
  std::string path = place.substr(1);
  if (!name.empty()) path += "/" + name;
  return path;
}

// flock and OFD locks belong to the open file description: whoever holds it can take them.
Status take_description_locks(int fd, const std::vector<LockInfo>& locks) {
  for (const LockInfo& lock : locks) {
    if (lock.kind == LockInfo::Flock) {
      if (flock(fd, (lock.write ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) return errno_error("flock");
      continue;
    }
    struct flock fl {};
    fl.l_type = lock.write ? F_WRLCK : F_RDLCK;
    fl.l_whence = SEEK_SET;
    fl.l_start = static_cast<off_t>(lock.start);
    fl.l_len = lock.end ? static_cast<off_t>(*lock.end - lock.start + 1) : 0;
    if (fcntl(fd, F_OFD_SETLK, &fl) != 0) return errno_error("fcntl F_OFD_SETLK");
  }
  return {};
}

// Room for three more descriptors, for the time of the move.
class Headroom {
 public:
  explicit Headroom(pid_t pid) : pid_(pid) {
    if (prlimit(pid, RLIMIT_NOFILE, nullptr, &before_) != 0) return;
    rlimit more{std::min<rlim_t>(before_.rlim_cur + 8, before_.rlim_max), before_.rlim_max};
    changed_ = more.rlim_cur != before_.rlim_cur && prlimit(pid, RLIMIT_NOFILE, &more, nullptr) == 0;
  }
  ~Headroom() {
    if (changed_) prlimit(pid_, RLIMIT_NOFILE, &before_, nullptr);
  }
  Headroom(const Headroom&) = delete;
  Headroom& operator=(const Headroom&) = delete;

 private:
  pid_t pid_;
  rlimit before_{};
  bool changed_ = false;
};

}  // namespace

Result<int> Relocation::recreate_deleted(int root, const OpenFile& file) const {
  const std::string temp =
      relative(path_->place, fmt::format(".supervise-{}-{}", getpid(), file.ino));
  const int out = openat(root, temp.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (out < 0) return errno_error("create " + temp);
  UniqueFd owner(out);
  const auto done = [&](Error e) -> Result<int> {
    unlinkat(root, temp.c_str(), 0);
    return e;
  };
  const FileState* state = path_->journal.find({0, file.ino});
  const std::uint64_t size = state && state->size ? *state->size : file.size;
  if (ftruncate(out, static_cast<off_t>(size)) != 0) return done(errno_error("ftruncate " + temp));
  // Old content first where it can still be read, then what the journal knows better.
  const FdRef& ref = file.refs.front();
  UniqueFd in;
  if (ref.fd >= 0)
    in.reset(open(fmt::format("/proc/{}/fd/{}", ref.tid, ref.fd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!in && ref.fd >= 0) {
    if (auto copy = descriptor_of(ref.tid, ref.fd)) in = copy.take();
  }
  std::vector<std::byte> chunk(1 << 16);
  for (std::uint64_t at = 0; at < size; at += chunk.size()) {
    const std::uint64_t want = std::min<std::uint64_t>(chunk.size(), size - at);
    const ssize_t n = in ? pread(in.get(), chunk.data(), want, static_cast<off_t>(at)) : -1;
    if (n > 0) {
      if (pwrite(out, chunk.data(), static_cast<std::size_t>(n), static_cast<off_t>(at)) != n)
        return done(errno_error("write " + temp));
      continue;
    }
    std::uint64_t covered = at;
    if (state) {
      for (const auto& [offset, piece] : state->data.pieces())
        if (offset <= covered && offset + piece.length > covered) covered = offset + piece.length;
    }
    if (covered < at + want)
      return done(errno_error(EIO, fmt::format("content of the deleted file {} at {} can't be read "
                                               "any more", file.name, covered)));
  }
  if (state) {
    for (const auto& [offset, piece] : state->data.pieces()) {
      if (piece.bytes.empty()) continue;
      if (pwrite(out, piece.bytes.data(), piece.bytes.size(), static_cast<off_t>(offset)) !=
          static_cast<ssize_t>(piece.bytes.size()))
        return done(errno_error("write " + temp));
    }
  }
  if (fchown(out, file.uid, file.gid) != 0 || fchmod(out, file.mode & 07777) != 0)
    return done(errno_error("set owner and mode of " + temp));
  const int fd = openat(root, temp.c_str(), (file.flags & ~kNotAtOpen & ~O_TMPFILE) | O_CLOEXEC);
  const int err = errno;
  unlinkat(root, temp.c_str(), 0);
  if (fd < 0) return errno_error(err, "open " + temp);
  return fd;
}

Result<int> Relocation::open_one(int root, const OpenFile& file, std::string& problem) const {
  int fd = -1;
  if (file.deleted) {
    ASSIGN_OR_RETURN(fd, recreate_deleted(root, file));
  } else {
    const int flags = (file.flags & ~kNotAtOpen) | O_CLOEXEC;
    fd = openat(root, relative(path_->place, file.name).c_str(), flags);
    if (fd < 0 && file.for_mapping && (errno == EACCES || errno == EROFS || errno == ETXTBSY))
      fd = openat(root, relative(path_->place, file.name).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno_error("open " + path_->place + "/" + file.name);
  }
  if (file.pos && !file.for_mapping && lseek(fd, static_cast<off_t>(file.pos), SEEK_SET) < 0)
    problem = errno_error("lseek " + file.name).message();
  if (auto s = take_description_locks(fd, file.locks); !s)
    problem = fmt::format("lock on {}/{}: {}", path_->place, file.name, s.error().message());
  return fd;
}

Result<std::vector<UniqueFd>> Relocation::open_all(World& world, Deadline deadline,
                                                   std::vector<std::string>& problems) const {
  const int root = world.root_fd();
  auto result = run_worker("open files on the other path", deadline, [&]() -> Result<WorkerOutput> {
    WorkerOutput out;
    std::string missing;  // one byte a file: was it opened?
    std::string text;
    const auto add = [&](Result<int> fd, const std::string& problem) {
      missing += fd ? '1' : '0';
      if (fd) out.fds.push_back(*fd);
      else text += fd.error().message() + "\n";
      if (!problem.empty()) text += problem + "\n";
    };
    for (const OpenFile& f : files_) {
      std::string problem;
      auto fd = open_one(root, f, problem);
      add(std::move(fd), problem);
    }
    for (const Dir& d : dirs_) {
      const int fd = openat(root, relative(path_->place, d.name).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
      if (fd < 0) add(errno_error("open directory " + path_->place + "/" + d.name), "");
      else add(fd, "");
    }
    out.bytes = missing + "\n" + text;
    return out;
  });
  if (!result) return result.error();
  const auto nl = result->bytes.find('\n');
  const std::string opened = result->bytes.substr(0, nl);
  std::string_view rest = std::string_view(result->bytes).substr(nl + 1);
  while (!rest.empty()) {
    const auto end = rest.find('\n');
    problems.emplace_back(rest.substr(0, end));
    rest = end == rest.npos ? "" : rest.substr(end + 1);
  }
  std::vector<UniqueFd> fds;
  std::size_t next = 0;
  for (char c : opened) fds.push_back(c == '1' ? std::move(result->fds[next++]) : UniqueFd());
  return fds;
}

Result<Relocation::Report> Relocation::move(World& world, Deadline deadline) {
  Report report;
  if (files_.empty() && dirs_.empty()) return report;
  ASSIGN_OR_RETURN(fds_, open_all(world, deadline, report.problems));
  const auto& fds = fds_;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    const FileState* state = files_[i].deleted ? path_->journal.find({0, files_[i].ino}) : nullptr;
    struct stat st {};
    if (state && fds[i] && fstat(fds[i].get(), &st) == 0)
      path_->journal.rekey(state->id, {0, st.st_ino});
  }
  std::set<pid_t> tids;
  for (const OpenFile& f : files_)
    for (const FdRef& r : f.refs) tids.insert(r.tid);
  for (const Map& m : maps_) tids.insert(m.pid);
  for (const Dir& d : dirs_) tids.insert(d.tid);
  for (pid_t tid : tids) {
    if (Task* task = tracer_->find(tid); task && task->vfork_waiting) {
      const Task* other = tracer_->any_thread(task->tgid);
      if (!other || !other->clean) {
        report.late.push_back(tid);  // its mappings are its child's too, and moved there
        continue;
      }
    }
    auto status = move_process(tid, true, deadline, report);
    if (!status && !status.error().is_gone())
      report.problems.push_back(fmt::format("process {}: {}", tid, status.error().message()));
  }
  return report;
}

Status Relocation::move_late(pid_t tid, Deadline deadline) {
  Report report;
  RETURN_IF_ERROR(move_process(tid, false, deadline, report));
  if (!report.problems.empty()) return plain_error(report.problems.front());
  return {};
}

Status Relocation::move_process(pid_t tid, bool with_mappings, Deadline deadline, Report& report) {
  const auto& fds = fds_;
  Task* task = tracer_->find(tid);
  if (!task || !task->clean) task = tracer_->any_thread(tid);
  if (!task) return errno_error(ESRCH, "no thread left");
  const pid_t pid = task->tgid;
  Headroom headroom(pid);
  ASSIGN_OR_RETURN(Injector in, Injector::open(*tracer_, *task, deadline));
  {
    ASSIGN_OR_RETURN(FdChannel channel, FdChannel::open(in));
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const OpenFile& f = files_[i];
      if (f.for_mapping || !fds[i]) continue;
      for (const FdRef& r : f.refs) {
        if (r.tid != tid) continue;
        auto own = fd_info(tid, r.fd);
        const std::uint64_t cloexec = own && (own->flags & O_CLOEXEC) ? O_CLOEXEC : 0;
        ASSIGN_OR_RETURN(const int number, channel.give(fds[i].get()));
        const auto n = static_cast<std::uint64_t>(number);
        ASSIGN_OR_RETURN(const long moved,
                         in.call_checked(SYS_dup3, {n, static_cast<std::uint64_t>(r.fd), cloexec}));
        (void)moved;
        in.call(SYS_close, {n}).value_or(0);
        ++report.descriptors;
      }
    }
    for (const Map& m : maps_) {
      if (!with_mappings || m.pid != pid || !fds[m.file]) continue;
      ASSIGN_OR_RETURN(const int number, channel.give(fds[m.file].get()));
      const auto n = static_cast<std::uint64_t>(number);
      const std::uint64_t prot = (m.vma.read ? PROT_READ : 0u) | (m.vma.write ? PROT_WRITE : 0u) |
                                 (m.vma.exec ? PROT_EXEC : 0u);
      const std::uint64_t flags = MAP_FIXED | (m.vma.shared ? MAP_SHARED : MAP_PRIVATE);
      auto at = in.call_checked(SYS_mmap, {m.vma.start, m.vma.end - m.vma.start, prot, flags, n,
                                           m.vma.offset});
      in.call(SYS_close, {n}).value_or(0);
      if (!at) return at.error();
      for (const SavedPage& page : m.own) RETURN_IF_ERROR(write_exact(pid, page.addr, page.bytes));
      ++report.mappings;
    }
    for (std::size_t i = 0; i < dirs_.size(); ++i) {
      const Dir& d = dirs_[i];
      const UniqueFd& fd = fds[files_.size() + i];
      if (d.tid != tid || !fd) continue;
      ASSIGN_OR_RETURN(const int number, channel.give(fd.get()));
      const auto n = static_cast<std::uint64_t>(number);
      auto changed = d.is_root ? Result<long>(0L) : in.call_checked(SYS_fchdir, {n});
      if (d.is_root) {
        // chroot(2) goes by name: through the directory, and back to where the thread was.
        in.reset_scratch();
        ASSIGN_OR_RETURN(const std::uint64_t dot, in.put("."));
        ASSIGN_OR_RETURN(const std::uint64_t cwd_name, in.put("."));
        auto cwd = in.call(SYS_open, {cwd_name, O_PATH | O_DIRECTORY, 0});
        changed = in.call_checked(SYS_fchdir, {n});
        if (changed) changed = in.call_checked(SYS_chroot, {dot});
        if (cwd && *cwd >= 0) {
          in.call(SYS_fchdir, {static_cast<std::uint64_t>(*cwd)}).value_or(0);
          in.call(SYS_close, {static_cast<std::uint64_t>(*cwd)}).value_or(0);
        }
      }
      in.call(SYS_close, {n}).value_or(0);
      if (!changed) return changed.error();
      ++report.directories;
    }
  }
  // Last, since closing any descriptor of a file drops the process's POSIX locks on it.
  for (const PosixLock& l : posix_locks_) {
    if (l.at.tid != tid) continue;
    struct flock fl {};
    fl.l_type = l.lock.write ? F_WRLCK : F_RDLCK;
    fl.l_whence = SEEK_SET;
    fl.l_start = static_cast<off_t>(l.lock.start);
    fl.l_len = l.lock.end ? static_cast<off_t>(*l.lock.end - l.lock.start + 1) : 0;
    in.reset_scratch();
    ASSIGN_OR_RETURN(const std::uint64_t at, in.put(std::as_bytes(std::span(&fl, 1))));
    auto r = in.call_checked(SYS_fcntl, {static_cast<std::uint64_t>(l.at.fd), F_SETLK, at});
    if (!r)
      report.problems.push_back(fmt::format("POSIX lock of process {} on descriptor {}: {}", pid,
                                            l.at.fd, r.error().message()));
    else
      ++report.locks;
  }
  return {};
}

}  // namespace supervise
