// Puts a Journal's final state on a directory that is another way to the same storage, makes it
// durable and proves it by reading back. Touches files only below `root_fd`; never follows a
// symbolic link out of it (openat2 RESOLVE_BENEATH). Idempotent: what is there already stays.
// Runs in a worker process of its own (see base/worker.h), since any path can hang.
#pragma once

#include <string>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/journal.h"

namespace supervise {

struct ReplayedFile {
  FileId id = 0;
  InodeKey key;        // on the new path
  std::string name;
};

struct ReplayReport {
  std::uint64_t files = 0, bytes = 0, names = 0;
  std::uint64_t compared_bytes = 0;  // read back and found equal
  std::vector<ReplayedFile> rekeyed;
  std::string to_json() const;
  static Result<ReplayReport> from_json(const std::string&);
};

// Errors name the file and the offset. On an error nothing is promised but that replaying again
// (here or elsewhere) is safe.
Result<ReplayReport> replay(const Journal& journal, int root_fd);

}  // namespace supervise
