// The second host: answers the origin, takes over committed images, and resumes them; and the
// restore of one image in the foreground.
#include <fmt/format.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <set>

#include <nlohmann/json.hpp>

#include "restore/criu.h"
#include "restore/file_drift.h"
#include "restore/image_store.h"
#include "restore/ownership.h"
#include "restore/rendezvous.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/control.h"
#include "supervisor/host_command.h"
#include "supervisor/session.h"
#include "supervisor/session_entry.h"
#include "supervisor/session_json.h"

namespace supervise {
namespace {

constexpr Millis kBeat{200};

std::int64_t unix_ns() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000ll + now.tv_nsec;
}

const PathSpec* own_way(const StandbyOptions& options, const std::string& name) {
  for (const PathSpec& p : options.paths)
    if (p.name == name) return &p;
  return nullptr;
}

Status covers(const StandbyOptions& options, const Manifest& manifest) {
  for (const ImagePath& p : manifest.paths)
    if (!own_way(options, p.name))
      return plain_error(fmt::format("the image needs storage path `{}` (seen at {}): give --path {}=DIR",
                                     p.name, p.place, p.name));
  return {};
}

Status hook(const PathSpec& path, const std::string& command, const std::string& reason) {
  if (command.empty()) return {};
  auto r = run_host_command(command,
                            {"SUPERVISE_PATH=" + path.name, "SUPERVISE_DIR=" + path.dirs[0],
                             "SUPERVISE_FROM=", "SUPERVISE_REASON=" + reason},
                            Deadline::in(Millis(30000)));
  if (!r) return r.error();
  if (!r->success()) return plain_error(fmt::format("`{}` ended with {}", command, r->describe()));
  return {};
}

// Everything from a verified image to a running session.
class Resume {
 public:
  Resume(const StandbyOptions& options, Events& events, std::string image, Ownership* ownership)
      : options_(options), events_(events), image_(std::move(image)), ownership_(ownership) {}

  // The session's exit status; an error when the image could not be resumed (the paths are down
  // again, nothing of it runs).
  Result<int> run(const Manifest& manifest) {
    const auto began = Clock::now();
    RETURN_IF_ERROR(paths_up(manifest));
    auto session = restore(manifest);
    if (!session) {
      paths_down(manifest);
      return session.error();
    }
    const double restore_ms = ms_between(began, Clock::now());
    Claim claim;
    if (ownership_) {
      auto got = ownership_->claimed(image_);
      if (got && *got) claim = **got;
      claim.state = "running";
      claim.since_unix_ns = unix_ns();
      RETURN_IF_ERROR(ownership_->update_claim(image_, claim));
    }
    events_.info("handover.step", fmt::format("restored in {:.1f} ms, {} threads", restore_ms,
                                              manifest.threads.size()),
                 {{"step", std::int64_t{11}}, {"restore_ms", restore_ms}});
    (*session)->on_first_io = [&] {
      const std::int64_t now = unix_ns();
      const std::int64_t from = manifest.error_unix_ns ? manifest.error_unix_ns : manifest.created_unix_ns;
      events_.info("handover.resumed",
                   fmt::format("first good I/O here: freeze {:.1f} ms, dump {:.1f} ms, restore {:.1f} ms, total "
                               "from the {} {:.1f} ms",
                               manifest.freeze_ms, manifest.dump_ms, restore_ms,
                               manifest.error_unix_ns ? "error" : "image",
                               static_cast<double>(now - from) / 1e6),
                   {{"step", std::int64_t{12}},
                    {"freeze_ms", manifest.freeze_ms},
                    {"dump_ms", manifest.dump_ms},
                    {"restore_ms", restore_ms},
                    {"total_ms", static_cast<double>(now - from) / 1e6}});
      if (ownership_) {
        claim.first_io_unix_ns = now;
        ownership_->update_claim(image_, claim).ignore();
      }
    };
    const int status = (*session)->loop();
    if (ownership_) {
      claim.state = "ended";
      ownership_->update_claim(image_, claim).ignore();
    }
    return status;
  }

 private:
  Status paths_up(const Manifest& manifest) {
    for (const ImagePath& p : manifest.paths) {
      const PathSpec* own = own_way(options_, p.name);
      if (auto s = hook(*own, own->up, "resume"); !s) return s.error().with("path " + p.name);
    }
    return {};
  }
  void paths_down(const Manifest& manifest) {
    for (const ImagePath& p : manifest.paths) {
      const PathSpec* own = own_way(options_, p.name);
      if (auto s = hook(*own, own->down, "not resumed"); !s)
        events_.warn("path.down_failed", s.error().message());
    }
  }

