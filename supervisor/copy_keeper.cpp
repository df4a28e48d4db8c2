#include "supervisor/copy_keeper.h"

#include <fmt/format.h>
#include <sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "restore/criu.h"
#include "restore/host_facts.h"
#include "restore/host_identity.h"
#include "restore/image_needs.h"
#include "restore/image_store.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/claim_watch.h"
#include "supervisor/pinned_image.h"
#include "supervisor/resume.h"
#include "supervisor/standby_plan.h"

namespace supervise {
namespace {

using nlohmann::json;

constexpr Millis kTellEvery{1000};

std::string joined(const std::vector<std::string>& all) {
  std::string out;
  for (std::size_t i = 0; i < all.size() && i < 3; ++i) out += (i ? "; " : "") + all[i];
  if (all.size() > 3) out += fmt::format("; and {} more", all.size() - 3);
  return out;
}

class CopyKeeper {
 public:
  CopyKeeper(const StandbyOptions& options, Events& events, const CopyPlan& plan, UniqueFd line)
      : options_(options), events_(events), plan_(plan), line_(std::move(line)) {}

  int run() {
    if (auto s = look_at_image(); !s) return give_up(CopyNews::Refused, s.error());
    if (auto s = prepare(); !s) return give_up(CopyNews::Failed, s.error());
    // From here on the end of the line tells of the standby's end, and a message that came before it
    // is seen before it.
    prctl(PR_SET_PDEATHSIG, 0);
    ready_.kind = CopyNews::Ready;
    cpu_set_t processors;
    const bool known = sched_getaffinity(0, sizeof processors, &processors) == 0;
    tell(ready_);
    char message[1 << 14];
    const ssize_t n = wait(message, sizeof message);
    if (n <= 0) {
      if (resume_) resume_->drop();
      return n == 0 ? 0 : 125;
    }
    // Parked: nothing comes before this. A signal that is pending is taken before any instruction of
    // the application.
    const auto began = Clock::now();
    const std::int64_t woken = unix_now_ns();
    fault_point("standby.wake").ignore();
    instance_ = atoi(std::string(message, static_cast<std::size_t>(std::min<ssize_t>(n, 16))).c_str());
    if (parked_) {
      wake();
    } else if (auto s = restore_now(); !s) {
      return give_up(CopyNews::Failed, s.error());
    }
    CopyNews awake;
    awake.kind = CopyNews::Awake;
    awake.woken_unix_ns = woken;
    awake.wake_ms = ms_between(began, Clock::now());
    tell(awake);
    if (known) sched_setaffinity(0, sizeof processors, &processors);  // Standby::gather
    fault_point("standby.awake").ignore();
    return supervise(std::string(message, static_cast<std::size_t>(n)));
  }

 private:
  void tell(const CopyNews& news) {
    const std::string text = news_to_text(news);
    (void)!send(line_.get(), text.data(), text.size(), MSG_NOSIGNAL);
  }

  int give_up(CopyNews::Kind kind, const Error& error) {
    if (resume_) resume_->drop();
    CopyNews news;
    news.kind = kind;
    news.text = error.message();
    tell(news);
    return 125;
  }

  // What speaks against the image whatever is tried.
  Status look_at_image() {
    const auto began = Clock::now();
    RETURN_IF_ERROR(fault_point("standby.look"));
    ASSIGN_OR_RETURN(manifest_, load_manifest(plan_.image));
    const HostFacts here = host_facts();
    ASSIGN_OR_RETURN(const Criu criu, Criu::find());
    const std::string version = criu_version(criu.binary(), Deadline::in(Millis(5000))).value_or("");
    if (auto why = why_foreign(manifest_, options_.name, here, version))
      return plain_error(fmt::format("image {}: {}", plan_.image, *why));
    RETURN_IF_ERROR(covers(options_, manifest_));
    RETURN_IF_ERROR(has_files_of(plan_.image, manifest_));
    for (const auto& part : manifest_.parts) ready_.image_bytes += part.size;
    if (!plan_.verified) {
      std::uint64_t done = 0;
      auto last = Clock::now();
      auto whole = verify_image(plan_.image, [&](std::uint64_t n) {
        done += n;
        if (Clock::now() - last < kTellEvery) return;
        last = Clock::now();
        CopyNews news;
        news.kind = CopyNews::Progress;
        news.text = fmt::format("verified {:.0f} of {:.0f} MiB", static_cast<double>(done) / (1 << 20),
                                static_cast<double>(ready_.image_bytes) / (1 << 20));
        tell(news);
      });
      if (!whole) return whole.error();
    }
    ready_.verify_ms = ms_between(began, Clock::now());
    ASSIGN_OR_RETURN(const ImageNeeds needs, image_needs(plan_.image));
    ready_.clash = joined(why_not_twice(needs, manifest_.paths));
    level_ = plan_.level;
    if (level_ != ReadyLevel::Parked) return fault_point("standby.verified");
    if (const auto why = why_not_parked(needs); !why.empty()) {
      lower(fmt::format("{}: a parked copy would take connections that nobody answers", joined(why)));
    } else {
      Resume probe(options_, events_, plan_.image, manifest_);
      for (const auto& name : probe.paths_with_hooks())
        lower(fmt::format("--path-up {} may fence the host that runs the application, and is run at the "
                          "activation only", name));
      if (const auto changed = probe.drifts(); !changed) lower(changed.error().message());
      else if (!changed.value().empty()) lower(changed.value().front().describe());
    }
    return fault_point("standby.verified");
  }

