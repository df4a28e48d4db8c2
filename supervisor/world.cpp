#include "supervisor/world.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "supervisor/world_impl.h"
#include "supervisor/world_inherited.h"

namespace supervise {
namespace {

constexpr Millis kStartTime{10000};
constexpr Millis kBindTime{30000};
constexpr Millis kAskTime{10000};
constexpr Millis kKillTime{2000};
constexpr int kToolPids = 200;  // a tool and its helpers
constexpr int kEndAlone = 20;  // ms

// The numbers of /proc/PID/status's NSpid line: ours first, then of each namespace inside.
std::vector<pid_t> namespace_pids(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("NSpid:")) continue;
    std::istringstream numbers(line.substr(6));
    std::vector<pid_t> pids;
    for (pid_t p; numbers >> p;) pids.push_back(p);
    return pids;
  }
  return {};
}

std::string pid_namespace(pid_t pid) {
  char text[64];
  ssize_t n = readlink(fmt::format("/proc/{}/ns/pid", pid).c_str(), text, sizeof text);
  return n > 0 ? std::string(text, static_cast<std::size_t>(n)) : std::string();
}

std::vector<pid_t> all_pids() {
  std::vector<pid_t> pids;
  DIR* proc = opendir("/proc");
  if (!proc) return pids;
  while (dirent* entry = readdir(proc)) {
    if (pid_t pid = atoi(entry->d_name); pid > 0) pids.push_back(pid);
  }
  closedir(proc);
  return pids;
}

pid_t parent_of(pid_t pid) {
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("PPid:")) return atoi(line.c_str() + 5);
  }
  return 0;
}

std::string names_of(const std::vector<pid_t>& pids) {
  std::string out;
  for (pid_t pid : pids) {
    std::string comm;
    std::ifstream(fmt::format("/proc/{}/comm", pid)) >> comm;
    out += fmt::format("{}{} ({})", out.empty() ? "" : ", ", pid, comm);
  }
  return out;
}

// `root` and everything below it.
std::vector<pid_t> descendants_of(pid_t root) {
  std::vector<pid_t> found{root};
  for (std::size_t i = 0; i < found.size(); ++i) {
    std::ifstream children(fmt::format("/proc/{0}/task/{0}/children", found[i]));
    for (pid_t child; children >> child;) found.push_back(child);
  }
  return found;
}

std::string missing_namespaces(const Error& error) {
  return fmt::format(
      "no PID and mount namespace for the application ({}): storage paths can't be switched by "
      "mounts, and no image can be made or restored. The way out: run as root or with "
      "CAP_SYS_ADMIN (in a container --cap-add SYS_ADMIN --cap-add SYS_PTRACE and --security-opt "
      "seccomp=unconfined, apparmor=unconfined where AppArmor denies mounts).",
      error.message());
}

}  // namespace

ExitInfo exit_info(int wait_status) {
  if (WIFSIGNALED(wait_status)) return {true, WTERMSIG(wait_status)};
  return {false, WEXITSTATUS(wait_status)};
}

