// Files without a name that nobody has open any more leave the journal: programs that make and remove files all
// day would fill it. Closes are made in process and tell nothing, so they are looked for once the journal has
// grown to twice the size.
#include <sys/stat.h>

#include "supervisor/session.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

constexpr std::size_t kFew = 1024;

}  // namespace

void Session::forget_deleted(StoragePath& path) {
  if (path.journal.files().size() < path.files_expected || incident_.id != 0 || tracer_.holding()) return;
  std::set<std::uint64_t> open;
  for (const auto& [pid, task] : tracer_.all()) {
    if (pid != task.tgid && !task.stranger) continue;
    for (int fd : fds_of(pid)) {
      FdInfo info;
      if (paths_.of_fd(pid, fd, info) != &path) continue;
      if (auto facts = facts_of_fd(pid, fd)) open.insert(facts->ino);
    }
    // Whatever file system they are on: a number too many keeps a file a little longer.
    if (auto maps = maps_of(pid))
      for (const Vma& vma : *maps) open.insert(vma.ino);
  }
  // A process that is being born has what it inherits where nobody looked: what is not found twice is gone.
  std::set<std::uint64_t> missed;
  std::vector<InodeKey> gone;
  for (const auto& [id, file] : path.journal.files()) {
    if (!file.unlinked() || open.contains(file.key.ino)) continue;
    if (path.deleted_missed.contains(file.key.ino)) gone.push_back(file.key);
    else missed.insert(file.key.ino);
  }
  for (const InodeKey& key : gone) path.journal.forget(key);
  path.deleted_missed = std::move(missed);
  path.files_expected = 2 * path.journal.files().size() + kFew;
  if (!path.deleted_missed.empty()) path.files_expected = path.journal.files().size() + kFew;
}

}  // namespace supervise