  Result<std::unique_ptr<Session>> restore(const Manifest& manifest) {
    SessionConfig config;
    config.name = manifest.app_name;
    config.command = manifest.command;
    RETURN_IF_ERROR(run_options_from_json(manifest.run_options, config));
    config.standby = options_.onward_standby;
    config.images_dir = options_.images_dir;
    ASSIGN_OR_RETURN(const CarriedState state, carried_state_from_json(manifest.state));
    WorldSpec spec;
    std::vector<DriftPlace> places;
    for (const ImagePath& p : manifest.paths) {
      const PathSpec* own = own_way(options_, p.name);
      config.paths.push_back(*own);
      config.places.push_back(p.place);
      spec.places.push_back({p.name, p.place, own->dirs[0]});
      places.push_back({p.place, own->dirs[0]});
    }
    ASSIGN_OR_RETURN(const auto drifts, find_drift(manifest.files, places));
    RETURN_IF_ERROR(apply_drift_policy(options_.drift, drifts, places));
    PatchedImage patched;
    if (!drifts.empty() && options_.drift == DriftPolicy::AcceptAppended) {
      std::vector<std::string> longer;
      for (const FileDrift& d : drifts) longer.push_back(d.path);
      ASSIGN_OR_RETURN(patched, image_without_sizes(image_, longer));
    }
    const std::string& dir = patched.dir().empty() ? image_ : patched.dir();
    UniqueFd image_dir(open_directory(dir));
    if (!image_dir) return errno_error("open " + dir);

    auto session = std::make_unique<Session>(config, events_);
    session->carry(state.incidents);
    RETURN_IF_ERROR(fault_point("handover.11.world"));
    ASSIGN_OR_RETURN(auto world, World::create(spec));
    if (!world->has_namespaces()) {
      const auto limits = world->limits();
      return plain_error(limits.empty() ? "no namespaces here" : limits.front());
    }
    ASSIGN_OR_RETURN(const Criu criu, Criu::find());
    std::vector<StdioInfo> stdio;
    for (const ImageStdio& s : manifest.stdio) stdio.push_back({s.fd, s.kind, s.id});
    ASSIGN_OR_RETURN(auto inherit, world->stdio_for_restore(stdio));
    RestoreRequest request;
    request.image_dir_fd = image_dir.get();
    request.tcp = config.tcp;
    for (auto& i : inherit) request.inherit.push_back({i.id, i.fd.get()});
    std::set<int> pids;
    for (const ImageThread& t : manifest.threads) pids.insert(t.tid);
    world->keep_tools_off(pids);
    ASSIGN_OR_RETURN(const int inner, criu.restore(*world, request, Deadline::in(Criu::deadline())));
    RETURN_IF_ERROR(fault_point("handover.11.restored"));
    ASSIGN_OR_RETURN(const pid_t outer, world->outer_pid(inner));
    RETURN_IF_ERROR(world->adopt_app(inner));
    if (state.last_pid > 0) world->set_last_pid(state.last_pid).ignore();
    std::set<pid_t> stopped;
    for (int pid : state.stopped)
      if (auto o = world->outer_pid(pid)) stopped.insert(*o);
    RETURN_IF_ERROR(session->take_over(std::move(world), outer, stopped, state.guarded));
    return session;
  }

  static int open_directory(const std::string& dir) {
    return ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }

  const StandbyOptions& options_;
  Events& events_;
  std::string image_;
  Ownership* ownership_;
};

// SIGTERM and SIGINT end a standby that runs nothing; the mask stays for the session that follows.
class StopSignal {
 public:
  StopSignal() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGHUP);
    sigprocmask(SIG_BLOCK, &set_, nullptr);
  }
  int wait(Millis d) const {
    const timespec limit{d.count() / 1000, (d.count() % 1000) * 1'000'000};
    const int sig = sigtimedwait(&set_, nullptr, &limit);
    return sig > 0 ? sig : 0;
  }

 private:
  sigset_t set_;
};

}  // namespace

