// What of the calls may stay in process, and what comes back from there: the control block is filled from
// the table, the paths and the rules; the ring is taken into the journals before anything that reads them.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "supervisor/base/errno_class.h"
#include "supervisor/ring_journal.h"
#include "supervisor/session.h"
#include "tracer/stub/stub.h"

namespace supervise {

using stub::Mode;

namespace {

bool is(int nr, std::initializer_list<long> list) {
  return std::ranges::any_of(list, [nr](long n) { return n == nr; });
}

Mode mode_of(const SyscallRow& row) {
  const bool by_name = arg_index(row, ArgKind::Path) >= 0;
  const int nr = row.number;
  switch (row.io) {
    case IoClass::Open: return is(nr, {SYS_open, SYS_openat, SYS_creat}) ? stub::kModeOpen : stub::kModeSlow;
    case IoClass::Read: return nr == SYS_readahead ? stub::kModeFd : stub::kModeRead;
    case IoClass::Write: return stub::kModeWrite;
    case IoClass::Copy: return stub::kModeTwoFds;
    case IoClass::Sync:
      if (is(nr, {SYS_fsync, SYS_fdatasync})) return stub::kModeSync;
      if (nr == SYS_msync) return stub::kModeName;
      return nr == SYS_sync ? stub::kModeSlow : stub::kModeFdChange;
    case IoClass::Resize:
      if (nr == SYS_ftruncate) return stub::kModeResize;
      return by_name ? stub::kModeNameChange : stub::kModeFdChange;
    case IoClass::Seek: return stub::kModeFd;
    case IoClass::Close: return stub::kModeClose;
    case IoClass::Lock: return nr == SYS_fcntl ? stub::kModeFcntl : stub::kModeFd;
    case IoClass::Stat:
      if (is(nr, {SYS_chroot, SYS_fanotify_mark})) return stub::kModeSlow;
      return by_name ? stub::kModeName : stub::kModeFd;
    case IoClass::Names:
      if (is(nr, {SYS_unlink, SYS_unlinkat})) return stub::kModeUnlink;
      return is(nr, {SYS_rename, SYS_renameat, SYS_renameat2}) ? stub::kModeRename : stub::kModeNameChange;
    case IoClass::Attributes:
      if (is(nr, {SYS_fchmod, SYS_fchown, SYS_utimensat})) return stub::kModeAttributes;
      return by_name ? stub::kModeNameChange : stub::kModeFdChange;
    case IoClass::Descriptor:
      if (is(nr, {SYS_dup, SYS_dup2, SYS_dup3})) return stub::kModeDup;
      return nr == SYS_close_range ? stub::kModeCloseRange : stub::kModeSlow;
    case IoClass::Map: return nr == SYS_mmap ? stub::kModeMap : stub::kModeNative;
    case IoClass::Socket:
    case IoClass::Ipc: return stub::kModeNative;
    case IoClass::None: return stub::kModeNative;
    case IoClass::Aio:
    case IoClass::Process:
    case IoClass::Refuse: return stub::kModeSlow;
  }
  return stub::kModeSlow;
}

// Which arguments are names, and whether what a final link leads to, or the link itself, is changed. Where
// a flag decides, both must lie elsewhere.
std::uint16_t names_of(const SyscallRow& row) {
  unsigned value = 0;
  int which = 0;
  for (int i = 0; i < 6 && which < 2; ++i) {
    if (row.args[static_cast<std::size_t>(i)] != ArgKind::Path) continue;
    const bool at = i > 0 && row.args[static_cast<std::size_t>(i - 1)] == ArgKind::DirFd;
    const bool link_itself = row.io == IoClass::Names || is(row.number, {SYS_lchown, SYS_lsetxattr, SYS_lremovexattr});
    value |= stub::name_arg(at ? i - 1 : -1, i, !link_itself, which++);
    const bool flag_decides = row.io == IoClass::Attributes && arg_index(row, ArgKind::Flags) >= 0 && at;
    if (flag_decides) value |= stub::name_arg(at ? i - 1 : -1, i, false, which++);
  }
  return static_cast<std::uint16_t>(value);
}

}  // namespace

void Session::start_stub() {
  if (config_.stub == StubMode::Off || tracer_.stub()) return;
  auto made = stub::Stub::create();
  if (!made) {
    // Asked for, or not: it goes on, only slower.
    stub_problem_ = made.error().message();
    if (config_.stub == StubMode::On) events_.warn("stub.unavailable", made.error().message());
    else events_.info("stub.unavailable", made.error().message());
    return;
  }
  stub::Control& c = (*made)->control();
  for (const auto& row : syscall_table()) {
    const auto nr = static_cast<std::size_t>(row.number);
    if (nr >= stub::kModes) continue;
    c.modes[nr] = mode_of(row);
    c.names[nr] = names_of(row);
    // A name argument that the stub can't tell of.
    if (c.modes[nr] == stub::kModeNameChange && c.names[nr] == 0) c.modes[nr] = stub::kModeSlow;
  }
  c.want_at = std::clamp<std::uint64_t>(config_.journal_limit / 16, 4096, stub::kRingSize / 2);
  ring_ = std::make_unique<RingJournal>((*made)->control(), (*made)->ring(), paths_);
  ring_->on_torn([this](StoragePath& path, const RingJournal::Torn& t) {
    auto read = t.deleted ? Result<std::string>(plain_error("it has no name"))
                          : read_back(path, t.name, t.ino, t.offset, t.bytes);
    if (!read || read->size() != t.bytes) return false;
    path.journal.wrote({0, t.ino}, t.name, t.offset, std::as_bytes(std::span(*read)), t.size);
    return true;
  });
  tracer_.use_stub(std::move(*made));
  refresh_stub();
}

// After anything that the control block tells of has changed.
void Session::refresh_stub() {
  stub::Stub* s = tracer_.stub();
  if (!s) return;
  stub::Control& c = s->control();
  std::uint64_t errnos[4] = {};
  for (int e = 1; e < 256; ++e) {
    bool named = e == EFAULT;
    for (const auto& path : paths_.all()) named |= policy_.names_errno(path->name, e);
    if (named) errnos[e / 64] |= 1ull << (e % 64);
  }
  std::copy(std::begin(errnos), std::end(errnos), c.errnos);
  unsigned mounts = 0;
  bool all_known = true;
  for (const auto& path : paths_.all()) {
    for (std::uint64_t id : path->mounts) {
      if (mounts == stub::kMounts) {
        all_known = false;
        break;
      }
      c.mount_ids[mounts] = id;
      c.mount_path[mounts++] = static_cast<std::uint8_t>(path->slot);
    }
  }
  c.mounts = all_known ? mounts : 0;
  stub_by_mount_ = world_ && world_->has_namespaces() && all_known;
  refresh_stub_flags();
  tracer_.renew_copies(true);
}

void Session::refresh_stub_flags() {
  stub::Stub* s = tracer_.stub();
  if (!s) return;
  stub::Control& c = s->control();
  std::uint32_t flags = 0;
  if (stub_by_mount_) flags |= stub::kByMount;
  if (paths_.empty()) flags |= stub::kNoPaths;
  flags |= config_.journal == JournalMode::Content ? stub::kJournalContent : stub::kJournalRanges;
  // While something is repaired, or watched for, every call is looked at.
  const bool watch = warm_ && warm_->watching();
  if (!failed_.empty() || incident_.id != 0 || (on_first_io && !first_io_told_) || watch) flags |= stub::kSlow;
  const bool changed = c.flags != flags;
  __atomic_store_n(&c.flags, flags, __ATOMIC_RELEASE);
  if (changed) tracer_.renew_copies(false);
  s->paused = watch;
}

void Session::drain_ring() {
  if (!ring_ || ring_->empty()) return;
  auto drained = ring_->drain([this](pid_t tid) { return tracer_.find(tid) != nullptr; });
  if (!drained) events_.error("journal.ring_broken", drained.error().message());
  want_renewal_ |= ring_->wants_reset();
}

// What is known of descriptors is void: they are other files now.
void Session::renew_descriptors() {
  drain_ring();
  if (ring_) ring_->reset();
  refresh_stub();
}

// What the stub shall know of the descriptor that the call at hand names.
void Session::give_hint(Task& task, const CallContext& ctx) {
  if (!task.wants_hint || ctx.by_name) return;
  const int fd_at = arg_index(*task.call->row, ArgKind::Fd);
  if (fd_at < 0) return;
  const int fd = static_cast<int>(task.call->args[static_cast<std::size_t>(fd_at)]);
  if (!ctx.path) {
    if (ctx.at_entry.mnt_id != 0) task.hint = stub::kForeign;
    return;
  }
  if (fd != ctx.fd) return;
  auto facts = facts_of_fd(task.tid, fd);
  if (!facts) return;
  task.hint = stub::kDeclaredSlow;
  const bool regular = S_ISREG(facts->mode);
  const int access = ctx.at_entry.flags & O_ACCMODE;
  const bool reads_only = access == O_RDONLY || (ctx.at_entry.flags & O_PATH);
  // Of a file that may be written, too, while its writes go the slow way.
  if ((reads_only && (regular || S_ISDIR(facts->mode))) || (regular && !task.knows_files)) {
    if (stub::kDeclaredRead + ctx.path->slot < stub::kFirstDescription)
      task.hint = static_cast<std::uint32_t>(stub::kDeclaredRead + ctx.path->slot);
    return;
  }
  if (!regular) return;
  bool deleted = false;
  auto name = StoragePaths::name_of_fd(task.tid, fd, *ctx.path, deleted);
  // A file that lives on under a name that nobody knows.
  if (!name || (deleted && facts->nlink > 0)) return;
  drain_ring();
  auto file = ring_->register_file(*ctx.path, facts->ino, *name, deleted, facts->size);
  if (!file) {
    // The table is full: everything is learned anew. Threads in the stub still use it: only with all held.
    want_renewal_ = true;
    return;
  }
  // A write that began before there was a lock: those of the stub wait for it from now on.
  if (auto it = writers_.find({reinterpret_cast<std::uint64_t>(ctx.path), facts->ino}); it != writers_.end() && it->second.owner)
    ring_->try_lock(*ctx.path, facts->ino, static_cast<std::uint32_t>(it->second.owner));
  std::uint8_t flags = 0;
  if (ctx.at_entry.flags & O_APPEND) flags |= stub::kAppend;
  if (ctx.at_entry.flags & O_DSYNC) flags |= stub::kDataSync;
  if (auto id = ring_->describe(*file, flags)) task.hint = static_cast<std::uint32_t>(stub::kFirstDescription + *id);
  else want_renewal_ = true;
}

ExitAction Session::on_result(Task& task, long result, ptrace_raw::Regs& regs, const StubNote& note) {
  if (paths_.empty()) return ExitAction::Continue;
  drain_ring();
  if (auto it = failed_.find(task.tid); it != failed_.end() && it->second.nr != task.call->nr) failed_.erase(it);
  pieces_.erase(task.tid);
  CallContext ctx = begin_call(paths_, task);
  if (task.call->row->io == IoClass::Close && note.path > 0 && note.path <= paths_.all().size()) {
    // It is closed already, whatever the result.
    ctx.path = paths_.all()[note.path - 1].get();
    ctx.facts = {};
    ctx.facts.mode = S_IFREG;
    ctx.by_name = false;
  }
  if (note.facts_known && ctx.by_name) {
    const auto as_before = [](Target& t, const stub::Area::Fact& fact) {
      t.exists = fact.mode != 0;
      t.ino = fact.ino;
      t.mode = fact.mode;
      t.links = fact.links;
      t.is_dir = S_ISDIR(fact.mode);
      t.is_regular = S_ISREG(fact.mode);
    };
    as_before(ctx.target, note.facts[0]);
    as_before(ctx.second, note.facts[1]);
  }
  if (!needs_exit_stop(paths_, task, ctx)) return ExitAction::Continue;
  if (note.entered && ctx.path) ctx.entered = ring_->sequence_at(*ctx.path, note.entered, note.learned);
  calls_[task.tid] = std::move(ctx);
  return on_exit(task, result, regs);
}

void Session::on_ring_filling() {
  drain_ring();
  drain_pace_.filling(Clock::now());
}

// While threads go on: what they write is taken before they have to stop for it.
void Session::serve_ring() {
  if (!ring_ || drain_pace_.due() > Clock::now()) return;
  const std::uint64_t bytes = ring_->pending();
  drain_ring();
  drain_pace_.looked(Clock::now(), bytes);
}

// A write of the slow way with an implicit offset shares the file with those of the stub.
bool Session::take_file_lock(const Task& task, const CallContext& ctx) {
  if (!ring_) return true;
  return ring_->try_lock(*ctx.path, ctx.facts.ino, static_cast<std::uint32_t>(task.tid));
}

namespace {

std::string directory_of(const std::string& name) {
  const auto slash = name.rfind('/');
  return slash == std::string::npos ? "" : name.substr(0, slash);
}

bool changes_names(const Task& task, const CallContext& ctx) {
  const IoClass io = task.call->row->io;
  return (io == IoClass::Names || io == IoClass::Open) && (ctx.target || ctx.second);
}

}  // namespace

// A call of the slow way that changes names: those of the stub in the same directories wait meanwhile, so that
// the journal's order is that of the changes. False: it has to wait itself.
bool Session::lock_names(const Task& task, const CallContext& ctx) {
  if (!ring_ || !changes_names(task, ctx)) return true;
  const auto tid = static_cast<std::uint32_t>(task.tid);
  for (const Target* t : {&ctx.target, &ctx.second}) {
    if (!*t) continue;
    const auto ino = ring_->directory(*t->path, directory_of(t->name));
    if (!ino || ring_->try_lock(*t->path, *ino, tid)) continue;
    ring_->unlock_all(tid);
    return false;
  }
  return true;
}

void Session::unlock_names(const Task& task, const CallContext& ctx) {
  if (ring_ && changes_names(task, ctx)) ring_->unlock_all(static_cast<std::uint32_t>(task.tid));
}

// The stub may change names in it from now on.
void Session::share_directory(const Task& task, StoragePath& path, const std::string& name) {
  if (!stub_by_mount_ || ring_->directory(path, name)) return;
  // One that is under way has no lock.
  for (const auto& [tid, ctx] : calls_)
    if (tid != task.tid && (ctx.target.path == &path || ctx.second.path == &path)) return;
  const Target t = paths_.resolve(task.tid, AT_FDCWD, path.place + "/" + name, false);
  if (t.path != &path || !t.is_dir || t.name != name) return;
  if (!ring_->register_directory(path, t.ino, name)) want_renewal_ = true;
}

// Names and sizes that the slow way has changed.
void Session::learn_for_stub(const Task& task, const CallContext& ctx, long result) {
  const Call& call = *task.call;
  const auto left = [](const Target& t) { return t.links > 0 ? t.links - 1 : 0; };
  switch (call.row->io) {
    case IoClass::Names:
      if (!ctx.path) break;
      if (is(call.nr, {SYS_rename, SYS_renameat, SYS_renameat2})) {
        const bool exchange = call.nr == SYS_renameat2 && (call.args[4] & 2 /* RENAME_EXCHANGE */);
        if (!ctx.target || !ctx.second || (ctx.second.exists && ctx.second.ino == ctx.target.ino)) break;
        // The file that it replaces lives on under a name that nobody told: learned anew.
        if (!exchange && ctx.second.exists && left(ctx.second) > 0 && ring_->find(*ctx.path, ctx.second.ino)) want_renewal_ = true;
        ring_->renamed(*ctx.path, ctx.target.name, ctx.second.name, exchange,
                       ctx.second.exists ? ctx.second.ino : std::optional<std::uint64_t>());
      } else if (is(call.nr, {SYS_unlink, SYS_unlinkat}) && ctx.target) {
        if (left(ctx.target) > 0 && ring_->find(*ctx.path, ctx.target.ino)) want_renewal_ = true;
        else ring_->unlinked(*ctx.path, ctx.target.name,
                             ctx.target.exists ? ctx.target.ino : std::optional<std::uint64_t>());
      } else if (is(call.nr, {SYS_link, SYS_linkat}) && ctx.second) {
        if (const Target made = resolve_arg(paths_, task, call.args, 1); made && made.exists)
          ring_->linked(*ctx.path, made.ino, ctx.second.name);
      }
      if (ctx.target) share_directory(task, *ctx.target.path, directory_of(ctx.target.name));
      if (is(call.nr, {SYS_mkdir, SYS_mkdirat}) && ctx.target) share_directory(task, *ctx.target.path, ctx.target.name);
      break;
    case IoClass::Sync:
      if (ctx.path && ctx.fd >= 0 && S_ISDIR(ctx.facts.mode)) {
        bool deleted = false;
        auto name = StoragePaths::name_of_fd(task.tid, ctx.fd, *ctx.path, deleted);
        if (name && !deleted) share_directory(task, *ctx.path, *name);
      }
      break;
    case IoClass::Open: {
      if (result < 0) return;
      FdInfo info;
      const int fd = static_cast<int>(result);
      StoragePath* path = paths_.of_fd(task.tid, fd, info);
      if (!path) return;
      auto facts = facts_of_fd(task.tid, fd);
      if (facts && S_ISREG(facts->mode) && facts->size == 0) ring_->resized(*path, facts->ino, 0);
      ring_->mark(*path);
      if (ctx.target.path == path) share_directory(task, *path, directory_of(ctx.target.name));
      return;
    }
    case IoClass::Resize:
    case IoClass::Write:
    case IoClass::Copy: {
      if (!ctx.path) break;
      if (ctx.by_name && ctx.target) {
        ring_->resized(*ctx.path, ctx.target.ino, call.args[1]);
      } else if (ctx.fd >= 0) {
        if (auto facts = facts_of_fd(task.tid, ctx.fd)) ring_->resized(*ctx.path, facts->ino, facts->size);
      }
      break;
    }
    case IoClass::Lock:
      // Flags of a description have changed, for all who share it.
      if (ctx.path && call.nr == SYS_fcntl && static_cast<int>(call.args[1]) == F_SETFL) want_renewal_ = true;
      break;
    default: break;
  }
  if (ctx.path) ring_->mark(*ctx.path);
}

void Session::serve_stub() {
  if (!ring_) return;
  for (pid_t tid : std::exchange(wait_for_lock_, {})) {
    if (Task* task = tracer_.find(tid)) tracer_.release(*task);
  }
  if (want_renewal_ && !tracer_.holding()) {
    want_renewal_ = false;
    if (auto s = tracer_.hold_all(Deadline::in(config_.path_deadline)); s) {
      renew_descriptors();
      tracer_.resume_all();
    } else {
      events_.warn("hold.failed", s.error().message());
    }
  }
  refresh_stub_flags();
}

}  // namespace supervise
