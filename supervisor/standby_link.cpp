#include "supervisor/standby_link.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "restore/host_identity.h"
#include "restore/store_files.h"
#include "supervisor/options.h"
#include "supervisor/start_check.h"

namespace supervise {
namespace {

constexpr Millis kConnect{5000}, kAnswer{30000};

std::string dir_of(const StandbyTarget& target) { return target.standby.substr(4); }

class DirLink : public StandbyLink {
 public:
  explicit DirLink(ImageStore store) : store_(std::move(store)), rendezvous_(store_.dir()), ownership_(store_.dir()) {}

  Result<ImageStore> store() override { return store_; }
  Result<std::uint64_t> epoch() override { return ownership_.epoch(); }
  Result<Answer> prepare(Deadline deadline) override {
    ASSIGN_OR_RETURN(const auto newest, store_.newest());
    generation_ = newest ? newest->generation + 1 : 1;
    RETURN_IF_ERROR(rendezvous_.request("prepare", generation_, "", HostIdentity::self()));
    return rendezvous_.await_answer("prepare", generation_, deadline);
  }
  Result<Answer> verify(const ImageRef& image, Millis patience) override {
    image_ = image.dir;
    RETURN_IF_ERROR(rendezvous_.request("verify", generation_, image_, HostIdentity::self()));
    return rendezvous_.await_answer("verify", generation_, Deadline::in(patience));
  }
  Status commit(const Commit& commit) override { return ownership_.commit(image_, commit); }
  Result<std::optional<Claim>> claimed() override { return ownership_.claimed(image_); }
  void withdraw() override {
    if (generation_) rendezvous_.withdraw(generation_);
  }

 private:
  ImageStore store_;
  Rendezvous rendezvous_;
  Ownership ownership_;
  std::uint64_t generation_ = 0;
  std::string image_;
};

class NetLink : public StandbyLink {
 public:
  NetLink(StandbyTarget target, ShipTarget ship, Events& events)
      : target_(std::move(target)), ship_(std::move(ship)), events_(events) {}

