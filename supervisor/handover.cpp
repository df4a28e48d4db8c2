// The hand-over, on the origin: steps 6 to 12. Steps 1 to 5 (error intercepted, threads held, path
// switched, journal replayed, failed call completed) are in session_recovery.cpp.
//
// Before the commit (9) any failure rolls back: the standby is told to forget, the application is
// taken back and goes on over the path in use. After it only the successor may run.
#include <fmt/format.h>
#include <signal.h>
#include <time.h>

#include "restore/host_identity.h"
#include "restore/ownership.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/session.h"
#include "supervisor/standby_link.h"

namespace supervise {
namespace {

constexpr Millis kPrepareDeadline{10000};
constexpr Millis kVerifyDeadline{60000};
constexpr Millis kResumeDeadline{60000};

void pause_ms(long ms) {
  const timespec pause{ms / 1000, (ms % 1000) * 1'000'000};
  nanosleep(&pause, nullptr);
}

// ENOTRECOVERABLE: the storage failed in the middle of the commit. Neither side may run until it
// is known which one owns the image.
Status commit_for_sure(StandbyLink& link, const Commit& commit, Events& events) {
  for (;;) {
    auto status = link.commit(commit);
    if (status) return {};
    if (status.error().err != ENOTRECOVERABLE) return status;
    events.error("handover.in_doubt",
                 "the commit is in doubt and is asked again: " + status.error().message());
    pause_ms(500);
  }
}

}  // namespace

void Session::run_handover(const std::string& reason) {
  const auto began = Clock::now();
  std::string why;
  std::vector<pid_t> roots;
  bool parked = false;
  const auto step = [&](int number, const std::string& text) {
    set_step(number);
    events_.info("handover.step", text,
                 {{"step", std::int64_t{number}},
                  {"at_ms", ms_between(incident_.id ? incident_.first_error : began, Clock::now())}});
  };

  if (config_.standby.empty()) {
    events_.error("handover.refused", "no standby: start with --standby dir:PATH or --standby HOST:PORT");
    if (tracer_.holding()) tracer_.resume_all();
    handover_failed_ = true;
    return;
  }
  std::unique_ptr<StandbyLink> link;

  const auto attempt = [&]() -> Result<Made> {
    RETURN_IF_ERROR(tracer_.hold_all(Deadline::in(config_.path_deadline)));
    move_late();
    protect();
    for (auto& path : paths_.all())
      if (!make_durable(*path, "the hand-over"))
        return plain_error(fmt::format("path {}: what was written can't be made durable", path->name));
    ASSIGN_OR_RETURN(roots, image_roots());
    stop_shipping();
    ASSIGN_OR_RETURN(link, StandbyLink::open(standby_target(), events_, ship_target_));
    ASSIGN_OR_RETURN(ImageStore store, link->store());
    ASSIGN_OR_RETURN(const std::uint64_t epoch, link->epoch());

    RETURN_IF_ERROR(fault_point("handover.6.prepare"));
    ASSIGN_OR_RETURN(const Answer ready, link->prepare(Deadline::in(kPrepareDeadline)));
    if (!ready.ok) return plain_error(fmt::format("the standby refuses: {}", ready.reason));
    step(6, fmt::format("standby {} (process {}) is ready", ready.who.host, ready.who.pid));

    parked = true;
    ASSIGN_OR_RETURN(Made made, make_image(store, "handover", epoch,
                                           [&](const ImageStore::Draft& draft) { link->begun(draft); }));
    const auto ship_at = Clock::now();
    ASSIGN_OR_RETURN(const Answer verified, link->verify(made.image, kVerifyDeadline));
    if (!verified.ok)
      return plain_error(fmt::format("the standby refuses image {}: {}", made.image.dir, verified.reason));
    made.ship_ms += ms_between(ship_at, Clock::now());
    step(9, fmt::format("image {} is verified by {}", made.image.dir, verified.who.host));
    RETURN_IF_ERROR(fault_point("handover.9.commit"));
    Commit commit;
    commit.epoch = epoch;
    commit.generation = made.manifest.generation;
    commit.origin = HostIdentity::self();
    commit.committed_unix_ns = unix_now_ns();
    if (keeper_.page()) keeper_.page()->asked = true;
    RETURN_IF_ERROR(fault_point("handover.9.asked"));
    RETURN_IF_ERROR(commit_for_sure(*link, commit, events_));
    if (keeper_.page()) keeper_.page()->committed = true;
    step(9, "committed: from here on only the standby may run the application");
    return made;
  };

  auto made = attempt();
  if (!made) {
    events_.error("handover.failed",
                  fmt::format("{} ({}); the application goes on here", made.error().message(), reason));
    if (keeper_.page()) keeper_.page()->asked = false;
    if (link) link->withdraw();
    handover_failed_ = true;
    if (!tracer_.has_tasks() && parked) {
      if (auto s = take_back(roots); !s) {
        events_.error("handover.lost", "the application can't be taken back: " + s.error().message());
        return;
      }
    } else if (tracer_.holding()) {
      let_go();
    }
    keep_incident_ = false;
    unprotect();
    close_incident_if_done();
    return;
  }

  fault_point("handover.10.end").ignore();
  if (auto s = world_->end(Deadline::in(Millis(20000))); !s)
    events_.error("handover.not_ended", s.error().message());
  handed_over_ = true;
  // Their descriptors would keep the paths busy.
  unprotect();
  world_.reset();
  for (auto& path : paths_.all()) {
    if (auto s = run_hook(*path, path->down, path->dir(), path->dir(), "handover"); !s)
      events_.warn("path.down_failed", s.error().message(), {{"path", path->name}});
  }
  step(10, "the original is ended, its paths are released");
  fault_point("handover.11.wait").ignore();

  // 11 and 12 are the successor's; here they are only watched.
  const Deadline deadline = Deadline::in(kResumeDeadline);
  std::optional<Claim> claim;
  bool running = false;
  std::int64_t running_seen = 0;
  while (!deadline.passed()) {
    auto got = link->claimed();
    if (got && *got) claim = **got;
    if (claim && claim->state != "claimed" && !running) {
      running = true;
      running_seen = unix_now_ns();
    }
    if (running && (claim->first_io_unix_ns || claim->state == "ended")) break;
    if (running && unix_now_ns() - running_seen > 10'000'000'000ll) break;
    pause_ms(5);
  }
  if (!running) {
    events_.error("handover.not_resumed",
                  fmt::format("no standby has resumed image {} within {} s; start `supervise standby` "
                              "or `supervise restore {}` where the storage can be reached",
                              made->image.dir, kResumeDeadline.count() / 1000, made->image.dir));
    return;
  }
  const double restore_ms = static_cast<double>(claim->since_unix_ns - made->manifest.created_unix_ns) / 1e6;
  const std::int64_t from = made->manifest.error_unix_ns ? made->manifest.error_unix_ns : made->manifest.created_unix_ns;
  const std::string total = claim->first_io_unix_ns
      ? fmt::format("{:.1f} ms", static_cast<double>(claim->first_io_unix_ns - from) / 1e6)
      : std::string("not yet known");
  events_.info("handover.done",
               fmt::format("running on {}: freeze {} ms, dump {:.1f} ms, ship {:.1f} ms, restore {:.1f} ms after "
                           "the freeze began, total from the error to the first good I/O {}",
                           claim->owner.host, made->frozen.count(), made->dump_ms, made->ship_ms,
                           restore_ms, total),
               {{"step", std::int64_t{12}},
                {"freeze_ms", made->frozen.count()},
                {"dump_ms", made->dump_ms},
                {"ship_ms", made->ship_ms},
                {"restore_ms", restore_ms}});
}

}  // namespace supervise
