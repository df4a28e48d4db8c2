#include "supervisor/claim_watch.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "restore/host_identity.h"
#include "restore/ownership.h"
#include "supervisor/base/worker.h"
#include "supervisor/copy_keeper.h"
#include "supervisor/session.h"

namespace supervise {
namespace {

constexpr Millis kStoreTime{10000};

// A claim that this process and those that go on in its place have. The image store may hang.
class OwnClaim {
 public:
  // `instance` 0: a hand-over's image.
  OwnClaim(std::string image, int instance) : image_(std::move(image)), instance_(instance) {}

  void pass_to_self() { owners_.push_back(HostIdentity::self()); }
  Status change(const std::function<void(Claim&)>& change = [](Claim&) {}) const {
    const HostIdentity self = HostIdentity::self();
    auto done = run_worker("the claim of image " + image_, Deadline::in(kStoreTime), [&]() -> Result<WorkerOutput> {
      RETURN_IF_ERROR(change_now(self, change));
      return WorkerOutput{};
    });
    return done ? Status() : Status(done.error());
  }
  Status end() const {
    return change([](Claim& claim) { claim.state = "ended"; });
  }

 private:
  Status change_now(const HostIdentity& self, const std::function<void(Claim&)>& change) const {
    Ownership ownership(image_.substr(0, image_.rfind('/')));
    ASSIGN_OR_RETURN(auto there, instance_ ? ownership.slot_claimed(image_, instance_) : ownership.claimed(image_));
    if (!there) return errno_error(ENOENT, "it is claimed by nobody");
    const auto former = std::find_if(owners_.begin(), owners_.end(),
                                     [&](const HostIdentity& owner) { return same_process(owner, there->owner); });
    const HostIdentity* in_place_of = former == owners_.end() ? nullptr : &*former;
    Claim claim = *there;
    claim.owner = self;
    change(claim);
    return instance_ ? ownership.update_slot(image_, instance_, claim, in_place_of)
                     : ownership.update_claim(image_, claim, in_place_of);
  }

  std::string image_;
  int instance_;
  std::vector<HostIdentity> owners_{HostIdentity::self()};  // one after the other; the claim may name an earlier one
};

class StandbyLine {
 public:
  explicit StandbyLine(UniqueFd fd) : fd_(std::move(fd)) {}
  int fd() const { return fd_.get(); }
  bool has_spoken() const {
    char byte;
    return recv(fd_.get(), &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN;
  }
  // False: the standby is gone.
  bool tell(const CopyNews& news) const { return send_news(fd_.get(), news); }

 private:
  UniqueFd fd_;
};

}  // namespace

void watch_claim(Session& session, Events& events, const std::string& image) {
  const auto claim = std::make_shared<OwnClaim>(image, 0);
  session.on_taken_over = [claim, &events] {
    claim->pass_to_self();
    if (auto s = claim->change(); !s) events.error("claim.outdated", s.error().message());
  };
  session.on_over = [claim](int) { claim->end().ignore(); };
}

Status note_first_io(const std::string& image, std::int64_t unix_ns) {
  return OwnClaim(image, 0).change([&](Claim& claim) { claim.first_io_unix_ns = unix_ns; });
}

void watch_standby(Session& session, Events& events, UniqueFd fd, const std::string& image, int instance) {
  const auto line = std::make_shared<StandbyLine>(std::move(fd));
  const auto claim = std::make_shared<OwnClaim>(image, instance);
  const auto answers = std::make_shared<bool>(false);
  session.watch(line->fd(), [&session, &events, line, answers] {
    if (*answers || !line->has_spoken()) return;
    *answers = true;
    if (auto s = session.open_control(); !s) events.warn("control.unavailable", s.error().message());
    session.outlive();
  });
  session.on_taken_over = [&session, &events, line, claim, answers] {
    *answers = false;  // it says it again
    claim->pass_to_self();
    CopyNews news;
    news.kind = CopyNews::TakenOver;
    news.pid = getpid();
    news.init = session.world_init();
    if (line->tell(news)) return;
    // An activation that no store arbitrated has no claim.
    if (auto s = claim->change(); !s && s.error().err != ENOENT) events.error("claim.outdated", s.error().message());
  };
  session.on_over = [line, claim](int status) {
    CopyNews news;
    news.kind = CopyNews::Over;
    news.status = status;
    if (!line->tell(news)) claim->end().ignore();
  };
}

}  // namespace supervise
