#include "supervisor/standby.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "restore/criu.h"
#include "restore/host_identity.h"
#include "restore/image_store.h"
#include "restore/rendezvous.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/front.h"
#include "supervisor/resume.h"
#include "supervisor/session_entry.h"

namespace supervise {
namespace {

constexpr Millis kLastWords{5000};
constexpr int kForwarded[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGTSTP};

// Several processes write to them from now on, each with a description of its own.
void append_to_standard_streams() {
  for (int fd : {1, 2}) {
    struct stat st{};
    const int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && !(flags & O_APPEND))
      fcntl(fd, F_SETFL, flags | O_APPEND);
  }
}

}  // namespace

Standby::Standby(const StandbyOptions& options, Events& events, std::string app_dir, std::unique_ptr<ImageReceiver> receiver)
    : options_(options),
      events_(events),
      app_dir_(std::move(app_dir)),
      receiver_(std::move(receiver)),
      commanded_(!options.activate_on_command) {}

Standby::~Standby() = default;

int Standby::running() const {
  int n = 0;
  for (const auto& [id, held] : copies_) n += held.view.state == CopyState::Running ? 1 : 0;
  return n;
}

int Standby::run() {
  const auto broken = [&](const Error& e) {
    events_.error("standby.failed", e.message());
    return 125;
  };
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (int s : kForwarded) sigaddset(&set, s);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal_fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  append_to_standard_streams();

  if (auto server = ControlServer::open(options_.name)) control_ = server.take();
  else if (server.error().err == EADDRINUSE) return broken(server.error());
  else events_.warn("control.unavailable", server.error().message());
  if (auto s = watch_.start(options_, events_, app_dir_, [this] { let_go_in_child(); }); !s) return broken(s.error());
  if (auto s = claims_.start(events_, app_dir_, [this] { let_go_in_child(); }); !s) return broken(s.error());
  if (receiver_)
    if (auto s = receiver_->start(events_, app_dir_, options_.name, [this] { let_go_in_child(); }); !s) return broken(s.error());
  events_.info("standby.ready", fmt::format("standing by for {} on {}{}", options_.name, app_dir_,
                                            receiver_ ? ", listening on " + receiver_->where() : std::string()));

  for (;;) {
    wait_for_events();
    if (control_) serve_control();
    begin_next_activation();
    serve_claims();
    serve_copies();
    settle_activated();
    if (auto status = serve_signals()) return *status;
    if (auto status = serve_store()) return *status;
    reap();
    if (auto status = resume_committed()) return *status;
    plan();
    if (auto status = status_if_over()) {
      if (!claims_.process().finish(Deadline::in(kLastWords)))
        events_.warn("standby.claim", "the store did not answer: the claim says still that the application runs");
      return *status;
    }
    begin_next_activation();
  }
}

void Standby::wait_for_events() {
  std::vector<pollfd> fds;
  const auto add = [&](int fd) {
    if (fd >= 0) fds.push_back({fd, POLLIN, 0});
  };
  if (control_) add(control_->fd());
  add(signal_fd_.get());
  add(watch_.process().fd());
  add(claims_.process().fd());
  for (const auto& [id, held] : copies_) add(held.copy->fd());
  int wait_ms = 1000;
  if (activation_ && activation_->claim_pending)
    wait_ms = std::min(wait_ms, Deadline(activation_->claim_until).left_ms());
  for (const auto& [id, held] : copies_)
    if (held.settle_at) wait_ms = std::min(wait_ms, Deadline(*held.settle_at).left_ms());
  if (!committed_.empty() && resume_again_ > Clock::now())
    wait_ms = std::min(wait_ms, Deadline(resume_again_).left_ms());
  readable_.clear();
  if (poll(fds.data(), fds.size(), wait_ms) <= 0) plan_due_ = reap_due_ = true;  // now and then, whatever was told
  for (const pollfd& p : fds)
    if (p.revents != 0) readable_.insert(p.fd);
}

// A descriptor that another process still has would keep a closed line open.
void Standby::let_go_in_child() {
  front::forget();
  if (control_) control_->forget();
  (void)control_.release();
  signal_fd_.reset();
  watch_.process().forget();
  claims_.process().forget();
  if (receiver_) receiver_->process().forget();
  for (auto& [id, held] : copies_) held.copy->forget();
}

void Standby::outlive_in_child() {
  if (receiver_) receiver_->close_listeners();
  let_go_in_child();
}

std::optional<int> Standby::serve_signals() {
  signalfd_siginfo info;
  while (read(signal_fd_.get(), &info, sizeof info) == sizeof info) {
    const int sig = static_cast<int>(info.ssi_signo);
    if (sig == SIGCHLD) {
      reap_due_ = true;
      continue;
    }
    if (running() > 0) {
      // The terminal has told everybody itself.
      if (info.ssi_code == SI_KERNEL) continue;
      for (auto& [id, held] : copies_)
        if (held.view.state == CopyState::Running && !held.copy->signal(sig)) held.signals.push_back(sig);
    } else if (sig == SIGTERM || sig == SIGINT || sig == SIGHUP || sig == SIGQUIT) {
      watch_.process().stop();
      Rendezvous(app_dir_).leave(HostIdentity::self());
      copies_.clear();
      events_.info("standby.stopped", fmt::format("ended by {}", strsignal(sig)));
      return 128 + sig;
    }
  }
  return std::nullopt;
}

