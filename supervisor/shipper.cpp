#include "supervisor/shipper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "supervisor/base/fault_point.h"

namespace supervise {
namespace {

using nlohmann::json;

constexpr Millis kConnect{5000}, kPiece{30000}, kHash{600000};
constexpr Millis kImpatience{20000}, kReport{500};
constexpr Millis kFirstPause{100}, kLongestPause{10000};
constexpr int kWatchMs = 5;
constexpr int kRounds = 3;

class Sender {
 public:
  Sender(int line, int dir_fd, const ShipTarget& target, bool patient)
      : line_(line), dir_(fmt::format("/proc/self/fd/{}", dir_fd)), target_(target), patient_(patient) {}

  int run() {
    Clock::time_point lost{};
    Millis pause = kFirstPause;
    for (;;) {
      auto done = go_on();
      if (done) {
        if (*done) return 0;
        lost = {};
        pause = kFirstPause;
        if (!complete_ && !wait_for_parent(kWatchMs)) return 0;
        continue;
      }
      if (remote_) sent_before_ += remote_->bytes_sent();
      remote_.reset();
      if (final_) {
        tell({{"kind", "failed"}, {"text", done.error().message()}});
        return 1;
      }
      if (lost == Clock::time_point{}) {
        lost = Clock::now();
        tell({{"kind", "trouble"}, {"text", done.error().message()}});
      }
      // While the image is being made nobody waits for us.
      if (!patient_ && complete_ && Clock::now() - std::max(lost, completed_at_) > kImpatience) {
        tell({{"kind", "failed"}, {"text", done.error().message()}});
        return 1;
      }
      if (!wait_for_parent(static_cast<int>(pause.count()))) return 0;
      pause = std::min(pause * 2, patient_ ? kLongestPause : Millis(1000));
    }
  }

 private:
  // False when the parent has nothing more to say.
  bool wait_for_parent(int ms) {
    pollfd p{line_, POLLIN, 0};
    if (complete_) {
      // It says nothing any more; its end ends us.
      poll(&p, 1, ms);
      return true;
    }
    if (poll(&p, 1, ms) <= 0) return true;
    char text[16];
    if (recv(line_, text, sizeof text, MSG_DONTWAIT) <= 0) return false;
    complete_ = true;
    completed_at_ = Clock::now();
    return true;
  }

  void tell(json news) {
    const std::string text = news.dump(-1, ' ', false, json::error_handler_t::replace);
    (void)!::send(line_, text.data(), text.size(), MSG_NOSIGNAL);
  }

  void report() {
    if (Clock::now() - reported_ < kReport) return;
    reported_ = Clock::now();
    tell({{"kind", "progress"}, {"bytes", bytes()}, {"sent", sent_before_ + remote_->bytes_sent()}});
  }

  std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const auto& [name, n] : there_) sum += n;
    return sum;
  }

  // True: the image is there. False: all that there is now was sent.
  Result<bool> go_on() {
    if (!remote_) {
      ASSIGN_OR_RETURN(auto remote, RemoteStandby::connect(target_.tls, target_.where, target_.app, Deadline::in(kConnect)));
      std::optional<ArrivedImage> arrived;
      ASSIGN_OR_RETURN(there_, remote.begin(upload_, arrived, Deadline::in(kPiece)));
      remote_.emplace(std::move(remote));
      if (arrived) return succeed(*arrived);
    }
    const bool all = complete_;
    ASSIGN_OR_RETURN(auto names, names_in(dir_));
    std::erase_if(names, [](const std::string& n) { return !is_part_name(n); });
    for (const auto& name : names) RETURN_IF_ERROR(send_part(name));
    return all ? finish() : Result<bool>(false);
  }

