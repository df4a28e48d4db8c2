// A session that goes from one version of the program to another (succession.h): what is asked of the
// former, what it tells, and how the successor goes on.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "supervisor/base/fault_point.h"
#include "supervisor/claim_watch.h"
#include "supervisor/control.h"
#include "supervisor/front.h"
#include "supervisor/session.h"
#include "supervisor/session_json.h"
#include "supervisor/succession.h"
#include "tracer/proc_info.h"

namespace supervise {

using Json = nlohmann::json;

namespace {

constexpr Millis kStopTime{20000};

Json config_to_json(const SessionConfig& c) {
  Json paths = Json::array();
  for (const PathSpec& p : c.paths) paths.push_back({{"name", p.name}, {"dirs", p.dirs}, {"up", p.up}, {"down", p.down}});
  return {{"name", c.name},
          {"paths", paths},
          {"places", c.places},
          {"options", Json::parse(run_options_to_json(c))},
          {"standby", c.standby},
          {"images", c.images_dir},
          {"tls", c.tls_dir},
          {"warm_mode", static_cast<int>(c.warm.mode)},
          {"refresh_ms", c.refresh.count()},
          {"claim", c.claim},
          {"instance", c.instance},
          {"activated", c.activated},
          {"command", c.command}};
}

Result<SessionConfig> config_from_json(const Json& j) {
  SessionConfig c;
  c.name = j.at("name");
  for (const Json& p : j.at("paths")) c.paths.push_back({p.at("name"), p.at("dirs"), p.at("up"), p.at("down")});
  c.places = j.at("places").get<std::vector<std::string>>();
  RETURN_IF_ERROR(run_options_from_json(j.at("options").dump(), c));
  c.standby = j.at("standby");
  c.images_dir = j.at("images");
  c.tls_dir = j.at("tls");
  c.warm.mode = static_cast<decltype(c.warm.mode)>(j.at("warm_mode").get<int>());
  c.refresh = Millis(j.at("refresh_ms").get<std::int64_t>());
  c.claim = j.at("claim");
  c.instance = j.value("instance", 0);
  c.activated = j.value("activated", "");
  c.command = j.at("command").get<std::vector<std::string>>();
  return c;
}

Json path_to_json(const StoragePath& p) {
  Json devices = Json::array();
  for (const auto& dev : p.dev_at_start) devices.push_back(dev ? Json(*dev) : Json());
  return {{"active", p.active},   {"given_up", p.given_up}, {"devices", devices}, {"read_only", p.read_only_at_start},
          {"mapped", p.mapped},   {"errors", p.errors},     {"switches", p.switches}};
}

void path_from_json(const Json& j, StoragePath& p) {
  p.active = j.at("active");
  p.given_up = j.at("given_up").get<std::set<std::size_t>>();
  p.dev_at_start.clear();
  for (const Json& dev : j.at("devices"))
    p.dev_at_start.push_back(dev.is_null() ? std::optional<std::uint64_t>() : std::optional(dev.get<std::uint64_t>()));
  p.read_only_at_start = j.at("read_only");
  p.mapped = j.at("mapped").get<std::set<std::uint64_t>>();
  p.errors = j.at("errors");
  p.switches = j.at("switches");
}

}  // namespace

std::string Session::why_not_now() const {
  if (!world_->has_namespaces()) return "the application has no world of its own (see `supervise doctor`)";
  if (incident_.id || !failed_.empty()) return "an incident is open (`supervise status` tells); ask again when it is over";
  if (warm_ && warm_->watching()) return "the warm point is being watched for; ask again when the warm image is made";
  if (shipper_.busy()) return "an image is on its way to " + config_.standby + "; ask again when it is there";
  return {};
}

// Answers only when it fails.
void Session::give_way(const ControlRequest& request, ControlReply reply) {
  if (request.form != kSuccessionForm)
    return reply.fail(fmt::format("this supervisor (version {}) can tell its state in form {} only, the asking program wants form {}",
                                  SUPERVISE_VERSION, kSuccessionForm, request.form));
  if (auto why = why_not_now(); !why.empty()) return reply.fail(why);
  UniqueFd program(open(fmt::format("/proc/{}/exe", request.peer).c_str(), O_PATH | O_CLOEXEC));
  if (!program) return reply.fail(errno_error(fmt::format("open the program of process {}", request.peer)).message());
  const auto began = Clock::now();
  if (auto s = tracer_.hold_all(Deadline::in(kStopTime)); !s) return reply.fail(s.error().message());
  const std::vector<pid_t> all = tracer_.processes();
  const auto roots = roots_among({all.begin(), all.end()});
  const auto exec = [&]() -> Status {
    for (auto& path : paths_.all())
      if (!make_durable(*path, "the successor"))
        return plain_error(fmt::format("path {}: what was written can't be made durable", path->name));
    drain_ring();
    tracer_.unshare_stub(Deadline::in(kStopTime));
    if (config_.outlive) protect(Stage::Image);
    PassedFds fds;
    Json state = succession_json(fds, began);
    state["reply"] = fds.pass(reply.fd());
    RETURN_IF_ERROR(fault_point("adopt.park"));
    RETURN_IF_ERROR(tracer_.park(Deadline::in(kStopTime)));
    RETURN_IF_ERROR(fault_point("adopt.exec"));
    return exec_successor(program.get(), std::move(state), fds);
  };
  const Status failed = exec();
  events_.error("adopt.failed", failed.error().message() + "; this version goes on");
  Status regained = fault_point("adopt.regain");
  if (regained) regained = regain(roots, tracer_.stopped_by_app());
  if (!regained) {
    // As if we had died in it: the keeper takes over; without one the world's init ends what nobody supervises.
    events_.error("adopt.lost", regained.error().message() + "; this supervisor ends, and its keeper takes over");
    reply.fail(failed.error().message() + "; then: " + regained.error().message());
    _exit(125);
  }
  unprotect();
  tracer_.resume_all();
  reply.fail(failed.error().message());
}

// All threads are seized again, or never were let go, and the stub has what it shares with us.
Status Session::regain(const std::vector<pid_t>& roots, const std::set<pid_t>& stopped) {
  if (tracer_.has_tasks()) tracer_.undo_safety();
  else RETURN_IF_ERROR(tracer_.adopt(roots, stopped, Deadline::in(kStopTime)));
  tracer_.share_stub(Deadline::in(kStopTime));
  return {};
}

Json Session::succession_json(PassedFds& fds, Clock::time_point began) {
  Json pieces = Json::array(), paths = Json::array();
  for (const auto& [tid, p] : pieces_) pieces.push_back({{"tid", tid}, {"original", p.original}, {"done", p.done}});
  for (const auto& path : paths_.all()) paths.push_back(path_to_json(*path));
  std::set<pid_t> stopped;
  for (const auto& [tid, task] : tracer_.all())
    if (task.app_stopped) stopped.insert(task.tgid);
  Json session = {{"app_pid", app_pid_},
                  {"processes", tracer_.processes()},
                  {"stopped", stopped},
                  {"pieces", pieces},
                  {"paths", paths},
                  {"incidents", incidents_},
                  {"began_ns", began.time_since_epoch().count()},
                  {"started_ns", started_.time_since_epoch().count()},
                  {"took_over_from", took_over_from_},
                  {"handover_failed", handover_failed_},
                  {"last_image", last_image_},
                  {"keeper", keeper_.pid()},
                  {"keeper_line", fds.pass(keeper_.line())},
                  {"watched", fds.pass(watched_fd_)},
                  {"front", fds.pass(front::line())},
                  {"front_is_first", front::is_first_process()}};
  if (app_end_) session["end"] = {{"kind", static_cast<int>(app_end_->kind)}, {"signal", app_end_->signal}, {"code", app_end_->code}};
  return {{"form", kSuccessionForm},
          {"version", SUPERVISE_VERSION},
          {"log", {{"events", config_.log.events_file},
                   {"format", static_cast<int>(config_.log.format)},
                   {"level", static_cast<int>(config_.log.level)}}},
          {"config", config_to_json(config_)},
          {"world", world_->pass(fds)},
          {"session", session}};
}

Status Session::succeed(const Json& state, const LogOptions& log) {
  ASSIGN_OR_RETURN(config_, config_from_json(state.at("config")));
  policy_ = Policy(config_.rules);
  config_.log = log;
  const Json& s = state.at("session");
  ASSIGN_OR_RETURN(UniqueFd line, PassedFds::take(s.at("keeper_line")));
  keeper_.inherit(s.at("keeper"), std::move(line));
  ASSIGN_OR_RETURN(UniqueFd front, PassedFds::take(s.value("front", -1)));
  front::inherit(std::move(front), s.value("front_is_first", false));
  ASSIGN_OR_RETURN(world_, World::take(state.at("world")));
  RETURN_IF_ERROR(fill_paths(false));
  for (std::size_t i = 0; i < paths_.all().size(); ++i) path_from_json(s.at("paths").at(i), *paths_.all()[i]);
  app_pid_ = s.at("app_pid");
  if (s.contains("end"))
    app_end_ = Stop{static_cast<StopKind>(s.at("end").at("kind").get<int>()), s.at("end").at("signal"), s.at("end").at("code")};
  for (const Json& p : s.at("pieces")) pieces_[p.at("tid")] = {p.at("original").get<Args>(), p.at("done")};
  incidents_ = s.at("incidents");
  started_ = Clock::time_point(Clock::duration(s.at("started_ns").get<std::int64_t>()));
  took_over_from_ = s.at("took_over_from");
  handover_failed_ = s.at("handover_failed");
  last_image_ = s.at("last_image");
  if (config_.refresh.count() > 0) {
    watch_warm_point();
    warm_->finish();
    next_refresh_ = Clock::now() + config_.refresh;
  }
  if (config_.instance > 0) {
    ASSIGN_OR_RETURN(UniqueFd standby, PassedFds::take(s.value("watched", -1)));
    watch_standby(*this, events_, std::move(standby), config_.claim, config_.instance);
  } else if (!config_.claim.empty()) {
    watch_claim(*this, events_, config_.claim);
  }
  start_stub();
  // The world's init, and the former's keeper, are there for the time until our own stands.
  if (config_.outlive) tracer_.set_exit_kill(false);
  const auto roots = roots_among(s.at("processes").get<std::set<pid_t>>());
  RETURN_IF_ERROR(regain(roots, s.at("stopped").get<std::set<pid_t>>()));
  RETURN_IF_ERROR(fault_point("adopt.taken"));
  began_succession_ = Clock::time_point(Clock::duration(s.at("began_ns").get<std::int64_t>()));
  return {};
}

void Session::settle(const std::string& former_version) {
  if (!stand() && config_.outlive) events_.warn("keeper.missing", "another try comes soon");
  if (auto status = open_control(); !status) events_.warn("control.unavailable", status.error().message());
  stood_ms_ = ms_between(began_succession_, Clock::now());
  events_.info("adopt.done", fmt::format("version {} goes on in place of version {}: {} threads of {} processes stood for {:.1f} ms",
                                         SUPERVISE_VERSION, former_version, tracer_.all().size(),
                                         tracer_.processes().size(), stood_ms_));
  deferred_.emplace_back([this] {
    learn_criu_version();
    if (auto status = learn_standby(); !status) events_.warn("standby.unavailable", status.error().message());
  });
}

void Session::stand_down() {
  if (!tracer_.has_tasks()) return;
  tracer_.unshare_stub(Deadline::in(kStopTime));
  tracer_.park(Deadline::in(kStopTime)).ignore();
}

}  // namespace supervise
