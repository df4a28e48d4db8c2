// Exactly one copy of an application runs. The meeting place is a directory on shared storage,
// STORE/NAME/: `epoch` (a number that only grows), per image `commit.json` (written by the origin;
// before it only the origin may run, after it only a host that claimed the image) and `claim.json`
// (made with link(2), which is atomic on every shared file system: one winner). A claim names host,
// boot id, PID and start time, so that a claim of a dead process on the *same* host and boot, or
// one that its owner gave back, can be taken over; a claim of another host never is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "restore/manifest.h"
#include "supervisor/base/result.h"

namespace supervise {

struct HostIdentity {
  std::string host;      // host name, or SUPERVISE_HOST_ID when set
  std::string boot_id;
  int pid = 0;
  std::uint64_t start_time = 0;  // field 22 of /proc/PID/stat
  std::uint64_t pid_namespace = 0;  // inode of /proc/self/ns/pid: a PID means nothing elsewhere
  static HostIdentity self();
};

struct Commit {
  std::uint64_t epoch = 0;
  std::uint64_t generation = 0;
  HostIdentity origin;
  std::int64_t committed_unix_ns = 0;
};

struct Claim {
  std::uint64_t epoch = 0;
  HostIdentity owner;
  std::string state;  // "claimed", "running", "ended"
  std::int64_t since_unix_ns = 0;
  std::int64_t first_io_unix_ns = 0;  // first good I/O on the new host; 0: not yet
};

class Ownership {
 public:
  explicit Ownership(std::string app_dir) : dir_(std::move(app_dir)) {}

  Result<std::uint64_t> epoch() const;
  // Raises the epoch by one under a lock in the directory and returns the new one.
  Result<std::uint64_t> raise_epoch();

  // Origin: the point of no return.
  Status commit(const std::string& image_dir, const Commit& commit);
  Result<std::optional<Commit>> committed(const std::string& image_dir) const;

  // Successor. EBUSY names the owner when somebody alive (or on another host) has it.
  Status claim(const std::string& image_dir, std::uint64_t epoch);
  Status update_claim(const std::string& image_dir, const Claim& claim);
  Result<std::optional<Claim>> claimed(const std::string& image_dir) const;

 private:
  std::string dir_;
};

}  // namespace supervise