  Result<ImageStore> store() override { return ImageStore::open(images_of(target_), target_.app, true); }
  Result<std::uint64_t> epoch() override {
    RETURN_IF_ERROR(connect());
    return remote_->epoch(Deadline::in(kAnswer));
  }
  Result<Answer> prepare(Deadline deadline) override {
    RETURN_IF_ERROR(connect());
    return remote_->ask("prepare", "", deadline);
  }
  void begun(const ImageStore::Draft& draft) override {
    if (auto s = shipper_.follow(draft.dir_fd.get(), ship_, false); !s) events_.warn("ship.trouble", s.error().message());
  }
  Result<Answer> verify(const ImageRef& image, Millis patience) override {
    local_ = image.dir;
    if (!shipper_.busy()) {
      // It could not be followed from the start.
      UniqueFd fd(::open(image.dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!fd) return errno_error("open " + image.dir);
      RETURN_IF_ERROR(shipper_.follow(fd.get(), ship_, false));
    }
    shipper_.complete();
    auto said = Clock::now();
    const auto news = shipper_.await(patience, [&](const ShipNews& n) {
      if (n.kind == ShipNews::Trouble) events_.warn("ship.trouble", n.text + "; it is tried again");
      if (n.kind != ShipNews::Progress || Clock::now() - said < Millis(2000)) return;
      said = Clock::now();
      events_.info("ship.progress", fmt::format("{:.1f} MiB of the image are at {}", static_cast<double>(n.bytes) / (1 << 20),
                                                target_.standby));
    });
    if (!news || news->kind != ShipNews::Done) {
      shipper_.stop();
      return plain_error(fmt::format("the image did not get to {}: {}", target_.standby,
                                     news ? news->text : fmt::format("nothing moved for {} s", patience.count() / 1000)));
    }
    arrived_ = news->image;
    events_.info("ship.done", describe_shipping(*news, target_.standby),
                 {{"bytes", static_cast<std::int64_t>(news->bytes)}, {"sent", static_cast<std::int64_t>(news->sent)},
                  {"ms", news->ms}});
    RETURN_IF_ERROR(connect());
    return remote_->ask("verify", arrived_.image, Deadline::in(patience));
  }
  Status commit(const Commit& commit) override {
    Commit theirs = commit;
    theirs.generation = arrived_.generation;
    // Whoever starts the application here again must ask there first; before the commit, since a crash may follow it.
    if (auto s = note_handed_over(local_, target_.standby); !s) return s;
    if (auto s = connect(); !s) return doubt(s);
    auto s = remote_->commit(arrived_.image, theirs, Deadline::in(kAnswer));
    if (!s && s.error().err == ENOTRECOVERABLE) {
      in_doubt_ = true;
      remote_.reset();
    }
    return s;
  }
  Result<std::optional<Claim>> claimed() override {
    RETURN_IF_ERROR(connect());
    auto claim = remote_->claimed(arrived_.image, Deadline::in(Millis(5000)));
    if (!claim) remote_.reset();
    return claim;
  }
  void withdraw() override {
    shipper_.stop();
    forget_handed_over(local_);
    if (connect() && arrived_.generation) remote_->withdraw(arrived_.generation, Deadline::in(kConnect));
  }

 private:
  // What was asked once and not answered stays in doubt whatever stands in the way now.
  Status doubt(const Status& s) const {
    return in_doubt_ ? Status(errno_error(ENOTRECOVERABLE, s.error().message())) : s;
  }
  Status connect() {
    // The standby ends a connection on which nothing is said; a dump may have taken long.
    if (remote_ && Clock::now() - used_ > Millis(2000)) remote_.reset();
    used_ = Clock::now();
    if (remote_) return {};
    ASSIGN_OR_RETURN(auto remote, RemoteStandby::connect(ship_.tls, ship_.where, ship_.app, Deadline::in(kConnect)));
    remote_.emplace(std::move(remote));
    return {};
  }

  StandbyTarget target_;
  ShipTarget ship_;
  Events& events_;
  Shipper shipper_;
  std::optional<RemoteStandby> remote_;
  Clock::time_point used_{};
  ArrivedImage arrived_;
  std::string local_;
  bool in_doubt_ = false;
};

bool is_ours(const std::optional<Commit>& commit, pid_t dead) {
  return commit && commit->origin.pid == dead && commit->origin.host == HostIdentity::self().host;
}

}  // namespace

std::string images_of(const StandbyTarget& target) {
  if (!target.images_dir.empty()) return target.images_dir;
  return target.standby.starts_with("dir:") ? dir_of(target) : default_images_dir();
}

std::string describe_shipping(const ShipNews& news, const std::string& standby) {
  const auto mib = [](std::uint64_t n) { return static_cast<double>(n) / (1 << 20); };
  return fmt::format("{:.1f} MiB are at {} as image {} ({:.1f} MiB over the network), {:.0f} ms after they were complete here",
                     mib(news.bytes), standby, news.image.image, mib(news.sent), news.ms);
}

Result<ShipTarget> ship_target(const StandbyTarget& target) {
  ASSIGN_OR_RETURN(auto where, parse_net_address(target.standby, false));
  ASSIGN_OR_RETURN(auto tls, TlsContext::load(target.tls_dir));
  return ShipTarget{std::move(where), std::move(tls), target.app};
}

Result<std::unique_ptr<StandbyLink>> StandbyLink::open(const StandbyTarget& target, Events& events,
                                                       const std::optional<ShipTarget>& known) {
  if (target.over_network()) {
    auto ship = known ? Result<ShipTarget>(*known) : ship_target(target);
    if (!ship) return ship.error();
    return std::unique_ptr<StandbyLink>(new NetLink(target, ship.take(), events));
  }
  if (!target.standby.starts_with("dir:"))
    return plain_error("no standby: start with --standby dir:PATH or --standby HOST:PORT");
  ASSIGN_OR_RETURN(auto store, ImageStore::open(dir_of(target), target.app, true));
  return std::unique_ptr<StandbyLink>(new DirLink(std::move(store)));
}

Result<bool> given_away(const StandbyTarget& target, pid_t dead) {
  const auto verdict = [](const Status& back) -> Result<bool> {
    if (back) return false;
    if (back.error().err == EBUSY) return true;
    return back.error();
  };
  if (target.over_network()) {
    ASSIGN_OR_RETURN(const auto ship, ship_target(target));
    ASSIGN_OR_RETURN(auto remote, RemoteStandby::connect(ship.tls, ship.where, ship.app, Deadline::in(kConnect)));
    ASSIGN_OR_RETURN(const auto state, remote.state(Deadline::in(kAnswer)));
    if (!is_ours(state.commit, dead)) return false;
    return verdict(remote.retract(state.committed, Deadline::in(kAnswer)));
  }
  if (!target.standby.starts_with("dir:")) return false;
  ASSIGN_OR_RETURN(const ImageStore store, ImageStore::open(dir_of(target), target.app, true));
  Ownership ownership(store.dir());
  ASSIGN_OR_RETURN(const std::string image, ownership.newest_committed());
  if (image.empty()) return false;
  ASSIGN_OR_RETURN(const auto commit, ownership.committed(image));
  if (!is_ours(commit, dead)) return false;
  return verdict(ownership.retract(image));
}

}  // namespace supervise