World::World(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

World::~World() {
  impl_->release.reset();
  end(Deadline::in(Millis(5000))).ignore();
  impl_->stdio->finish(Deadline::in(Millis(1000)));
}

void World::Impl::connect() {
  mounts = std::make_unique<WorldMounts>(link ? link->pid() : 0);
  WorldStdio::Opener opener;
  if (InitLink* to = link.get())
    opener = [to](const OpenSpec& file) { return to->open(file, Deadline::in(kAskTime)); };
  WorldMounts* all = mounts.get();
  stdio = std::make_unique<WorldStdio>(std::move(opener), [all](const std::string& path) { return all->in_a_place(path); });
}

Result<std::unique_ptr<World>> World::create(const WorldSpec& spec) {
  InheritedState::record();
  auto impl = std::make_unique<Impl>();
  if (spec.want_namespaces) {
    auto link = InitLink::start(Deadline::in(kStartTime));
    if (link) {
      impl->link = link.take();
    } else {
      impl->limits.push_back(missing_namespaces(link.error()));
    }
  } else {
    impl->limits.push_back(missing_namespaces(plain_error("not asked for")));
  }
  if (!impl->link && prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return errno_error("prctl(PR_SET_CHILD_SUBREAPER)");
  impl->connect();
  const pid_t init = impl->link ? impl->link->pid() : 0;
  InitLink* link = impl->link.get();
  WorldMounts* mounts = impl->mounts.get();
  std::unique_ptr<World> world(new World(std::move(impl)));

  auto places = spec.places;
  // Outer places first: an inner one is mounted on top of them.
  std::stable_sort(places.begin(), places.end(), [](const PlaceSpec& a, const PlaceSpec& b) {
    return a.place.size() < b.place.size();
  });
  for (const auto& place : places) {
    if (!place.place.starts_with('/'))
      return errno_error(EINVAL, fmt::format("storage path {}: {} is no absolute path", place.name,
                                             place.place));
    if (!link) {
      mounts->declare(place.name, place.place);
      continue;
    }
    auto bound = mounts->bind(place.name, place.place, place.source, Deadline::in(kBindTime));
    if (!bound) return bound.error().with("storage path " + place.name);
  }
  std::string root = init > 0 ? fmt::format("/proc/{}/root", init) : "/";
  world->impl_->root.reset(open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!world->impl_->root) return errno_error("open " + root);
  return world;
}

bool World::has_namespaces() const { return impl_->link != nullptr; }
pid_t World::init_pid() const { return impl_->link ? impl_->link->pid() : 0; }
std::vector<std::string> World::limits() const { return impl_->limits; }
int World::root_fd() const { return impl_->root.get(); }
bool World::own_session() const { return has_namespaces(); }
int World::event_fd() const { return impl_->link ? impl_->link->socket() : -1; }
void World::keep_tools_off(const std::set<int>& pids) { impl_->kept_pids = pids; }

std::vector<std::string> World::made_directories() const {
  return impl_->mounts->made_directories();
}
std::vector<std::string> World::warnings() const { return impl_->mounts->warnings(); }
int World::place_fd(const std::string& name) const { return impl_->mounts->root_fd(name); }
std::set<std::uint64_t> World::mount_ids(const std::string& name) const {
  return impl_->mounts->mount_ids(name);
}

Status World::rebind(const std::string& name, const std::string& source, Deadline deadline) {
  Impl& w = *impl_;
  if (!w.mounts->has(name)) return errno_error(ENOENT, "no storage path is named " + name);
  if (!w.link)
    return errno_error(EPERM, fmt::format("storage path {} can't be bound to {} without a mount "
                                          "namespace (CAP_SYS_ADMIN)", name, source));
  const std::string former = w.mounts->device(name);
  auto bound = w.mounts->bind(name, w.mounts->place(name), source, deadline);
  if (!bound) return bound.error().with("storage path " + name);
  if (w.mounts->device(name) != former) w.stdio->release_file_system(former, deadline);
  return {};
}

Result<InitLink::Spawned> World::Impl::spawn(const SpawnPlan& plan, const std::vector<int>& fds,
                                             Deadline deadline) {
  if (link) return link->spawn(plan, fds, deadline);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0) run_child(plan, fds);
  int err = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return errno_error(err, "fork");
  return InitLink::Spawned{pid, pid};
}

Result<int> World::Impl::wait(const InitLink::Spawned& child, Deadline deadline) {
  if (link) return link->wait_exit(child.inner, deadline);
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, child.outer, 0)));
  for (;;) {
    int status = 0;
    pid_t got = waitpid(child.outer, &status, WNOHANG);
    if (got == child.outer) return status;
    if (got < 0 && errno != EINTR) return errno_error(fmt::format("wait for {}", child.outer));
    if (deadline.passed())
      return errno_error(ETIMEDOUT, fmt::format("process {} has not ended", child.outer));
    pollfd wait{pidfd.get(), POLLIN, 0};
    poll(&wait, 1, pidfd ? deadline.left_ms() : 5);
  }
}

// A run of free numbers far from the application's, from the top downwards.
int World::Impl::tool_pid_base() const {
  int top = 32768;
  std::ifstream("/proc/sys/kernel/pid_max") >> top;
  for (int base = top - kToolPids - 1; base > 300; base -= kToolPids) {
    auto taken = kept_pids.upper_bound(base);
    if (taken == kept_pids.end() || *taken > base + kToolPids) return base;
  }
  return 0;
}

