// Images to a standby that listens at HOST:PORT, while the application runs.
#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>

#include "supervisor/session.h"

namespace supervise {
namespace {

constexpr Millis kStall{60000};

}  // namespace

StandbyTarget Session::standby_target() const {
  return {config_.standby, config_.tls_dir, config_.images_dir, config_.name};
}

Status Session::learn_standby() {
  if (!standby_target().over_network() || ship_target_) return {};
  ASSIGN_OR_RETURN(ship_target_, ship_target(standby_target()));
  return {};
}

void Session::begin_shipping(const ImageStore::Draft& draft) {
  stop_shipping();  // of an older one
  if (auto s = learn_standby(); !s) events_.warn("ship.failed", s.error().message());
  if (!ship_target_) return;
  if (auto s = shipper_.follow(draft.dir_fd.get(), *ship_target_, true); !s) {
    events_.warn("ship.failed", s.error().message());
    return;
  }
  epoll_event event{};
  event.events = EPOLLIN;
  if (epoll_) epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, shipper_.fd(), &event);
}

void Session::stop_shipping() { shipper_.stop(); }

void Session::await_shipping() {
  Clock::time_point moved = Clock::now();
  std::uint64_t bytes = 0;
  while (shipper_.busy()) {
    pollfd p{shipper_.fd(), POLLIN, 0};
    poll(&p, 1, 500);
    while (const auto news = shipper_.read_news()) {
      if (news->bytes != bytes) moved = Clock::now();
      bytes = news->bytes;
      tell_shipping(*news);
    }
    if (Clock::now() - moved > kStall) {
      stop_shipping();
      events_.error("ship.failed", fmt::format("the image did not get to {}: nothing moved for {} s; `supervise images export` "
                                               "and `import` carry it there", config_.standby, kStall.count() / 1000));
    }
  }
}

void Session::serve_shipping() {
  while (const auto news = shipper_.read_news()) tell_shipping(*news);
}

void Session::tell_shipping(const ShipNews& news) {
  switch (news.kind) {
    case ShipNews::Progress:
      if (Clock::now() < next_ship_report_) break;
      next_ship_report_ = Clock::now() + Millis(2000);
      events_.info("ship.progress", fmt::format("{:.1f} MiB of the image are at {}",
                                                static_cast<double>(news.bytes) / (1 << 20), config_.standby));
      break;
    case ShipNews::Trouble:
      events_.warn("ship.trouble", fmt::format("{}; it is tried again until it works or a newer image is made", news.text));
      break;
    case ShipNews::Done:
      events_.info("ship.done", describe_shipping(news, config_.standby),
                   {{"bytes", static_cast<std::int64_t>(news.bytes)},
                    {"sent", static_cast<std::int64_t>(news.sent)},
                    {"ms", news.ms}});
      break;
    case ShipNews::Failed:
      events_.error("ship.failed", fmt::format("the image did not get to {}: {}; the application goes on",
                                               config_.standby, news.text));
      break;
  }
}

}  // namespace supervise
