// The origin's way to its standby for a hand-over, by --standby: a directory that both hosts see
// (dir:PATH), or a connection to `supervise standby --listen` (HOST:PORT). Who may run the application
// is decided in one place: that directory, or the standby's own store.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "restore/image_store.h"
#include "restore/ownership.h"
#include "restore/rendezvous.h"
#include "supervisor/base/clock.h"
#include "supervisor/events.h"
#include "supervisor/shipper.h"

namespace supervise {

struct StandbyTarget {
  std::string standby;      // dir:PATH or HOST:PORT
  std::string tls_dir;      // HOST:PORT
  std::string images_dir;   // HOST:PORT: where images are made; empty: the default
  std::string app;
  bool over_network() const { return !standby.empty() && !standby.starts_with("dir:"); }
};

// Where an image is made that the standby is to get.
std::string images_of(const StandbyTarget& target);
Result<ShipTarget> ship_target(const StandbyTarget& target);
std::string describe_shipping(const ShipNews& news, const std::string& standby);

class StandbyLink {
 public:
  virtual ~StandbyLink() = default;
  // `known`: as ship_target() gave it before, so that no file must be read now.
  static Result<std::unique_ptr<StandbyLink>> open(const StandbyTarget& target, Events& events,
                                                   const std::optional<ShipTarget>& known = {});

  virtual Result<ImageStore> store() = 0;  // in which the image is made
  virtual Result<std::uint64_t> epoch() = 0;
  virtual Result<Answer> prepare(Deadline deadline) = 0;
  // CRIU begins to write the image there.
  virtual void begun(const ImageStore::Draft& draft) { (void)draft; }
  // The image is complete here: the standby gets it, verifies it, and answers.
  virtual Result<Answer> verify(const ImageRef& image, Millis patience) = 0;
  // ENOTRECOVERABLE: in doubt; it must be asked again until the answer is another.
  virtual Status commit(const Commit& commit) = 0;
  virtual Result<std::optional<Claim>> claimed() = 0;
  virtual void withdraw() = 0;
};

// For a supervisor's keeper: has the standby the application that process `dead` of this host handed over?
// A commit that nobody has claimed is taken back. An error: it can't be known now, ask again.
Result<bool> given_away(const StandbyTarget& target, pid_t dead);

}  // namespace supervise
