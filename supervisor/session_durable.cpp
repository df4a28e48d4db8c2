// What is written but not durable yet: synced over the path in use, or replayed and proven.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "supervisor/base/fault_point.h"
#include "supervisor/base/worker.h"
#include "supervisor/relocate.h"
#include "supervisor/replay.h"
#include "supervisor/session.h"

namespace supervise {

Status Session::replay_on(StoragePath& path, const std::string& dir) {
  if (path.journal.empty()) return {};
  const auto began = Clock::now();
  auto result = run_worker(
      fmt::format("replay of path {} over {}", path.name, dir), Deadline::in(config_.path_deadline * 4),
      [&]() -> Result<WorkerOutput> {
        UniqueFd root(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!root) return errno_error("open " + dir);
        ReplayOptions options;
        options.in_place = dir == path.dir();
        ASSIGN_OR_RETURN(const ReplayReport report, replay(path.journal, root.get(), options));
        return WorkerOutput{report.to_json(), {}};
      });
  if (!result) return result.error();
  ASSIGN_OR_RETURN(const ReplayReport report, ReplayReport::from_json(result->bytes));
  for (const ReplayedFile& f : report.rekeyed) path.journal.rekey(f.id, {0, f.key.ino});
  path.journal.synced_all(path.journal.now());
  // Ordinary at an end or a limit, news in an incident.
  const auto tell = incident_.id ? &Events::info : &Events::debug;
  (events_.*tell)("journal.replayed",
               fmt::format("{} bytes of {} files and {} names are on {}, synced, read back ({} "
                           "bytes) and equal; {:.1f} ms",
                           report.bytes, report.files, report.names, dir, report.compared_bytes,
                           ms_between(began, Clock::now())),
               {{"step", std::int64_t{4}}, {"path", path.name},
                {"bytes", static_cast<std::int64_t>(report.bytes)},
                {"files", static_cast<std::int64_t>(report.files)},
                {"compared", static_cast<std::int64_t>(report.compared_bytes)}});
  return {};
}

// The path in use is in order as far as anybody knows: the kernel has the data, it only has to be
// made durable. Nothing is rewritten, since stores through mappings may be newer than the journal.
Status Session::sync_in_place(StoragePath& path) {
  if (path.journal.empty()) return {};
  auto result = run_worker(
      fmt::format("sync of path {} on {}", path.name, path.dir()),
      Deadline::in(config_.path_deadline * 4), [&]() -> Result<WorkerOutput> {
        UniqueFd root(open(path.dir().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!root) return errno_error("open " + path.dir());
        const auto sync = [&](const std::string& name, int flags) -> Status {
          UniqueFd fd(openat(root.get(), name.empty() ? "." : name.c_str(),
                             flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
          if (!fd) return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
                              ? Status() : Status(errno_error("open " + name));
          if (fsync(fd.get()) != 0 && errno != EINVAL) return errno_error("fsync " + name);
          return {};
        };
        std::set<std::string> dirs{""};
        const auto parents = [&](std::string name) {
          for (auto slash = name.rfind('/'); slash != name.npos; slash = name.rfind('/')) {
            name.resize(slash);
            dirs.insert(name);
          }
        };
        for (const auto& [id, file] : path.journal.files()) {
          if (file.names.empty()) continue;
          if (file.kind == NodeKind::Regular)
            RETURN_IF_ERROR(sync(file.names.front(), O_RDONLY));
          for (const std::string& name : file.names) parents(name);
        }
        for (const auto& [name, state] : path.journal.names()) parents(name);
        for (const std::string& dir : dirs) RETURN_IF_ERROR(sync(dir, O_RDONLY | O_DIRECTORY));
        if (syncfs(root.get()) != 0) return errno_error("syncfs " + path.dir());
        return WorkerOutput{};
      });
  if (!result) return result.error();
  events_.debug("journal.synced", fmt::format("{} bytes of {} files are durable on {}", path.journal.bytes(),
                                              path.journal.dirty_files(), path.dir()),
                {{"path", path.name}});
  path.journal.synced_all(path.journal.now());
  return {};
}

// What the path in use shows of a file now; less than `length` at its end.
Result<std::string> Session::read_back(const StoragePath& path, const std::string& name, std::uint64_t ino,
                                       std::uint64_t offset, std::uint64_t length) {
  auto read = run_worker("read back " + name, Deadline::in(Millis(5000)), [&]() -> Result<WorkerOutput> {
    UniqueFd fd(open((path.dir() + "/" + name).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    struct stat st {};
    if (!fd || fstat(fd.get(), &st) != 0 || st.st_ino != ino) return errno_error("open " + name);
    WorkerOutput out;
    out.bytes.resize(length);
    const ssize_t n = pread(fd.get(), out.bytes.data(), out.bytes.size(), static_cast<off_t>(offset));
    if (n < 0) return errno_error("read " + name);
    out.bytes.resize(static_cast<std::size_t>(n));
    return out;
  });
  if (!read) return read.error();
  return std::move(read->bytes);
}

// Files that were mapped shared and writable may hold stores that no call told of: what the kernel
// still shows of the journaled ranges replaces what was written there.
void Session::refresh_mapped(StoragePath& path) {
  if (path.mapped.empty() || path.journal.empty()) return;
  struct Range { std::uint64_t ino, offset, length; };
  std::vector<Range> ranges;
  for (const auto& [id, file] : path.journal.files())
    if (path.mapped.contains(file.key.ino) && !file.names.empty())
      for (const auto& [offset, piece] : file.data.pieces())
        ranges.push_back({file.key.ino, offset, piece.length});
  for (const Range& r : ranges) {
    const FileState* file = path.journal.find({0, r.ino});
    if (!file || file->names.empty()) continue;
    const std::string name = file->names.front();
    const std::uint64_t size = file->size.value_or(r.offset + r.length);
    if (r.offset >= size) continue;
    auto read = read_back(path, name, r.ino, r.offset, std::min(r.length, size - r.offset));
    if (!read || read->empty()) continue;
    path.journal.wrote({0, r.ino}, name, r.offset, std::as_bytes(std::span(*read)), size);
  }
}

bool Session::make_durable(StoragePath& path, const char* why, bool rewrite) {
  drain_ring();
  if (path.journal.empty()) return true;
  const bool was_holding = tracer_.holding();
  if (!was_holding) {
    if (auto s = tracer_.hold_all(Deadline::in(config_.path_deadline)); !s) {
      events_.warn("hold.failed", s.error().message());
      return false;
    }
  }
  drain_ring();
  if (rewrite) refresh_mapped(path);
  auto status = rewrite ? replay_on(path, path.dir()) : sync_in_place(path);
  if (!status) {
    events_.warn("journal.not_durable", fmt::format("{}: {}", why, status.error().message()),
                 {{"path", path.name}});
  }
  if (!was_holding) tracer_.resume_all();
  if (!status && path.next_alternate() && world_->has_namespaces() && !config_.observe) {
    open_incident(path, path.place);
    return fail_over(path);
  }
  return status.ok();
}

bool Session::finish_at_end() {
  drain_ring();
  for (auto& path : paths_.all()) {
    if (path->journal.empty() || config_.observe) continue;
    // Nobody may ever learn of an error from now on: what was written is made durable here.
    if (sync_in_place(*path)) continue;
    open_incident(*path, path->place);
    bool good = false;
    while (auto index = path->next_alternate()) {
      if (try_alternate(*path, *index) ) {
        good = sync_in_place(*path).ok();
        if (good) break;
      }
      path->given_up.insert(*index);
    }
    if (!good)
      events_.error("journal.lost",
                    fmt::format("path {}: {} bytes of {} files that the application wrote are not "
                                "known to be on the storage", path->name, path->journal.bytes(),
                                path->journal.dirty_files()),
                    {{"path", path->name}});
  }
  return true;
}

}  // namespace supervise