std::optional<int> Standby::serve_store() {
  while (auto news = watch_.read_news()) {
    plan_due_ = true;
    if (news->trouble != trouble_) {
      trouble_ = news->trouble;
      if (trouble_.empty()) events_.info("standby.store", "the image store can be read again");
      else events_.warn("standby.store", "the image store can't be read, what is ready stays so: " + trouble_);
    }
    if (!news->trouble.empty()) continue;
    images_ = std::move(news->images);
    committed_ = news->committed;
  }
  if (receiver_ && receiver_->process().ended()) {
    events_.error("standby.receiver_ended", "the process that receives images ended; it is started again");
    poll(nullptr, 0, 200);
    if (auto s = receiver_->start(events_, app_dir_, options_.name, [this] { let_go_in_child(); }); !s)
      events_.error("standby.receiver_ended", s.error().message());
  }
  if (auto status = watch_.process().ended()) {
    events_.error("standby.watch_ended", fmt::format("the process that watches the store ended: {}",
                                                     exit_status_of(*status)));
    // With nothing ready here there is nothing to keep: whoever started us sees it.
    if (copies_.empty()) return exit_status_of(*status);
    poll(nullptr, 0, 200);
    watch_.start(options_, events_, app_dir_, [this] { let_go_in_child(); }).ignore();
    tell_level();
  }
  return std::nullopt;
}

std::optional<int> Standby::resume_committed() {
  if (committed_.empty() || !commanded_ || was_activated_ || activation_ || not_ours_.contains(committed_) ||
      resume_again_ > Clock::now())
    return std::nullopt;
  const std::string image = committed_;
  Ownership ownership(app_dir_);
  auto epoch = ownership.raise_epoch();
  Status claimed = epoch ? ownership.claim(image, *epoch) : Status(epoch.error());
  if (!claimed) {
    not_ours_.insert(image);
    events_.warn("standby.not_owner", fmt::format("{}: {}", image, claimed.error().message()));
    return std::nullopt;
  }
  // The origin may have taken the commit back in between.
  auto still = ownership.committed(image);
  if (!still || !*still) {
    resume_again_ = Clock::now() + Millis(500);
    return std::nullopt;
  }
  fault_point("handover.11.claimed").ignore();
  // What is ready is of an older state: nobody may wake it any more.
  if (!copies_.empty()) events_.info("standby.overtaken", fmt::format("{} copies of older images are ended for {}",
                                                                      copies_.size(), image));
  copies_.clear();
  auto manifest = verify_image(image);
  Status good = manifest ? covers(options_, *manifest) : Status(manifest.error());
  Result<int> status = 0;
  if (good) {
    events_.info("standby.resume", fmt::format("{} is ours, epoch {}", image, *epoch));
    watch_.process().stop();
    claims_.process().stop();
    signal_fd_.reset();
    control_.reset();
    status = resume_image(options_, events_, image, *manifest, &ownership);
  } else {
    status = good.error();
  }
  if (status) {
    Rendezvous(app_dir_).leave(HostIdentity::self());
    return *status;
  }
  events_.error("standby.resume_failed", status.error().message());
  ownership.release(image).ignore();
  if (++resume_failures_ >= kTries) {
    Rendezvous(app_dir_).leave(HostIdentity::self());
    return 125;
  }
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (int s : kForwarded) sigaddset(&set, s);
  signal_fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!control_)
    if (auto server = ControlServer::open(options_.name)) control_ = server.take();
  watch_.start(options_, events_, app_dir_, [this] { let_go_in_child(); }).ignore();
  claims_.start(events_, app_dir_, [this] { let_go_in_child(); }).ignore();
  resume_again_ = Clock::now() + Millis(500);
  return std::nullopt;
}

// All that was activated has ended: so do we, with its status.
std::optional<int> Standby::status_if_over() const {
  if (!was_activated_ || running() > 0 || activation_ || !application_status_) return std::nullopt;
  if (front::is_first_process() && !hooks_.empty()) return std::nullopt;  // a container ends with its PID 1
  return application_status_;
}

int run_standby(const StandbyOptions& options, Events& events) {
  const auto broken = [&](const Error& e) {
    events.error("standby.failed", e.message());
    return 125;
  };
  std::unique_ptr<ImageReceiver> receiver;
  std::string where = options.from.starts_with("dir:") ? options.from.substr(4) : std::string();
  if (!options.listen.empty()) {
    auto opened = ImageReceiver::open(options.listen, options.tls_dir);
    if (!opened) return broken(opened.error());
    receiver = opened.take();
    where = options.images_dir.empty() ? default_images_dir() : options.images_dir;
  }
  auto criu = Criu::find();
  if (!criu) return broken(criu.error());
  auto store = ImageStore::open(where, options.name, true);
  if (!store) return broken(store.error());
  return Standby(options, events, store->dir(), std::move(receiver)).run();
}

int run_restore(const StandbyOptions& options, Events& events) {
  const auto broken = [&](const Error& e) {
    events.error("restore.failed", e.message());
    return 125;
  };
  auto manifest = verify_image(options.image);
  if (!manifest) return broken(manifest.error());
  if (auto s = covers(options, *manifest); !s) return broken(s.error());
  Ownership ownership(options.image.substr(0, options.image.rfind('/')));
  auto commit = ownership.committed(options.image);
  const bool owned = commit && *commit;
  if (owned) {
    auto epoch = ownership.raise_epoch();
    if (!epoch) return broken(epoch.error());
    if (auto s = ownership.claim(options.image, *epoch); !s) return broken(s.error());
  } else if (manifest->reason == "handover") {
    return broken(plain_error("this image belongs to a hand-over that was never committed: the "
                              "application went on where it was"));
  }
  auto status = resume_image(options, events, options.image, *manifest, owned ? &ownership : nullptr);
  if (status) return *status;
  if (owned) ownership.release(options.image).ignore();
  return broken(status.error());
}

}  // namespace supervise
