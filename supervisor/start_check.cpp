#include "supervisor/start_check.h"

#include <fmt/format.h>
#include <unistd.h>

#include "restore/host_identity.h"
#include "restore/image_store.h"
#include "restore/ownership.h"

namespace supervise {
namespace {

constexpr const char* kMark = "/.handed-over";
constexpr Millis kConnect{3000}, kAnswer{10000};

Status verdict(const std::string& app, const std::string& image, const std::optional<Claim>& claim) {
  if (claim && (claim->state == "ended" || claim->state == "retracted" || liveness_of(claim->owner) == Liveness::Gone))
    return {};
  const std::string what =
      !claim ? std::string("its hand-over is committed, and a standby may resume it at any moment")
             : fmt::format("it was handed over to {} and runs there", describe(claim->owner));
  return errno_error(EBUSY, fmt::format("{}: {} (image {}); a second copy would write the same data. Start `supervise "
                                        "standby` here instead, or, when that host is fenced, give --take-over",
                                        app, what, image));
}

Status check_over_network(const StandbyTarget& target, Events& events) {
  std::string handed;  // the image here that says so
  if (auto store = ImageStore::open(images_of(target), target.app, false))
    if (auto newest = store->newest(); newest && *newest && access(((*newest)->dir + kMark).c_str(), F_OK) == 0)
      handed = (*newest)->dir;
  const auto ask = [&]() -> Result<RemoteStandby::State> {
    ASSIGN_OR_RETURN(const auto ship, ship_target(target));
    ASSIGN_OR_RETURN(auto remote, RemoteStandby::connect(ship.tls, ship.where, ship.app, Deadline::in(kConnect)));
    return remote.state(Deadline::in(kAnswer));
  };
  auto state = ask();
  if (state) {
    if (!state->commit) return {};
    return verdict(target.app, fmt::format("{} at {}", state->committed, target.standby), state->claim);
  }
  if (handed.empty()) {
    events.warn("standby.unreachable", fmt::format("{}: no image gets there before it can be reached",
                                                   state.error().message()));
    return {};
  }
  return errno_error(EBUSY, fmt::format("{}: it was handed over to the standby at {} (image {}), which can't be asked "
                                        "whether it runs there ({}); when that host is fenced, give --take-over",
                                        target.app, target.standby, handed, state.error().message()));
}

}  // namespace

Status check_not_elsewhere(const StandbyTarget& target, Events& events) {
  if (target.over_network()) return check_over_network(target, events);
  if (!target.standby.starts_with("dir:")) return {};
  auto store = ImageStore::open(target.standby.substr(4), target.app, false);
  if (!store) return {};  // never used yet
  Ownership ownership(store->dir());
  auto image = ownership.newest_committed();
  if (!image || image->empty()) return {};
  auto claim = ownership.claimed(*image);
  if (!claim) return {};
  return verdict(target.app, *image, *claim);
}

Status note_handed_over(const std::string& image_dir, const std::string& standby) {
  return write_file_durably(image_dir + kMark, standby + "\n");
}

void forget_handed_over(const std::string& image_dir) {
  if (!image_dir.empty()) unlink((image_dir + kMark).c_str());
}

}  // namespace supervise
