// Images of the running application: what they are of, how they are made, and how the application
// goes on afterwards.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

#include "restore/host_identity.h"
#include "restore/criu.h"
#include "restore/host_facts.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/scope_exit.h"
#include "supervisor/session.h"
#include "supervisor/session_json.h"
#include "supervisor/warm/sockets.h"
#include "supervisor/world_mounts.h"
#include "tracer/memory.h"
#include "tracer/snapshot.h"

namespace supervise {
namespace {

int inner_pid_of(pid_t tid) {
  auto status = task_status(tid);
  return status && !status->ns_pid.empty() ? status->ns_pid.back() : tid;
}

std::string where_is(pid_t tid) {
  auto regs = ptrace_raw::get_regs(tid);
  if (!regs) return "?";
  if (in_call(*regs)) return std::string(syscall_name(static_cast<int>(regs->orig_rax)));
  // A rewound call has its number in rax and the instruction (syscall: 0f 05) ahead.
  auto ahead = read_value<std::uint16_t>(tid, regs->rip);
  if (ahead && *ahead == 0x050f) return std::string(syscall_name(static_cast<int>(regs->rax)));
  return "user code";
}

// The program a process was started from is the one thing of a storage path that can't be moved: after
// a switch it is on a mount that nobody sees, and CRIU's restore dies of it.
Status program_is_reachable(pid_t pid, pid_t init) {
  auto name = proc_link(pid, "exe");
  UniqueFd program(open(fmt::format("/proc/{}/exe", pid).c_str(), O_PATH | O_CLOEXEC));
  auto info = fd_info(getpid(), program.get());
  if (!name || name->starts_with("/memfd:") || !program || !info) return {};
  // It may have a namespace or a root of its own.
  for (pid_t whose : {init, pid}) {
    auto mounts = read_mountinfo(fmt::format("/proc/{}/mountinfo", whose));
    if (!mounts || std::any_of(mounts->begin(), mounts->end(),
                               [&](const MountEntry& m) { return m.id == info->mnt_id; }))
      return {};
  }
  return plain_error(fmt::format("process {} ({}) runs a program that lies on a storage path which was "
                                 "switched since: its image could not be resumed; keep programs elsewhere",
                                 pid, task_name(pid)));
}

// Bytes that an image of these processes takes at least: the memory that no file backs.
std::uint64_t memory_of(const std::vector<pid_t>& pids) {
  std::uint64_t kib = 0;
  for (pid_t pid : pids) {
    auto text = read_proc_file(fmt::format("/proc/{}/status", pid));
    if (!text) continue;
    for (const char* field : {"\nRssAnon:", "\nRssShmem:"})
      if (const auto at = text->find(field); at != text->npos)
        kib += strtoull(text->c_str() + at + strlen(field), nullptr, 10);
  }
  return kib << 10;
}

struct StoreRoom {
  std::string dir;
  std::uint64_t needed = 0, free = 0;  // before the attempt
};

std::uint64_t free_in(const std::string& dir) {
  struct statvfs fs {};
  return statvfs(dir.c_str(), &fs) == 0 ? static_cast<std::uint64_t>(fs.f_bavail) * fs.f_frsize : ~0ull;
}

// CRIU says only that some splice or write failed, if that. While the draft is still there.
Error if_full(const Error& error, const StoreRoom& room) {
  constexpr std::uint64_t kScraps = 64 << 10;
  if (error.err != ENOSPC && error.err != EDQUOT && error.what.find("No space left") == std::string::npos &&
      free_in(room.dir) > kScraps)
    return error;
  const auto mib = [](std::uint64_t n) { return static_cast<double>(n) / (1 << 20); };
  return errno_error(error.err == EDQUOT ? EDQUOT : ENOSPC,
                     fmt::format("the image store {} is full: an image needs about {:.1f} MiB there, {:.1f} MiB were "
                                 "free; remove images (`supervise images prune`) or give it more room ({})",
                                 room.dir, mib(room.needed), mib(room.free), error.message()));
}

}  // namespace

// An image is of one process tree: what has been orphaned to the world's init is a tree of its own.
Result<std::vector<pid_t>> Session::image_roots() const {
  std::set<pid_t> pids;
  for (const auto& [tid, task] : tracer_.all()) pids.insert(task.tgid);
  auto roots = roots_among(pids);
  if (roots.empty()) return plain_error("no process is left");
  if (std::any_of(paths_.all().begin(), paths_.all().end(), [](const auto& p) { return p->switches > 0; }))
    for (pid_t pid : pids) RETURN_IF_ERROR(program_is_reachable(pid, world_->init_pid()));
  return roots;
}

void Session::fill_manifest(Manifest& m, pid_t root, const std::string& reason) const {
  const HostFacts facts = host_facts();
  m.supervise_version = SUPERVISE_VERSION;
  m.criu_version = criu_version_;
  m.kernel = facts.kernel;
  m.machine = facts.machine;
  m.origin_host = facts.host;
  m.cpu_flags = facts.cpu_flags;
  m.app_name = config_.name;
  m.command = config_.command;
  m.reason = reason;
  m.created_unix_ns = unix_now_ns();
  m.error_unix_ns = incident_.first_error_unix_ns;
  m.root_pid = inner_pid_of(root);
  m.run_options = run_options_to_json(config_);
  CarriedState state;
  state.incidents = incidents_;
  state.last_pid = world_->last_pid().value_or(0);
  for (pid_t pid : default_traps_) state.guarded.insert(inner_pid_of(pid));
  for (const auto& [tid, task] : tracer_.all()) {
    ImageThread thread{inner_pid_of(task.tgid), inner_pid_of(tid), task_name(tid), where_is(tid), "", "", "", {}};
    if (auto known = thread_notes_.find(tid); known != thread_notes_.end()) {
      thread.reason = known->second.reason;
      thread.ref_class = known->second.ref_class;
      thread.peer = known->second.peer;
      thread.stack = known->second.stack;
    }
    m.threads.push_back(std::move(thread));
    if (task.app_stopped) state.stopped.insert(inner_pid_of(task.tgid));
  }
  m.state = carried_state_to_json(state);
  for (const auto& path : paths_.all()) m.paths.push_back({path->name, path->place});
  std::set<std::string> seen;
  for (const auto& [tid, task] : tracer_.all()) {
    if (tid != task.tgid) continue;
    for (int fd : fds_of(tid)) {
      FdInfo info;
      StoragePath* path = paths_.of_fd(tid, fd, info);
      if (!path) continue;
      bool deleted = false;
      auto name = StoragePaths::name_of_fd(tid, fd, *path, deleted);
      auto file = facts_of_fd(tid, fd);
      if (!name || deleted || !file || !S_ISREG(file->mode)) continue;
      const std::string full = path->place + "/" + *name;
      if (seen.insert(full).second) m.files.push_back({full, file->size, ""});
    }
  }
  m.portability = image_facts_;
  for (const StdioInfo& s : world_->stdio()) m.stdio.push_back({s.fd, s.kind, s.id});
}

Result<Session::Made> Session::make_image(ImageStore& store, const std::string& reason,
                                          std::uint64_t epoch,
                                          const std::function<void(const ImageStore::Draft&)>& begun) {
  ASSIGN_OR_RETURN(const auto roots, image_roots());
  if (roots.size() != 1) {
    return plain_error(fmt::format(
        "{} process trees: an image holds one; processes {} and {} have no common ancestor but the "
        "world's init (daemons that left their parent)", roots.size(), roots[0], roots[1]));
  }
  ASSIGN_OR_RETURN(const Criu criu, Criu::find());
  const StoreRoom room{store.dir(), memory_of(tracer_.processes()), free_in(store.dir())};
  auto drafted = store.begin();
  if (!drafted) return if_full(drafted.error(), room);
  ImageStore::Draft draft = drafted.take();
  ScopeExit abandon([&] { ImageStore::abandon(draft); });
  if (begun) begun(draft);
  Made made;
  Manifest& m = made.manifest;
  guard();
  fill_manifest(m, roots[0], reason);
  m.generation = draft.generation;
  m.epoch = epoch;

  const auto frozen_at = Clock::now();
  RETURN_IF_ERROR(fault_point("handover.7.park"));
  parked_ = std::make_shared<Snapshot>(Snapshot::take(tracer_));
  RETURN_IF_ERROR(tracer_.park(Deadline::in(Millis(20000))));
  events_.info("handover.step", fmt::format("{} threads parked in {:.1f} ms", m.threads.size(),
                                            ms_between(frozen_at, Clock::now())),
               {{"step", std::int64_t{7}}});
  const auto dump_at = Clock::now();
  RETURN_IF_ERROR(fault_point("handover.8.dump"));
  DumpRequest request;
  request.root_pid = m.root_pid;
  request.image_dir_fd = draft.dir_fd.get();
  request.leave_stopped = true;
  request.external = world_->criu_externals();
  request.tcp = config_.tcp;
  auto figures = criu.dump(*world_, request, Deadline::in(Criu::deadline()));
  if (!figures) return if_full(figures.error(), room);
  parked_.reset();  // CRIU has put everything back itself
  made.dump_ms = ms_between(dump_at, Clock::now());
  events_.info("handover.step",
               fmt::format("dumped {:.1f} MiB in {:.1f} ms", static_cast<double>(figures->pages_written) / 256.0, made.dump_ms),
               {{"step", std::int64_t{8}}, {"ms", made.dump_ms}});
  const auto ship_at = Clock::now();
  m.dump_ms = made.dump_ms;
  m.freeze_ms = ms_between(frozen_at, Clock::now());
  RETURN_IF_ERROR(fault_point("handover.9.manifest"));
  abandon.dismiss();
  auto image = store.finish(std::move(draft), m);
  if (!image) return if_full(image.error(), room);
  made.image = image.take();
  made.ship_ms = ms_between(ship_at, Clock::now());
  made.frozen = std::chrono::duration_cast<Millis>(Clock::now() - frozen_at);
  last_image_ = made.image.dir;
  return made;
}

void Session::guard() {
  tracer_.undo_safety();  // a thread that runs an injected call must not meet our SIGSTOP
  default_traps_ = default_traps(tracer_);
  guarded_ = true;
  if (keeper_.page()) keeper_.page()->guarded = true;
  guard_traps(tracer_, default_traps_);
  drain_ring();
  tracer_.unshare_stub(Deadline::in(Millis(20000)));
  if (keeper_.running()) tracer_.make_safe().ignore();
}

void Session::unguard() {
  if (guarded_) unguard_traps(tracer_, default_traps_);
  if (guarded_) tracer_.share_stub(Deadline::in(Millis(20000)));
  guarded_ = false;
  if (keeper_.page()) keeper_.page()->guarded = false;
}

void Session::let_go() {
  tracer_.undo_safety();
  unguard();
  tracer_.resume_all();
}

Status Session::take_back(const std::vector<pid_t>& roots) {
  if (tracer_.has_tasks()) {  // never parked
    let_go();
    return {};
  }
  // No thread may run, not even to take a signal, before its registers are its own again.
  RETURN_IF_ERROR(tracer_.adopt(roots, tracer_.stopped_by_app(), Deadline::in(Millis(20000)), [&] {
    if (!parked_) return;
    if (const std::size_t n = parked_->put_back(tracer_))
      events_.warn("image.repaired", fmt::format("{} threads were put back as they were before the dump that failed", n));
  }));
  unguard();
  if (parked_) parked_->tidy(tracer_);
  parked_.reset();
  end_tcp_repair(tracer_.processes());
  tracer_.resume_all();
  return {};
}

Result<std::string> Session::run_checkpoint(bool stop, const std::string& reason) {
  if (!world_->has_namespaces())
    return plain_error("no image can be made: the application has no world of its own (see `supervise doctor`)");
  const auto began = Clock::now();
  ASSIGN_OR_RETURN(ImageStore store, ImageStore::open(images_of(standby_target()), config_.name, true));
  note_threads();
  RETURN_IF_ERROR(tracer_.hold_all(Deadline::in(Millis(20000))));
  auto roots = image_roots();
  if (!roots) {
    tracer_.resume_all();
    return roots.error();
  }
  struct Again {
    Session* session = nullptr;
    ~Again() {
      if (session) session->unprotect();
    }
  } again;
  if (config_.outlive && incident_.id == 0) {
    protect(Stage::Image);
    again.session = this;
  }
  for (auto& path : paths_.all()) {
    if (!make_durable(*path, "an image")) {
      if (tracer_.holding()) tracer_.resume_all();
      return plain_error(fmt::format("path {}: what was written can't be made durable", path->name));
    }
  }
  auto made = make_image(store, reason, 0, [this](const ImageStore::Draft& draft) { begin_shipping(draft); });
  if (made) shipper_.complete();
  else stop_shipping();
  if (made && stop) {
    if (shipper_.busy()) await_shipping();
    RETURN_IF_ERROR(world_->end(Deadline::in(Millis(20000))));
    world_.reset();
    handed_over_ = true;
    return made->image.dir;
  }
  if (auto s = take_back(*roots); !s) {
    events_.error("checkpoint.lost", s.error().message());
    return s.error();
  }
  if (!made) return made.error();
  if (config_.refresh.count() > 0) next_refresh_ = Clock::now() + config_.refresh;
  events_.info(reason == "warm" ? "warm.image" : "checkpoint.done",
               fmt::format("image {} made: freeze {:.1f} ms (dump {:.1f} ms, hash and sync {:.1f} ms), total {:.1f} ms",
                           made->image.dir, static_cast<double>(made->frozen.count()), made->dump_ms, made->ship_ms,
                           ms_between(began, Clock::now())),
               {{"image", made->image.dir}});
  return made->image.dir;
}

}  // namespace supervise
