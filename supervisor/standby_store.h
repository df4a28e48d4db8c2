// The standby's two helpers that touch the image store, so that a store that hangs holds neither the
// standby nor what is parked in it. Both are forked processes that end with the standby.
//  StoreWatch: beats, answers the origin's requests, and tells which images there are.
//  StoreClaims: takes claims of warm images and keeps them up to date.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "restore/ownership.h"
#include "supervisor/base/clock.h"
#include "supervisor/base/helper.h"
#include "supervisor/events.h"
#include "supervisor/options.h"
#include "supervisor/standby_plan.h"

namespace supervise {

struct StoreNews {
  std::vector<SeenImage> images;
  std::string committed;  // directory of the newest image when a hand-over has committed it
  std::string trouble;    // why the store can't be read; images are as they were then
};

class StoreWatch {
 public:
  // `in_child` lets go, in it, of what belongs to the standby alone.
  Status start(const StandbyOptions& options, Events& events, const std::string& app_dir,
               const std::function<void()>& in_child);
  // What is told in beats, and whether the origin is answered at all.
  void tell(const std::string& level, bool answers, const std::vector<std::string>& holds);
  std::optional<StoreNews> read_news();
  Helper& process() { return helper_; }

 private:
  Helper helper_;
};

struct ClaimOrder {
  std::string image;
  int slots = 1, from = 1;
  HostIdentity owner;
  std::vector<std::pair<std::string, std::uint64_t>> files;  // must have these sizes still
};

struct ClaimAnswer {
  int slot = 0;           // > 0: claimed
  bool taken = false;     // somebody else has it, or the files have changed: no activation
  std::string why;
};

class StoreClaims {
 public:
  Status start(Events& events, const std::string& app_dir, const std::function<void()>& in_child);
  // A copy is ready: what its claim needs is written now.
  void prepare(const ClaimOrder& order);
  // One at a time; the answer comes by read_answer().
  bool claim(const ClaimOrder& order);
  std::optional<ClaimAnswer> read_answer();
  // "running", "ended": durable, in the background. "claimed" gives it back. `former`: who had it until now.
  void update(const std::string& image, int slot, const HostIdentity& owner, const std::string& state,
              const HostIdentity* former = nullptr);
  Helper& process() { return helper_; }
  const Helper& process() const { return helper_; }

 private:
  Helper helper_;
};

}  // namespace supervise
