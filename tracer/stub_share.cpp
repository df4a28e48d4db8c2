// What the address spaces share with the supervisor, the control block and the ring: put in, taken out, renewed.
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <utility>

#include "tracer/abi_x86_64.h"
#include "tracer/fd_channel.h"
#include "tracer/inject.h"
#include "tracer/memory.h"
#include "tracer/stub/stub.h"
#include "tracer/tracer.h"

namespace supervise {

using ptrace_raw::Regs;

void Tracer::unshare_stub(Deadline deadline) {
  if (!stub_) return;
  std::set<const stub::Space*> done;
  for (pid_t pid : processes()) {
    Task* task = any_thread(pid);
    if (!task || !task->space || !task->space->installed || !done.insert(task->space.get()).second) continue;
    auto in = Injector::open(*this, *task, deadline);
    if (in) stub_->unshare(*in, *task->space).ignore();
  }
}

void Tracer::share_stub(Deadline deadline, bool mapped) {
  if (!stub_) return;
  std::map<pid_t, std::shared_ptr<stub::Space>> spaces;
  stub_->own_filters |= std::ranges::any_of(tasks_, [](const auto& task) { return !task.second.space; });
  for (auto& [tid, task] : tasks_) {
    if (!task.space) {
      const Task* parent = task.vfork_child ? find(task.vfork_parent) : nullptr;
      const pid_t owner = parent ? parent->tgid : task.tgid;
      if (parent) task.no_area = task.stranger = true;
      auto& space = spaces[owner];
      if (!space) {
        space = std::make_shared<stub::Space>();
        auto found = stub_->find(owner, *space);
        if (!found) space->refused = stub_->figures.last_refusal = found.error().message();
      }
      task.space = space;
    }
  }
  std::set<const stub::Space*> done;
  for (pid_t pid : processes()) {
    Task* task = any_thread(pid);
    if (!task || !task->space || !task->space->installed || !done.insert(task->space.get()).second) continue;
    stub::Space& space = *task->space;
    Status shared;
    if (!mapped) {
      auto in = Injector::open(*this, *task, deadline);
      shared = in ? stub_->share(*in, space) : Status(in.error());
    }
    if (mapped) {
      auto copy = stub_->has_copy(pid, space);
      shared = copy ? Status() : Status(copy.error());
      space.light = copy && *copy;
      if (space.light) shared = stub_->copy_control(pid, space);
    }
    if (shared && !mapped) shared = stub_->renew_code(pid, space);
    if (!shared) space.refused = stub_->figures.last_refusal = shared.error().message();
    // Areas of threads of before are known by %gs; they get their new numbers.
    std::set<std::uint64_t> used;
    for (auto& [tid, t] : tasks_) {
      if (t.space.get() != &space || t.no_area) continue;
      auto regs = ptrace_raw::get_regs(tid);
      const std::uint64_t gs = regs ? regs->gs_base : 0;
      t.area = shared && gs >= space.at(stub::kAreas) && gs < space.at(stub::kAreas) + stub::kAreasSize ? gs : 0;
      if (!t.area && gs) ptrace_raw::set_gs_base(tid, 0).ignore();
      if (!t.area || !used.insert(t.area).second) continue;
      if (regs && t.state == RunState::Stopped && leave_stub(t, *regs)) ptrace_raw::set_regs(tid, *regs).ignore();
      stub::Area area{};
      area.tid = static_cast<std::uint32_t>(tid);
      write_exact(tid, t.area, std::as_bytes(std::span(&area, 1))).ignore();
    }
    space.free_areas.clear();
    for (std::uint32_t i = 0; i < space.areas; ++i)
      if (!used.contains(space.at(stub::kAreas) + i * stub::kAreaSize)) space.free_areas.push_back(i);
    if (!shared) continue;
    for (auto& [tid, t] : tasks_) {
      if (t.space.get() != &space || t.area || t.no_area || t.tgid != pid || t.state != RunState::Stopped) continue;
      t.begin = Task::NewThread;
      begin(t);
    }
  }
}

// As Stub::share(), with two stops: the task, alone or with all others of its memory stopped, makes the calls itself.
Status Tracer::share_at_entry(Task& task, const Regs& regs) {
  const pid_t tid = task.tid;
  const std::uint64_t at = task.area + stub::kAreaData;
  const auto arg = [](int fd) { return static_cast<std::uint64_t>(fd); };
  const std::uint64_t control = task.space->at(stub::kControl);
  static_assert(sizeof(DescriptorMessage) <= stub::kAreaDataSize);

  stub::ArenaCall pair[] = {{SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, at}, 0}};
  RETURN_IF_ERROR(make_calls(task, regs, pair));
  if (pair[0].result < 0) return errno_error(static_cast<int>(-pair[0].result), "a socket pair in the application");
  int fds[2] = {-1, -1};
  RETURN_IF_ERROR(read_exact(tid, at, std::as_writable_bytes(std::span(fds))));
  const auto sent = [&]() -> Status {
    ASSIGN_OR_RETURN(const UniqueFd ours, descriptor_of(task.tgid, fds[1]));
    RETURN_IF_ERROR(send_descriptor(ours.get(), stub_->memory()));
    const DescriptorMessage message(at);
    return write_exact(tid, at, std::as_bytes(std::span(&message, 1)));
  }();
  DescriptorMessage message(at);
  // The lowest free number is the one that was closed just before.
  stub::ArenaCall take[] = {
      {SYS_close, {arg(fds[1])}, 0},
      {sent ? SYS_recvmsg : SYS_getpid, {arg(fds[0]), message.header_at(at), MSG_DONTWAIT | MSG_CMSG_CLOEXEC}, 0},
      {sent ? SYS_mmap : SYS_getpid,
       {control, stub::kSharedSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, arg(fds[1]), 0}, 0},
      {sent ? SYS_close : SYS_getpid, {arg(fds[1])}, 0},
      {SYS_close, {arg(fds[0])}, 0},
  };
  RETURN_IF_ERROR(make_calls(task, regs, take));
  RETURN_IF_ERROR(sent);
  RETURN_IF_ERROR(read_exact(tid, at, std::as_writable_bytes(std::span(&message, 1))));
  ASSIGN_OR_RETURN(const int number, message.number());
  if (number != fds[1]) return plain_error("a descriptor came with another number");
  if (take[2].result < 0) return errno_error(static_cast<int>(-take[2].result), "mmap of the journal's ring in the application");
  return stub_->was_shared(tid, *task.space);
}