  void lower(const std::string& why) {
    level_ = ReadyLevel::Cached;
    ready_.text += (ready_.text.empty() ? "" : "; ") + why;
  }

  Status prepare() {
    resume_.emplace(options_, events_, plan_.image, manifest_);
    if (level_ == ReadyLevel::Cached) {
      ready_.pinned_bytes = pinned_.pin(plan_.image, manifest_, ready_.text);
      RETURN_IF_ERROR(fault_point("standby.cached"));
    }
    if (level_ != ReadyLevel::Image && resume_->paths_with_hooks().empty())
      RETURN_IF_ERROR(resume_->make_world());
    if (level_ == ReadyLevel::Parked) {
      const auto began = Clock::now();
      RETURN_IF_ERROR(restore());
      ready_.restore_ms = ms_between(began, Clock::now());
      parked_ = true;
      for (const ImageFile& file : manifest_.files)
        for (const ImagePath& p : manifest_.paths)
          if (file.path.starts_with(p.place + "/"))
            ready_.files.emplace_back(own_way(options_, p.name)->dirs[0] + file.path.substr(p.place.size()),
                                      file.size);
      RETURN_IF_ERROR(fault_point("standby.parked"));
    }
    static constexpr const char* kLevels[] = {"image", "cached", "parked"};
    ready_.level = kLevels[static_cast<int>(level_)];
    return {};
  }

  // CRIU's log and PID file must not be in the image, which other copies and hosts use too. A tmpfs
  // that is mounted nowhere goes with its last descriptor.
  Status restore() {
    const UniqueFd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
    if (!context || fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
      return errno_error("make a tmpfs");
    const UniqueFd work(fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
    if (!work) return errno_error("make a tmpfs");
    return resume_->restore(work.get());
  }

  Status restore_now() {
    // It was verified when it was made ready. Since then somebody may have touched it.
    if (level_ == ReadyLevel::Image) {
      if (auto whole = verify_image(plan_.image); !whole) return whole.error();
    }
    RETURN_IF_ERROR(resume_->paths_up());
    if (auto s = restore(); !s) {
      resume_->drop();
      resume_->paths_down();
      return s;
    }
    wake();
    pinned_.unpin();
    return {};
  }

  void wake() {
    Session& session = resume_->session();
    session.tell_generation(plan_.generation, instance_).ignore();  // make_world has told why there is none
    if (options_.activate_signal > 0) kill(session.first_process(), options_.activate_signal);
    session.wake();
  }

  // The length of the message; 0 when the standby is gone, -1 when the copy is.
  ssize_t wait(char* message, std::size_t size) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);  // blocked already
    const UniqueFd ends(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    for (;;) {
      if (parked_) {
        signalfd_siginfo info;
        while (read(ends.get(), &info, sizeof info) > 0) {
        }
        resume_->session().serve_tracees();
        if (!resume_->session().has_processes()) return -1;
      }
      pollfd p[2] = {{line_.get(), POLLIN, 0}, {ends.get(), POLLIN, 0}};
      poll(p, 2, -1);
      if (p[0].revents == 0) continue;
      const ssize_t n = recv(line_.get(), message, size, MSG_DONTWAIT);
      if (n >= 0) return n;
      if (errno != EAGAIN && errno != EINTR) return 0;
    }
  }

  int supervise(const std::string& message) {
    const json order = json::parse(message.substr(std::min(message.find('{'), message.size())), nullptr, false);
    Session& session = resume_->session();
    session.on_activated(order.is_object() ? order.value("control", "") : "",
                         order.is_object() ? order.value("activated", "") : "", plan_.image, instance_);
    watch_standby(session, events_, std::move(line_), plan_.image, instance_);
    const int status = session.loop();
    resume_->drop();
    return status;
  }

  const StandbyOptions& options_;
  Events& events_;
  const CopyPlan& plan_;
  UniqueFd line_;
  Manifest manifest_;
  ReadyLevel level_ = ReadyLevel::Image;
  CopyNews ready_;
  std::optional<Resume> resume_;
  PinnedImage pinned_;
  bool parked_ = false;
  int instance_ = 1;
};

}  // namespace

int keep_copy(const StandbyOptions& options, Events& events, const CopyPlan& plan, UniqueFd line) {
  return CopyKeeper(options, events, plan, std::move(line)).run();
}

}  // namespace supervise
