// The only file that speaks to CRIU. Every call has a deadline and runs inside the application's
// world through a ProcessRunner; on failure the error carries the telling lines of CRIU's log
// (dump.log, restore.log in the image's directory, which are no parts of the image).
// The tree that is dumped is in state T (SIGSTOP) and has no tracer; so is the restored one.
// The runner sees to it that CRIU's own PIDs are far from the application's (ns_last_pid).
#pragma once

#include <string>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/process_runner.h"
#include "supervisor/base/result.h"
#include "supervisor/options.h"

namespace supervise {

// One of the application's standard streams, or another descriptor whose other end is outside.
struct ExternalFile {
  std::string id;  // CRIU's name: "pipe:[1234]", "tty[rdev:dev]", "srv/log.txt" (path, no slash)
  int fd = -1;     // restore: the supervisor's descriptor that takes its place
};

struct DumpRequest {
  int root_pid = 0;               // as seen inside the world
  int image_dir_fd = -1;
  bool leave_stopped = true;      // false: CRIU ends the tree
  std::vector<std::string> external;  // values of --external
  TcpPolicy tcp = TcpPolicy::Keep;
  std::uint64_t ghost_limit = 1ull << 30;
};

struct RestoreRequest {
  int image_dir_fd = -1;
  std::vector<ExternalFile> inherit;
  TcpPolicy tcp = TcpPolicy::Keep;  // Close and Reset: as at the dump
  int work_dir_fd = -1;  // where restore.log goes when the image's directory can't be written to
};

class Criu {
 public:
  // `binary` empty: SUPERVISE_CRIU, then the prefix that setup installs into, then PATH.
  static Result<Criu> find(const std::string& binary = {});
  // How long one dump or restore may take: 120 s, or SUPERVISE_CRIU_DEADLINE in seconds.
  static Millis deadline();

  // stats-dump is read for the figures.
  struct DumpFigures {
    double freezing_ms = 0, frozen_ms = 0, memdump_ms = 0, memwrite_ms = 0;
    std::uint64_t pages_written = 0;
  };
  // With leave_stopped the tasks are (within moments) in T again, after CRIU's own errors too. A CRIU
  // that was killed (ETIMEDOUT, or by a signal) lets go of them wherever they are: some stand in CRIU's
  // code, and one that has just trapped gets a SIGTRAP. The caller sees to both (tracer/snapshot.h):
  // a handler for SIGTRAP before, and afterwards every thread back under its tracer and its registers
  // put back before any runs.
  Result<DumpFigures> dump(ProcessRunner& runner, const DumpRequest&, Deadline) const;
  // The tree's root becomes the child of the process that runs CRIU (--restore-sibling): the
  // world's init. Returns its PID inside the world. All tasks have SIGSTOP pending and execute
  // nothing; a thread may be in R for a moment longer, until it is in T. After an error the world
  // may hold half a tree: end it.
  Result<int> restore(ProcessRunner& runner, const RestoreRequest&, Deadline) const;

  const std::string& binary() const { return binary_; }

 private:
  std::string binary_;
};

}  // namespace supervise
