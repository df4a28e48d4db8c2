// How a session begins: of an application that is launched, or of a tree that was restored.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "restore/criu.h"
#include "restore/host_facts.h"
#include "restore/image_layout.h"
#include "seccomp/filter.h"
#include "supervisor/control.h"
#include "supervisor/session.h"
#include "supervisor/session_entry.h"
#include "supervisor/start_check.h"

extern char** environ;

namespace supervise {

namespace {
constexpr std::string_view kGenerationVariable = "SUPERVISE_GENERATION_FILE=";
}

Status Session::fill_paths(bool look) {
  if (config_.paths.size() > static_cast<std::size_t>(KeeperPage::kPaths))
    return plain_error(fmt::format("{} storage paths are declared, {} is the most", config_.paths.size(),
                                   int{KeeperPage::kPaths}));
  paths_.set_by_mount(world_->has_namespaces());
  for (std::size_t i = 0; i < config_.paths.size(); ++i) {
    const PathSpec& spec = config_.paths[i];
    StoragePath p;
    p.name = spec.name;
    p.place = config_.places[i];
    p.dirs = spec.dirs;
    p.up = spec.up;
    p.down = spec.down;
    for (const std::string& dir : spec.dirs) {
      struct stat st {};
      if (look && stat(dir.c_str(), &st) == 0) p.dev_at_start.emplace_back(st.st_dev);
      else p.dev_at_start.emplace_back(std::nullopt);
    }
    p.read_only_at_start = look && access(spec.dirs[0].c_str(), W_OK) != 0 && errno == EROFS;
    p.journal = Journal(config_.journal == JournalMode::Content);
    p.mounts = world_->mount_ids(spec.name);
    if (p.mounts.empty() && world_->has_namespaces())
      return plain_error(fmt::format("storage path {}: {} is no mount in the application's world",
                                     spec.name, p.place));
    paths_.add(std::move(p));
  }
  return {};
}

// Asked at the start, since the application is frozen when a manifest is written.
void Session::learn_criu_version() {
  if (config_.standby.empty() && config_.images_dir.empty()) return;
  auto criu = Criu::find();
  if (!criu) {
    events_.warn("criu.missing", criu.error().message());
    return;
  }
  auto version = criu_version(criu->binary(), Deadline::in(Millis(5000)));
  if (version) criu_version_ = version.take();
  else events_.warn("criu.broken", version.error().message());
}

// A second supervisor of the same name is refused; anything else only costs the control socket.
Status Session::open_control() {
  if (control_) return {};
  auto control = ControlServer::open(config_.name);
  if (!control && control.error().err == EADDRINUSE && !config_.name_given) {
    config_.name += fmt::format("-{}", getpid());
    control = ControlServer::open(config_.name);
  }
  if (!control) {
    if (control.error().err == EADDRINUSE) return control.error();
    events_.warn("control.unavailable", control.error().message());
    return {};
  }
  control_ = control.take();
  epoll_event ev{EPOLLIN, {.fd = control_->fd()}};
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, control_->fd(), &ev);
  return {};
}

Status Session::launch(const std::vector<std::string>& argv) {
  RETURN_IF_ERROR(open_control());
  learn_criu_version();
  RETURN_IF_ERROR(learn_standby());
  WorldSpec world;
  for (std::size_t i = 0; i < config_.paths.size(); ++i)
    world.places.push_back({config_.paths[i].name, config_.places[i], config_.paths[i].dirs[0]});
  ASSIGN_OR_RETURN(world_, World::create(world));
  for (const std::string& limit : world_->limits()) events_.warn("world.limited", limit);
  RETURN_IF_ERROR(fill_paths());

  ASSIGN_OR_RETURN(const auto filter, filter_build(filter_plan({.sockets_and_ipc = config_.warm.watches(),
                                                             .mappings = config_.warm.mode == WarmRules::Call,
                                                             .processes = config_.warm.mode == WarmRules::Call,
                                                             .storage = !paths_.empty() || config_.warm.watches(),
                                                             .stub = config_.stub != StubMode::Off})));
  const sock_fprog program{static_cast<unsigned short>(filter.size()),
                           const_cast<sock_filter*>(filter.data())};
  LaunchSpec spec;
  spec.argv = argv;
  for (char** e = environ; *e; ++e)
    if (!std::string_view(*e).starts_with(kGenerationVariable)) spec.env.emplace_back(*e);
  if (world_->has_namespaces()) {
    if (auto s = world_->tell_generation(0, 0); s) spec.env.push_back(fmt::format("{}{}", kGenerationVariable, kGenerationFile));
    else events_.warn("generation.unavailable", s.error().message());
  }
  std::unique_ptr<char, decltype(&free)> cwd(get_current_dir_name(), free);
  spec.cwd = cwd ? cwd.get() : "/";
  // Ours would keep the first path busy.
  if (chdir("/") != 0) return errno_error("chdir /");
  spec.filter = &program;
  ASSIGN_OR_RETURN(app_pid_, world_->prepare_launch(spec));
  watch_warm_point();
  start_stub();
  RETURN_IF_ERROR(tracer_.seize_new(app_pid_));
  return world_->release_launch();
}

Status Session::adopt(std::unique_ptr<World> world, int root, const std::set<pid_t>& stopped,
                      const std::set<int>& guarded) {
  resumed_ = true;
  learn_criu_version();
  world_ = std::move(world);
  RETURN_IF_ERROR(fill_paths());
  ASSIGN_OR_RETURN(app_pid_, world_->outer_pid(root));
  start_stub();
  RETURN_IF_ERROR(tracer_.adopt({app_pid_}, stopped, Deadline::in(Millis(20000))));
  // Not before: until then nothing but the world's init ends the tree when we are killed, and it ends
  // only what is nobody's.
  RETURN_IF_ERROR(world_->adopt_app(root));
  for (pid_t pid : tracer_.processes())
    if (auto s = task_status(pid); s && !s->ns_pid.empty() && guarded.contains(s->ns_pid.back()))
      default_traps_.insert(pid);
  guarded_ = true;
  unguard();
  return {};
}

int run_application(const RunOptions& options, Events& events) {
  SessionConfig config;
  config.name = options.name;
  config.name_given = options.name_given;
  config.paths = options.paths;
  for (const PathSpec& p : options.paths) config.places.push_back(p.dirs[0]);
  config.rules = options.rules;
  config.observe = options.observe;
  config.journal = options.journal;
  config.journal_limit = options.journal_limit;
  config.stub = options.stub;
  config.outlive = options.outlive;
  config.standby = options.standby;
  config.images_dir = options.images_dir;
  config.tls_dir = options.tls_dir;
  config.tcp = options.tcp;
  config.handover_exit_code = options.handover_exit_code;
  config.path_deadline = options.path_deadline;
  config.warm = options.warm;
  config.refresh = options.refresh;
  config.command = options.app;
  config.log = options.log;
  const StandbyTarget target{config.standby, config.tls_dir, config.images_dir, config.name};
  if (target.over_network()) {
    // Before the application starts, so that a missing file is no surprise at a hand-over.
    if (auto ship = ship_target(target); !ship) {
      events.error("supervise.failed", ship.error().message());
      return 125;
    }
  }
  if (!options.take_over) {
    if (auto alone = check_not_elsewhere(target, events); !alone) {
      events.error("supervise.failed", alone.error().message());
      return 125;
    }
  }
  Session session(std::move(config), events);
  if (auto status = session.launch(options.app); !status) {
    events.error("supervise.failed", status.error().message());
    return 125;
  }
  return session.loop();
}

}  // namespace supervise