int run_standby(const StandbyOptions& options, Events& events) {
  const auto broken = [&](const Error& e) {
    events.error("standby.failed", e.message());
    return 125;
  };
  if (!options.from.starts_with("dir:")) return broken(plain_error("--from must be dir:PATH"));
  auto criu = Criu::find();
  if (!criu) return broken(criu.error());
  auto opened = ImageStore::open(options.from.substr(4), options.name, true);
  if (!opened) return broken(opened.error());
  ImageStore store = opened.take();
  Rendezvous rendezvous(store.dir());
  Ownership ownership(store.dir());
  StandbyInfo info;
  info.who = HostIdentity::self();
  info.level = "image";
  for (const PathSpec& p : options.paths) info.paths.push_back(p.name);
  StopSignal stop;
  events.info("standby.ready", fmt::format("standing by for {} on {}", options.name, store.dir()));

  // `activate` and `status` while nothing runs here; a session has a control socket of its own.
  bool activated = !options.activate_on_command;
  std::unique_ptr<ControlServer> control;
  if (auto server = ControlServer::open(options.name)) control = server.take();
  else if (server.error().err == EADDRINUSE) return broken(server.error());
  else events.warn("control.unavailable", server.error().message());
  const auto serve = [&](const ControlRequest& request, ControlReply reply) {
    auto image = store.newest();
    const std::string newest = image && *image ? (*image)->dir : "";
    if (request.command == "status") {
      reply.ok(nlohmann::json{{"name", options.name}, {"pid", getpid()}, {"standby", store.dir()},
                              {"last_image", newest}, {"activated", activated}}
                   .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    } else if (request.command == "activate") {
      auto commit = newest.empty() ? Result<std::optional<Commit>>(std::optional<Commit>{}) : ownership.committed(newest);
      if (!commit || !*commit) {
        reply.fail("there is no committed image to activate" + (newest.empty() ? "" : ": " + newest + " belongs to its origin"));
        return;
      }
      activated = true;
      reply.ok(nlohmann::json{{"image", newest}}.dump());
    } else {
      reply.fail(fmt::format("`{}` is not for a standby", request.command));
    }
  };

  std::set<std::string> answered, refused;
  Clock::time_point last_beat{};
  int failures = 0;
  for (;;) {
    if (Clock::now() - last_beat > kBeat) {
      last_beat = Clock::now();
      info.beat_unix_ns = unix_ns();
      if (auto s = rendezvous.beat(info); !s) events.warn("standby.beat", s.error().message());
    }
    auto request = rendezvous.pending();
    if (request && *request) {
      const auto& r = **request;
      if (!answered.contains(r.id)) {
        Answer answer{info.who, true, ""};
        fault_point("standby." + r.kind).ignore();
        if (r.kind == "verify") {
          auto manifest = verify_image(r.image_dir);
          Status good = manifest ? covers(options, *manifest) : Status(manifest.error());
          if (!good) answer = {info.who, false, good.error().message()};
        }
        events.info("standby.answer", fmt::format("{} generation {}: {}", r.kind, r.generation,
                                                  answer.ok ? "yes" : answer.reason));
        if (auto s = rendezvous.answer(r, answer); s) answered.insert(r.id);
      }
    }
    auto newest = store.newest();
    if (newest && *newest && !refused.contains((*newest)->dir) && activated) {
      const std::string image = (*newest)->dir;
      auto commit = ownership.committed(image);
      if (commit && *commit) {
        auto epoch = ownership.raise_epoch();
        Status claimed = epoch ? ownership.claim(image, *epoch) : Status(epoch.error());
        // The origin may have taken the commit back in between.
        auto still = claimed ? ownership.committed(image) : Result<std::optional<Commit>>(std::optional<Commit>{});
        if (!claimed) {
          if (refused.insert(image).second)
            events.warn("standby.not_owner", fmt::format("{}: {}", image, claimed.error().message()));
        } else if (still && *still) {
          fault_point("handover.11.claimed").ignore();
          auto manifest = verify_image(image);
          Status good = manifest ? covers(options, *manifest) : Status(manifest.error());
          Result<int> status = 0;
          if (good) {
            events.info("standby.resume", fmt::format("{} is ours, epoch {}", image, *epoch));
            control.reset();
            status = Resume(options, events, image, &ownership).run(*manifest);
          } else {
            status = good.error();
          }
          if (status) {
            rendezvous.leave(info.who);
            return *status;
          }
          events.error("standby.resume_failed", status.error().message());
          ownership.release(image).ignore();
          if (++failures >= 3) {
            rendezvous.leave(info.who);
            return 125;
          }
          stop.wait(Millis(500));
        }
      }
    }
    if (control) control->on_readable(serve);
    if (const int sig = stop.wait(Millis(5)); sig != 0) {
      rendezvous.leave(info.who);
      events.info("standby.stopped", fmt::format("ended by {}", strsignal(sig)));
      return 128 + sig;
    }
  }
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
  auto status = Resume(options, events, options.image, owned ? &ownership : nullptr).run(*manifest);
  if (status) return *status;
  if (owned) ownership.release(options.image).ignore();
  return broken(status.error());
}

}  // namespace supervise
