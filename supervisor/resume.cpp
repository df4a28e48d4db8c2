#include "supervisor/resume.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <memory>
#include <set>

#include "restore/criu.h"
#include "restore/host_identity.h"
#include "restore/image_needs.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/claim_watch.h"
#include "supervisor/host_command.h"
#include "supervisor/session_json.h"

namespace supervise {
namespace {

constexpr Millis kHookTime{30000};

Status hook(const PathSpec& path, const std::string& command, const std::string& reason) {
  if (command.empty()) return {};
  auto r = run_host_command(command,
                            {"SUPERVISE_PATH=" + path.name, "SUPERVISE_DIR=" + path.dirs[0],
                             "SUPERVISE_FROM=", "SUPERVISE_REASON=" + reason},
                            Deadline::in(kHookTime));
  if (!r) return r.error();
  if (!r->success()) return plain_error(fmt::format("`{}` ended with {}", command, r->describe()));
  return {};
}

}  // namespace

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

Status has_files_of(const std::string& image, const Manifest& manifest) {
  ASSIGN_OR_RETURN(const ImageNeeds needs, image_needs(image));
  const auto missing = missing_here(needs, manifest);
  if (missing.empty()) return {};
  return plain_error(fmt::format("this host lacks what the image needs: {}{}", missing.front(),
                                 missing.size() > 1 ? fmt::format(" (and {} more files)", missing.size() - 1) : ""));
}

std::vector<std::string> Resume::paths_with_hooks() const {
  std::vector<std::string> names;
  for (const ImagePath& p : manifest_.paths)
    if (!own_way(options_, p.name)->up.empty()) names.push_back(p.name);
  return names;
}

Status Resume::paths_up() {
  for (const ImagePath& p : manifest_.paths) {
    const PathSpec* own = own_way(options_, p.name);
    if (auto s = hook(*own, own->up, "resume"); !s) return s.error().with("path " + p.name);
  }
  return {};
}

void Resume::paths_down() {
  for (const ImagePath& p : manifest_.paths) {
    const PathSpec* own = own_way(options_, p.name);
    if (auto s = hook(*own, own->down, "not resumed"); !s)
      events_.warn("path.down_failed", s.error().message());
  }
}

std::vector<DriftPlace> Resume::places() const {
  std::vector<DriftPlace> places;
  for (const ImagePath& p : manifest_.paths) places.push_back({p.place, own_way(options_, p.name)->dirs[0]});
  return places;
}

Result<std::vector<FileDrift>> Resume::drifts() const {
  return find_drift(manifest_.files, places());
}

Status Resume::make_world() {
  if (world_) return {};
  config_.name = manifest_.app_name;
  config_.command = manifest_.command;
  RETURN_IF_ERROR(run_options_from_json(manifest_.run_options, config_));
  config_.log = options_.log;
  config_.standby = options_.onward_standby;
  config_.tls_dir = options_.tls_dir;
  config_.images_dir = options_.images_dir;
  WorldSpec spec;
  for (const ImagePath& p : manifest_.paths) {
    const PathSpec* own = own_way(options_, p.name);
    config_.paths.push_back(*own);
    config_.places.push_back(p.place);
    spec.places.push_back({p.name, p.place, own->dirs[0]});
  }
  RETURN_IF_ERROR(fault_point("handover.11.world"));
  ASSIGN_OR_RETURN(world_, World::create(spec));
  if (!world_->has_namespaces()) {
    const auto limits = world_->limits();
    return plain_error(limits.empty() ? "no namespaces here" : limits.front());
  }
  // Before CRIU opens it. An application that does not use it needs none.
  if (auto s = world_->tell_generation(manifest_.generation, 0); !s)
    events_.warn("generation.unavailable", s.error().message());
  return {};
}

Status Resume::restore(int work_dir) {
  RETURN_IF_ERROR(make_world());
  ASSIGN_OR_RETURN(const CarriedState state, carried_state_from_json(manifest_.state));
  ASSIGN_OR_RETURN(const auto changed, drifts());
  RETURN_IF_ERROR(apply_drift_policy(options_.drift, changed, places()));
  PatchedImage patched;
  if (!changed.empty() && options_.drift == DriftPolicy::AcceptAppended) {
    std::vector<std::string> longer;
    for (const FileDrift& d : changed) longer.push_back(d.path);
    ASSIGN_OR_RETURN(patched, image_without_sizes(image_, longer));
  }
  const std::string& dir = patched.dir().empty() ? image_ : patched.dir();
  UniqueFd image_dir(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!image_dir) return errno_error("open " + dir);

  session_ = std::make_unique<Session>(config_, events_);
  session_->carry(state.incidents);
  ASSIGN_OR_RETURN(const Criu criu, Criu::find());
  std::vector<StdioInfo> stdio;
  for (const ImageStdio& s : manifest_.stdio) stdio.push_back({s.fd, s.kind, s.id});
  ASSIGN_OR_RETURN(auto inherit, world_->stdio_for_restore(stdio));
  RestoreRequest request;
  request.image_dir_fd = image_dir.get();
  request.work_dir_fd = work_dir;
  request.tcp = config_.tcp;
  for (auto& i : inherit) request.inherit.push_back({i.id, i.fd.get()});
  std::set<int> pids;
  for (const ImageThread& t : manifest_.threads) pids.insert(t.tid);
  world_->keep_tools_off(pids);
  ASSIGN_OR_RETURN(const int inner, criu.restore(*world_, request, Deadline::in(Criu::deadline())));
  RETURN_IF_ERROR(fault_point("handover.11.restored"));
  if (state.last_pid > 0) world_->set_last_pid(state.last_pid).ignore();
  std::set<pid_t> stopped;
  for (int pid : state.stopped)
    if (auto o = world_->outer_pid(pid)) stopped.insert(*o);
  return session_->adopt(std::move(world_), inner, stopped, state.guarded);
}

void Resume::drop() {
  session_.reset();
  world_.reset();
}

Result<int> resume_image(const StandbyOptions& options, Events& events, const std::string& image,
                         const Manifest& manifest, Ownership* ownership) {
  const auto began = Clock::now();
  Resume resume(options, events, image, manifest);
  if (ownership) resume.config().claim = image;
  RETURN_IF_ERROR(resume.paths_up());
  Status made = resume.restore();
  if (made) made = resume.session().open_control();
  if (made) resume.session().tell_generation(manifest.generation, 1).ignore();  // make_world has told
  if (!made) {
    resume.drop();
    resume.paths_down();
    return made.error();
  }
  Session& session = resume.session();
  const double restore_ms = ms_between(began, Clock::now());
  Claim claim;
  if (ownership) {
    auto got = ownership->claimed(image);
    if (got && *got) claim = **got;
    claim.state = "running";
    claim.since_unix_ns = unix_now_ns();
    RETURN_IF_ERROR(ownership->update_claim(image, claim));
  }
  events.info("handover.step", fmt::format("restored in {:.1f} ms, {} threads", restore_ms,
                                           manifest.threads.size()),
              {{"step", std::int64_t{11}}, {"restore_ms", restore_ms}});
  session.on_first_io = [&] {
    const std::int64_t now = unix_now_ns();
    const std::int64_t from = manifest.error_unix_ns ? manifest.error_unix_ns : manifest.created_unix_ns;
    events.info("handover.resumed",
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
    if (ownership) note_first_io(image, now).ignore();
  };
  if (ownership) watch_claim(session, events, image);
  return session.loop();
}

}  // namespace supervise
