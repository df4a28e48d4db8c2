// Mounts a FUSE session, then leaves the mount namespace it serves. A daemon that stays inside can
// deadlock on its own file system (a walk over all mounts, the end of the namespace), and would
// keep the mount alive after everyone else has let go of it.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include <optional>
#include <string>
#include <vector>

#include "integration/faultfs/fault_rules.h"

namespace supervise::faults {

struct DaemonOptions {
  std::string source;  // image file, or directory
  std::string type;    // of the file system, as the mount table shows it after "fuse."; empty: the program's
  std::string mount_point;
  std::string socket;  // control socket
  std::string
      mount_ns;  // enter this mount namespace (a /proc/PID/ns/mnt) for the mount; empty: stay
  std::string outside_ns;  // go there afterwards; empty: stay
  unsigned lifetime = 0;   // seconds after which the daemon ends whatever happens; 0: never
  bool writeback = false;
  bool direct_io = false;
  double cache_seconds = 0;
};

// Parses "--mount DIR" and so on; prints what is wrong and returns nothing on a bad word.
std::optional<DaemonOptions> parse_daemon_options(const std::vector<std::string>& args,
                                                  std::string_view source_word);

// Mounts, leaves, serves until unmounted. Returns the exit status.
int run_daemon(const DaemonOptions& options, const char* type, const fuse_lowlevel_ops& ops,
               void* user_data, FaultRules& rules, bool default_permissions);

}  // namespace supervise::faults