Result<ExitInfo> World::run(const ProcessSpec& spec, Deadline deadline) {
  Impl& w = *impl_;
  if (spec.argv.empty()) return errno_error(EINVAL, "no tool to run");
  SpawnPlan plan;
  plan.argv = spec.argv;
  plan.env = spec.env;
  if (plan.env.empty())
    plan.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  plan.cwd = spec.cwd;
  plan.new_group = true;
  plan.tool = true;
  plan.pid_base = w.link ? w.tool_pid_base() : 0;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno_error("pipe");
  UniqueFd notes(ends[0]);
  UniqueFd theirs(ends[1]);
  std::vector<int> fds{theirs.get()};
  for (auto [ours, number] : spec.fds) {
    fds.push_back(ours);
    plan.targets.push_back(number);
  }
  auto child = w.spawn(plan, fds, deadline);
  if (!child) return child.error().with("run " + plan.argv[0]);
  theirs.reset();
  auto status = w.wait(*child, deadline);
  if (!status && status.error().err == ETIMEDOUT) {
    const Deadline last = Deadline::in(kKillTime);
    for (pid_t target : {-child->inner, child->inner}) {
      if (w.link) {
        w.link->signal(target, SIGKILL, last).ignore();
      } else {
        kill(target, SIGKILL);
      }
    }
    bool gone = w.wait(*child, last).ok();
    return errno_error(ETIMEDOUT,
                       fmt::format("{} (PID {}) did not end in time and {}", plan.argv[0],
                                   child->outer, gone ? "was killed" : "can't be killed: it sits in "
                                   "uninterruptible sleep"));
  }
  if (!status) return status.error();
  // A tool that was killed may leave helpers in its group.
  if (*status != 0 && w.link) w.link->signal(-child->inner, SIGKILL, Deadline::in(kKillTime)).ignore();
  ChildNote note;
  if (read(notes.get(), &note, sizeof note) == sizeof note) return child_error(plan, note);
  return exit_info(*status);
}

Result<pid_t> World::outer_pid(int inner) const {
  if (!impl_->link) return static_cast<pid_t>(inner);
  return impl_->link->outer_pid(inner, Deadline::in(kAskTime));
}

Result<int> World::inner_pid(pid_t outer) const {
  if (!impl_->link) return static_cast<int>(outer);
  auto init = namespace_pids(impl_->link->pid());
  auto pids = namespace_pids(outer);
  if (init.empty() || pids.size() < init.size())
    return errno_error(ESRCH, fmt::format("process {} is not in the world", outer));
  return pids[init.size() - 1];
}

Result<int> World::last_pid() const {
  if (!impl_->link) return 0;
  return impl_->link->last_pid(Deadline::in(kAskTime));
}

Status World::set_last_pid(int value) {
  if (!impl_->link) return {};
  return impl_->link->set_last_pid(value, Deadline::in(kAskTime));
}

Status World::end(Deadline deadline) {
  Impl& w = *impl_;
  if (w.ended) return {};
  w.ended = true;
  const pid_t init = init_pid();
  const pid_t root = init > 0 ? init : w.app_outer;
  if (root <= 0) return {};
  const std::string ns = pid_namespace(init > 0 ? init : getpid());
  if (init > 0) {
    // The kernel ends all that is in its namespace. Most often there is nothing more to do than to wait for it.
    kill(init, SIGKILL);
    UniqueFd death(static_cast<int>(syscall(SYS_pidfd_open, init, 0)));
    pollfd wait{death.get(), POLLIN, 0};
    if (death && poll(&wait, 1, kEndAlone) == 1 && waitpid(init, nullptr, WNOHANG) == init) return {};
  }
  std::vector<pid_t> left;
  for (;;) {
    left.clear();
    if (init > 0) {
      kill(init, SIGKILL);
      for (pid_t pid : all_pids()) {
        if (!ns.empty() && pid_namespace(pid) == ns) left.push_back(pid);
      }
    } else {
      for (pid_t pid : descendants_of(root)) {
        if (kill(pid, SIGKILL) == 0) left.push_back(pid);
      }
      // Orphans came to us as the subreaper; our relays are not among them.
      auto relays = w.stdio->relay_pids();
      for (pid_t pid : descendants_of(getpid())) {
        if (pid == getpid() || std::find(relays.begin(), relays.end(), pid) != relays.end())
          continue;
        if (parent_of(pid) == getpid() && kill(pid, SIGKILL) == 0) left.push_back(pid);
      }
    }
    // The init can't end before the zombies that we trace are reaped by us.
    for (pid_t pid : left) {
      if (pid != init) waitpid(pid, nullptr, WNOHANG | __WALL);
    }
    pid_t got = init > 0 ? waitpid(init, nullptr, WNOHANG) : 0;
    if (init > 0 && (got == init || (got < 0 && errno == ECHILD && kill(init, 0) != 0))) return {};
    if (init == 0 && left.empty()) return {};
    if (deadline.passed()) break;
    poll(nullptr, 0, 2);
  }
  return errno_error(ETIMEDOUT,
                     fmt::format("the application's world does not end; still there: {}. Processes "
                                 "in uninterruptible sleep end when their file system answers",
                                 names_of(left)));
}

}  // namespace supervise
