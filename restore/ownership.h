// Exactly one copy of an application runs. The meeting place is a directory on shared storage,
// STORE/NAME/: `epoch` (a number that only grows), per image `commit.json` (written by the origin;
// before it only the origin may run, after it only a host that claimed the image) and `claim.json`
// (made with link(2), which is atomic on every shared file system: one winner). A claim names host,
// boot id, PID and start time, so that a claim of a dead process on the *same* host and boot that
// never let the application run, or one that its owner gave back, can be taken over; a claim of
// another host never is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "restore/manifest.h"
#include "supervisor/base/clock.h"
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
  // "claimed" (restored or about to be, nothing has run), "running" (say so *before* the first
  // thread is let go), "ended" (it ran here and is over), "retracted" (the origin took the commit back)
  std::string state;
  std::int64_t since_unix_ns = 0;
  std::int64_t first_io_unix_ns = 0;  // first good I/O on the new host; 0: not yet
};

class Ownership {
 public:
  explicit Ownership(std::string app_dir) : dir_(std::move(app_dir)) {}

  Result<std::uint64_t> epoch() const;  // 0 when none was ever raised
  // Raises the epoch by one under a lock in the directory and returns the new one. ETIMEDOUT when
  // the lock can't be had within lock_timeout.
  Result<std::uint64_t> raise_epoch();

  // Origin: the point of no return. On an error nothing is committed and never will be, with one
  // exception: ENOTRECOVERABLE means in doubt (the storage failed right then, and taking the commit
  // back failed too). Then the origin must neither run the application nor end it: it asks again
  // with commit() or retract() until one of them gives an answer. Calling it again is harmless.
  Status commit(const std::string& image_dir, const Commit& commit);
  // Takes a commit back for good: claims the image so that nobody else can, then removes the
  // commit. EBUSY: too late, a successor has it, so it is committed.
  Status retract(const std::string& image_dir);
  Result<std::optional<Commit>> committed(const std::string& image_dir) const;
  // The newest image that is committed: who claimed that one has the application, whatever images were
  // made since. Empty: none is.
  Result<std::string> newest_committed() const;

  // Successor, after it has seen committed(); it reads committed() once more afterwards, since the
  // origin may have taken the commit back in between. EBUSY names the owner when somebody alive (or on
  // another host) has it; EALREADY when the application has run from this image already, so that
  // running it again would repeat its writes; even_if_it_ran allows that for a dead owner of this
  // host and for "ended". Claiming twice in one process is harmless.
  Status claim(const std::string& image_dir, std::uint64_t epoch, bool even_if_it_ran = false);
  // Owner only, or who goes on in place of `former`: EPERM names the one who has it now.
  Status update_claim(const std::string& image_dir, const Claim& claim, const HostIdentity* former = nullptr);
  // Owner only, and only in state "claimed" (EALREADY): gives it back, for any host to take.
  Status release(const std::string& image_dir);
  Result<std::optional<Claim>> claimed(const std::string& image_dir) const;

  // A warm image may be activated several times: each activation takes a slot (1 is claim.json, N is
  // claim-N.json). Claims the first that is to be had of 1..slots, looking from `from` on, for `owner`,
  // a process of this host, in state "claimed", and returns it. Other hosts see the claim, but it is not durable before
  // update_slot(). EBUSY or EALREADY name the owner of the last slot.
  // `prepared`: a file of prepare_slot(), which saves the time to write one; the caller removes it.
  Result<int> claim_slot(const std::string& image_dir, int slots, const HostIdentity& owner,
                         int from = 1, const std::string& prepared = "");
  // Writes what a claim of `owner` will be. It claims nothing.
  Result<std::string> prepare_slot(const std::string& image_dir, const HostIdentity& owner);
  // Owner only, or who goes on in place of `former`; durable. EPERM names the one who has it now.
  Status update_slot(const std::string& image_dir, int slot, const Claim& claim, const HostIdentity* former = nullptr);
  Status release_slot(const std::string& image_dir, int slot, const HostIdentity& owner);
  Result<std::optional<Claim>> slot_claimed(const std::string& image_dir, int slot) const;
  // Whether a claim is there whose owner may be alive and running it.
  bool in_use(const std::string& image_dir) const;
  // Removes all claims, so that the image can be activated (or a hand-over resumed) again, and returns how many
  // there were. EBUSY, with nothing removed, while an owner is alive; without `force` also when one may be
  // alive (another host's) or the image is a hand-over's, which a standby resumes at once.
  Result<int> free_claims(const std::string& image_dir, bool force);
  // How many of 1..slots claim_slot() would give now. `why` takes the sentence for one that it would not.
  int free_slots(const std::string& image_dir, int slots, std::string* why = nullptr) const;

  Millis lock_timeout{5000};

 private:
  std::string dir_;
};

}  // namespace supervise
