#include "restore/ownership.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <ctime>

#include "restore/host_identity.h"
#include "restore/identity_members.h"
#include "restore/ownership_members.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/store_files.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/scope_exit.h"

namespace supervise {

namespace {

constexpr const char* kClaimed = "claimed";
constexpr const char* kEnded = "ended";
constexpr const char* kRetracted = "retracted";

std::string commit_file(const std::string& image) { return image + "/" + kCommitName; }
std::string claim_file(const std::string& image, int slot = 1) {
  return slot == 1 ? image + "/" + kClaimName : fmt::format("{}/{}{}.json", image, kClaimPrefix, slot);
}
std::string claim_lock(const std::string& image) { return image + "/.claim.lock"; }

template <class T>
Result<std::optional<T>> read_record(const std::string& path) {
  ASSIGN_OR_RETURN(auto text, read_file_if_there(path));
  if (!text) return std::optional<T>();
  ASSIGN_OR_RETURN(T record, json_io::read_object<T>(path, *text));
  return std::optional<T>(std::move(record));
}

enum class Linked { Won, Lost };

// Makes `path` with this content unless it is there. Over NFS the answer to link(2) may get lost:
// the link count of our file tells.
// `in_doubt` is set when an error leaves open whether the link was made.
Result<Linked> link_new(const std::string& path, const std::string& content, bool* in_doubt = nullptr,
                        bool durable = true) {
  ASSIGN_OR_RETURN(std::string temp, write_temp_file(path, content, durable));
  ScopeExit remove([&] { unlink(temp.c_str()); });
  if (link(temp.c_str(), path.c_str()) == 0) return Linked::Won;
  int err = errno;
  struct stat st{};
  bool known = stat(temp.c_str(), &st) == 0;
  if (known && st.st_nlink == 2) return Linked::Won;
  if (err == EEXIST) return Linked::Lost;
  if (in_doubt) *in_doubt = !known;
  std::string what = fmt::format("link {}", path);
  if (err == EPERM || err == EOPNOTSUPP || err == ENOSYS) {
    what += " (the image store must be on a file system with hard links)";
  }
  return errno_error(err, what);
}

bool same_commit(const Commit& a, const Commit& b) {
  return a.epoch == b.epoch && a.generation == b.generation && same_process(a.origin, b.origin);
}

Claim new_claim(std::uint64_t epoch, const char* state) {
  return {epoch, HostIdentity::self(), state, unix_now_ns(), 0};
}

std::string since(const Claim& c) {
  const std::time_t t = c.since_unix_ns / 1'000'000'000;
  std::tm tm{};
  gmtime_r(&t, &tm);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
  return text;
}

Error busy(const std::string& image, const Claim& c, const char* why) {
  return errno_error(EBUSY, fmt::format("image {} is claimed by {} (epoch {}, state {} since {}): {}", image,
                                        describe(c.owner), c.epoch, c.state, since(c), why));
}

// Nothing when this claim may be taken over by us.
std::optional<Error> why_not(const std::string& image, const Claim& c, bool even_if_it_ran) {
  if (c.state == kRetracted) {
    return busy(image, c, "its origin took the hand-over back and goes on there");
  }
  bool over = c.state == kEnded;
  switch (over ? Liveness::Gone : liveness_of(c.owner)) {
    case Liveness::Alive:
      return busy(image, c, "that process is alive");
    case Liveness::Unknown:
      return busy(image, c, fmt::format("only there can be told whether it is alive; when that host "
                                        "is fenced, `supervise images free {} --force`", image).c_str());
    case Liveness::Gone:
      break;
  }
  if (c.state == kClaimed || even_if_it_ran) return std::nullopt;
  return errno_error(EALREADY, fmt::format(
      "image {}: the application has run from it on {} (epoch {}, state {} since {}); running it again "
      "would repeat what it wrote since (if that is meant: `supervise images free {}`)", image, describe(c.owner), c.epoch,
      c.state, since(c), image));
}

}  // namespace

Result<std::uint64_t> Ownership::epoch() const {
  std::string path = dir_ + "/epoch";
  ASSIGN_OR_RETURN(auto text, read_file_if_there(path));
  if (!text) return std::uint64_t{0};
  std::uint64_t n = 0;
  const char* end = text->data() + text->size();
  auto [p, ec] = std::from_chars(text->data(), end, n);
  if (ec != std::errc() || p == text->data() || (p != end && *p != '\n')) {
    return plain_error(fmt::format("{} does not hold a number", path));
  }
  return n;
}

Result<std::uint64_t> Ownership::raise_epoch() {
  ASSIGN_OR_RETURN(auto lock, lock_file(dir_ + "/.epoch.lock", Deadline::in(lock_timeout)));
  ASSIGN_OR_RETURN(auto now, epoch());
  RETURN_IF_ERROR(write_file_durably(dir_ + "/epoch", fmt::format("{}\n", now + 1)));
  return now + 1;
}

Status Ownership::commit(const std::string& image_dir, const Commit& commit) {
  RETURN_IF_ERROR(fault_point("commit.before"));
  const std::string path = commit_file(image_dir);
  bool in_doubt = false;
  auto outcome = [&]() -> Status {
    ASSIGN_OR_RETURN(auto linked, link_new(path, json_io::write_object(commit), &in_doubt));
    in_doubt = linked == Linked::Won;
    if (linked == Linked::Lost) {
      ASSIGN_OR_RETURN(auto there, read_record<Commit>(path));
      if (!there || !same_commit(*there, commit)) {
        return errno_error(EEXIST, fmt::format("{}: another process has committed this image", path));
      }
      in_doubt = true;
    }
    RETURN_IF_ERROR(fault_point("commit.linked"));
    RETURN_IF_ERROR(sync_dir(image_dir));
    return fault_point("commit.synced");
  }();
  if (outcome.ok() || !in_doubt) return outcome;
  auto back = retract(image_dir);
  if (back.ok()) return outcome;
  if (back.error().err == EBUSY) return {};
  return errno_error(ENOTRECOVERABLE, fmt::format("commit of image {} is in doubt: {}; and taking it "
                                                  "back: {}", image_dir, outcome.error().message(),
                                                  back.error().message()));
}

Status Ownership::retract(const std::string& image_dir) {
  RETURN_IF_ERROR(fault_point("retract.before"));
  const std::string path = claim_file(image_dir);
  ASSIGN_OR_RETURN(auto linked, link_new(path, json_io::write_object(new_claim(0, kRetracted))));
  if (linked == Linked::Lost) {
    ASSIGN_OR_RETURN(auto there, read_record<Claim>(path));
    // A claim that was given back in this moment: the caller asks again.
    if (!there) return errno_error(EAGAIN, fmt::format("retract {}", path));
    if (there->state != kRetracted) return busy(image_dir, *there, "the hand-over is committed");
  }
  RETURN_IF_ERROR(sync_dir(image_dir));
  if (unlink(commit_file(image_dir).c_str()) != 0 && errno != ENOENT) {
    return errno_error(fmt::format("remove {}", commit_file(image_dir)));
  }
  return sync_dir(image_dir);
}

Result<std::optional<Commit>> Ownership::committed(const std::string& image_dir) const {
  return read_record<Commit>(commit_file(image_dir));
}

Result<std::string> Ownership::newest_committed() const {
  ASSIGN_OR_RETURN(const ImageStore store, ImageStore::open(parent_of(dir_), name_of(dir_), false));
  ASSIGN_OR_RETURN(const auto images, store.list());
  for (auto image = images.rbegin(); image != images.rend(); ++image) {
    ASSIGN_OR_RETURN(const auto commit, committed(image->dir));
    if (commit) return image->dir;
  }
  return std::string();
}

Status Ownership::claim(const std::string& image_dir, std::uint64_t epoch, bool even_if_it_ran) {
  RETURN_IF_ERROR(fault_point("claim.before"));
  const std::string path = claim_file(image_dir);
  const Claim ours = new_claim(epoch, kClaimed);
  const std::string text = json_io::write_object(ours);
  for (int attempt = 0; attempt < 100; ++attempt) {
    ASSIGN_OR_RETURN(auto linked, link_new(path, text));
    if (linked == Linked::Won) {
      RETURN_IF_ERROR(sync_dir(image_dir));
      return fault_point("claim.synced");
    }
    // Only a dead owner's own host replaces its claim, so the lock need not work across hosts (but
    // for an "ended" claim that the operator overrides).
    ASSIGN_OR_RETURN(auto lock, lock_file(claim_lock(image_dir), Deadline::in(lock_timeout)));
    ASSIGN_OR_RETURN(auto there, read_record<Claim>(path));
    if (!there) continue;  // given back since
    if (same_process(there->owner, ours.owner) && there->epoch == epoch && there->state == kClaimed) {
      return {};
    }
    if (auto no = why_not(image_dir, *there, even_if_it_ran)) return *no;
    RETURN_IF_ERROR(write_file_durably(path, text));
    return fault_point("claim.taken_over");
  }
  return errno_error(EBUSY, fmt::format("{} comes and goes: other processes claim it", path));
}

Status Ownership::update_claim(const std::string& image_dir, const Claim& claim, const HostIdentity* former) {
  ASSIGN_OR_RETURN(auto lock, lock_file(claim_lock(image_dir), Deadline::in(lock_timeout)));
  ASSIGN_OR_RETURN(auto there, claimed(image_dir));
  if (!there) return errno_error(EPERM, fmt::format("image {} is claimed by nobody", image_dir));
  if (!same_process(there->owner, former ? *former : claim.owner) || there->epoch != claim.epoch) {
    return errno_error(EPERM, fmt::format("image {} is claimed by {} (epoch {}), not by {} (epoch {})",
                                          image_dir, describe(there->owner), there->epoch,
                                          describe(claim.owner), claim.epoch));
  }
  return write_file_durably(claim_file(image_dir), json_io::write_object(claim));
}

Status Ownership::release(const std::string& image_dir) {
  ASSIGN_OR_RETURN(auto lock, lock_file(claim_lock(image_dir), Deadline::in(lock_timeout)));
  ASSIGN_OR_RETURN(auto there, claimed(image_dir));
  if (!there) return {};
  if (!same_process(there->owner, HostIdentity::self())) {
    return errno_error(EPERM, fmt::format("image {} is claimed by {}", image_dir, describe(there->owner)));
  }
  if (there->state != kClaimed) {
    return errno_error(EALREADY, fmt::format("image {}: state {}, only a claim that never ran can be "
                                             "given back", image_dir, there->state));
  }
  if (unlink(claim_file(image_dir).c_str()) != 0) {
    return errno_error(fmt::format("remove {}", claim_file(image_dir)));
  }
  return sync_dir(image_dir);
}

Result<std::optional<Claim>> Ownership::claimed(const std::string& image_dir) const {
  return read_record<Claim>(claim_file(image_dir));
}

Result<int> Ownership::claim_slot(const std::string& image_dir, int slots, const HostIdentity& owner,
                                  int from, const std::string& prepared) {
  RETURN_IF_ERROR(fault_point("slot.before"));
  if (!prepared.empty() && link(prepared.c_str(), claim_file(image_dir, from).c_str()) == 0) {
    RETURN_IF_ERROR(fault_point("slot.linked"));
    return from;
  }
  ASSIGN_OR_RETURN(const std::uint64_t now, epoch());
  const std::string text = json_io::write_object(Claim{now, owner, kClaimed, unix_now_ns(), 0});
  Error last = plain_error(fmt::format("image {}: no instance is allowed", image_dir));
  for (int i = 0; i < slots; ++i) {
    const int slot = (from - 1 + i) % slots + 1;
    const std::string path = claim_file(image_dir, slot);
    for (int attempt = 0; attempt < 100; ++attempt) {
      // No fsync: link(2) decides between all that look at this directory now. A crash that takes the
      // claim away takes the owner, and what it has started, along.
      ASSIGN_OR_RETURN(auto linked, link_new(path, text, nullptr, false));
      if (linked == Linked::Won) {
        RETURN_IF_ERROR(fault_point("slot.linked"));
        return slot;
      }
      ASSIGN_OR_RETURN(auto lock, lock_file(claim_lock(image_dir), Deadline::in(lock_timeout)));
      ASSIGN_OR_RETURN(auto there, read_record<Claim>(path));
      if (!there) continue;  // given back since
      if (same_process(there->owner, owner) && there->state == kClaimed) return slot;
      if (auto no = why_not(image_dir, *there, false)) {
        last = *no;
        break;
      }
      RETURN_IF_ERROR(replace_file(path, text));
      return slot;
    }
  }
  return last;
}

Result<std::string> Ownership::prepare_slot(const std::string& image_dir, const HostIdentity& owner) {
  ASSIGN_OR_RETURN(const std::uint64_t now, epoch());
  return write_temp_file(claim_file(image_dir), json_io::write_object(Claim{now, owner, kClaimed, unix_now_ns(), 0}), false);
}

Status Ownership::update_slot(const std::string& image_dir, int slot, const Claim& claim, const HostIdentity* former) {
  ASSIGN_OR_RETURN(auto lock, lock_file(claim_lock(image_dir), Deadline::in(lock_timeout)));
  ASSIGN_OR_RETURN(auto there, slot_claimed(image_dir, slot));
  if (there && !same_process(there->owner, claim.owner) && !(former && same_process(there->owner, *former))) {
    return errno_error(EPERM, fmt::format("image {}: instance {} is claimed by {}, not by {}", image_dir, slot,
                                          describe(there->owner), describe(claim.owner)));
  }
  RETURN_IF_ERROR(fault_point("slot.update"));
  return write_file_durably(claim_file(image_dir, slot), json_io::write_object(claim));
}

Status Ownership::release_slot(const std::string& image_dir, int slot, const HostIdentity& owner) {
  ASSIGN_OR_RETURN(auto lock, lock_file(claim_lock(image_dir), Deadline::in(lock_timeout)));
  ASSIGN_OR_RETURN(auto there, slot_claimed(image_dir, slot));
  if (!there || !same_process(there->owner, owner) || there->state != kClaimed) return {};
  if (unlink(claim_file(image_dir, slot).c_str()) != 0)
    return errno_error(fmt::format("remove {}", claim_file(image_dir, slot)));
  return sync_dir(image_dir);
}

Result<std::optional<Claim>> Ownership::slot_claimed(const std::string& image_dir, int slot) const {
  return read_record<Claim>(claim_file(image_dir, slot));
}

bool Ownership::in_use(const std::string& image_dir) const {
  for (const auto& name : names_in(image_dir).value_or({})) {
    if (name != kClaimName && !name.starts_with(kClaimPrefix)) continue;
    auto there = read_record<Claim>(image_dir + "/" + name);
    if (there && *there && (*there)->state != kEnded && (*there)->state != kRetracted &&
        liveness_of((*there)->owner) != Liveness::Gone)
      return true;
  }
  return false;
}

Result<int> Ownership::free_claims(const std::string& image_dir, bool force) {
  // Owners change their claims under this lock; a new one needs a name that is not there.
  ASSIGN_OR_RETURN(auto lock, lock_file(claim_lock(image_dir), Deadline::in(lock_timeout)));
  ASSIGN_OR_RETURN(const auto commit, committed(image_dir));
  ASSIGN_OR_RETURN(const auto names, names_in(image_dir));
  std::vector<std::string> claims;
  for (const auto& name : names) {
    if (name != kClaimName && !name.starts_with(kClaimPrefix)) continue;
    const std::string path = image_dir + "/" + name;
    ASSIGN_OR_RETURN(const auto there, read_record<Claim>(path));
    if (!there) continue;
    if (there->state == kRetracted) return busy(image_dir, *there, "its origin took the hand-over back and goes on there");
    switch (there->state == kEnded ? Liveness::Gone : liveness_of(there->owner)) {
      case Liveness::Alive: return busy(image_dir, *there, "that process is alive: end it first");
      case Liveness::Unknown:
        if (!force) return busy(image_dir, *there, "only there can be told whether it is alive; fence that host, then "
                                                   "use --force");
        break;
      case Liveness::Gone: break;
    }
    if (commit && !force)
      return busy(image_dir, *there, "the image is a hand-over's, and a standby that waits would resume it at once: if "
                                     "that is meant, use --force");
    claims.push_back(path);
  }
  for (const auto& path : claims)
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error("remove " + path);
  RETURN_IF_ERROR(sync_dir(image_dir));
  return static_cast<int>(claims.size());
}

int Ownership::free_slots(const std::string& image_dir, int slots, std::string* why) const {
  int n = 0;
  for (int slot = 1; slot <= slots; ++slot) {
    auto there = slot_claimed(image_dir, slot);
    if (!there) continue;
    auto no = *there ? why_not(image_dir, **there, false) : std::nullopt;
    if (!no) ++n;
    else if (why) *why = no->what;
  }
  return n;
}

}  // namespace supervise
