// Puts a Journal's final state on a directory that is another way to the same storage, makes it
// durable and proves it by reading back. Touches files only below `root_fd`; never follows a
// symbolic link out of it (openat2 RESOLVE_BENEATH). Idempotent: what is there already stays.
// Runs in a worker process of its own (see base/worker.h), since any path can hang.
//
// The directory may show any state between the last durable one and the final one. Files whose
// whole content is in the journal are built anew and moved into place; others must be found first:
// by inode number where the two paths show the same ones, else by their names, and when these leave
// a doubt replay ends with an error before anything was changed. Whatever is in the way of a name
// and alive in the final state is moved aside (".supervise-replay.*" in the root) until its turn
// comes; a later replay of the same journal finds it there.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <string>
#include <string_view>
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
  std::vector<FileId> unlinked;      // without a name: left to the caller, who recreates them
  std::string to_json() const;
  static Result<ReplayReport> from_json(const std::string&);
};

struct ReplayOptions {
  // Before each change; an error ends the replay there (fault loops). Besides it each change
  // passes the fault point "replay.step".
  std::function<Status(std::string_view step)> hook;
  // The inode number that a file has on the path the journal was written for; default: its own.
  std::function<std::uint64_t(const struct stat&)> ino_of;
  // It is the path the journal was written for, and its files are open: none that is there under
  // its name is built anew, since descriptors would be left with the old one.
  bool in_place = false;
};

// Errors name the file and the offset. On an error nothing is promised but that replaying again
// (here or elsewhere) is safe.
Result<ReplayReport> replay(const Journal& journal, int root_fd, const ReplayOptions& options = {});

}  // namespace supervise