// A program with a copy of the control block, at the entry of a call, that writes much to storage paths. False: it ended.
bool Tracer::share_with(Task& task) {
  const pid_t tid = task.tid;
  std::shared_ptr<stub::Space> space = task.space;
  std::vector<std::pair<pid_t, int>> stopped;
  if (auto regs = ptrace_raw::get_regs(tid); regs && stop_others(task, stopped, true)) {
    const Status shared = share_at_entry(task, *regs);
    // It stands at the stop of another call: that becomes its own again (seccomp(2) looks at it anew).
    if (find(tid)) ptrace_raw::set_regs(tid, *regs).ignore();
    if (!shared) space->refused = stub_->figures.last_refusal = shared.error().message();
    space->calls_to_share = 0;
  }
  for (auto [other, status] : stopped) handle(other, status);
  return find(tid) != nullptr;
}

// Changes of the control block, for those that have a copy of it.
void Tracer::renew_copies(bool all_of_it) {
  if (!stub_) return;
  std::set<const stub::Space*> done;
  for (auto& [tid, task] : tasks_) {
    if (!task.space || !task.space->light || !task.space->installed || !done.insert(task.space.get()).second) continue;
    if (all_of_it) stub_->copy_control(tid, *task.space).ignore();
    else stub_->copy_flags(tid, *task.space).ignore();
  }
}

}  // namespace supervise