  Status send_part(const std::string& name) {
    UniqueFd fd(open((dir_ + "/" + name).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return errno == ENOENT ? ok_status() : Status(errno_error("open " + name));
    std::uint64_t& at = there_[name];
    for (;;) {
      const ssize_t n = pread(fd.get(), buffer_.data(), buffer_.size(), static_cast<off_t>(at));
      if (n < 0) return errno_error("read " + name);
      if (n == 0) return {};
      RETURN_IF_ERROR(fault_point("ship.data"));
      RETURN_IF_ERROR(remote_->data(name, at, buffer_.data(), static_cast<std::size_t>(n), Deadline::in(kPiece)));
      at += static_cast<std::uint64_t>(n);
      report();
      if (!complete_ && !wait_for_parent(0)) _exit(0);
    }
  }

  Result<bool> finish() {
    ASSIGN_OR_RETURN(const auto manifest, read_small_file(dir_ + "/" + kManifestName));
    RETURN_IF_ERROR(fault_point("ship.finish"));
    std::vector<std::string> damaged;
    auto arrived = remote_->finish(manifest, damaged, Deadline::in(kHash));
    if (!arrived) {
      // What the standby says itself, it will say again.
      const int err = arrived.error().err;
      final_ = err != ECONNRESET && err != ETIMEDOUT && err != EPIPE && err != ECONNREFUSED && err != EHOSTUNREACH &&
               err != ENETUNREACH;
      return arrived.error();
    }
    if (damaged.empty()) return succeed(*arrived);
    if (++rounds_ >= kRounds) {
      final_ = true;
      return plain_error(fmt::format("part {} was damaged on its way {} times", damaged.front(), rounds_));
    }
    for (const auto& name : damaged) there_[name] = 0;
    return false;
  }

  bool succeed(const ArrivedImage& arrived) {
    tell({{"kind", "done"}, {"image", arrived.image}, {"generation", arrived.generation}, {"bytes", bytes()},
          {"sent", sent_before_ + remote_->bytes_sent()}, {"ms", ms_between(completed_at_, Clock::now())}});
    return true;
  }

  int line_;
  std::string dir_;
  const ShipTarget& target_;
  bool patient_, complete_ = false, final_ = false;
  std::string upload_ = new_upload_id();
  std::optional<RemoteStandby> remote_;
  std::map<std::string, std::uint64_t> there_;
  std::uint64_t sent_before_ = 0;
  int rounds_ = 0;
  Clock::time_point completed_at_{}, reported_{};
  std::vector<char> buffer_ = std::vector<char>(wire::kMaxBytes);
};

// All but these and the standard streams.
void close_others(std::vector<int> keep) {
  std::sort(keep.begin(), keep.end());
  unsigned from = 3;
  for (const int fd : keep) {
    if (static_cast<unsigned>(fd) > from) close_range(from, static_cast<unsigned>(fd) - 1, 0);
    from = static_cast<unsigned>(fd) + 1;
  }
  close_range(from, ~0u, 0);
}

}  // namespace

Status Shipper::follow(int dir_fd, const ShipTarget& target, bool patient) {
  return helper_.start([&](int line) {
    close_others({line, dir_fd});
    signal(SIGPIPE, SIG_IGN);
    return Sender(line, dir_fd, target, patient).run();
  });
}

void Shipper::complete() { helper_.send_text("complete"); }

std::optional<ShipNews> Shipper::read_news() {
  if (!busy()) return std::nullopt;
  auto text = helper_.receive();
  ShipNews news;
  if (!text) {
    if (busy()) return std::nullopt;
    helper_.stop();
    news.kind = ShipNews::Failed;
    news.text = "the process that sends the image ended";
    return news;
  }
  const json j = json::parse(*text, nullptr, false);
  if (!j.is_object()) return std::nullopt;
  const std::string kind = j.value("kind", "");
  news.kind = kind == "done" ? ShipNews::Done : kind == "failed" ? ShipNews::Failed
              : kind == "trouble" ? ShipNews::Trouble : ShipNews::Progress;
  news.image = {j.value("image", ""), j.value("generation", std::uint64_t{0})};
  news.text = j.value("text", "");
  news.bytes = j.value("bytes", std::uint64_t{0});
  news.sent = j.value("sent", std::uint64_t{0});
  news.ms = j.value("ms", 0.0);
  if (news.kind == ShipNews::Done || news.kind == ShipNews::Failed) helper_.stop();
  return news;
}

std::optional<ShipNews> Shipper::await(Millis patience, const std::function<void(const ShipNews&)>& told) {
  Deadline deadline = Deadline::in(patience);
  while (busy()) {
    pollfd p{fd(), POLLIN, 0};
    if (poll(&p, 1, deadline.left_ms()) < 0 && errno != EINTR) break;
    auto news = read_news();
    if (news && (news->kind == ShipNews::Done || news->kind == ShipNews::Failed)) return news;
    if (news && news->kind == ShipNews::Progress) deadline = Deadline::in(patience);
    if (news && told) told(*news);
    if (deadline.passed()) break;
  }
  return std::nullopt;
}

}  // namespace supervise
