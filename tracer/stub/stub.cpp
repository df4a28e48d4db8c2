#include "tracer/stub/stub.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "tracer/fd_channel.h"
#include "tracer/memory.h"
#include "tracer/proc_info.h"
#include "tracer/stub/code.h"
#include "tracer/stub/ring_reader.h"

namespace supervise::stub {
namespace {

constexpr std::uint64_t kNoFd = ~0ull;

constexpr std::uint64_t kMappedFrom = 0x7e0000000000;  // mmap goes downwards from the stack

struct Piece {
  std::uint64_t offset, size;
  int prot;
};
constexpr Piece kPieces[] = {{kAreas, kPrivateSize, PROT_READ | PROT_WRITE},
                             {kCode, kWholeCode, PROT_READ | PROT_EXEC},
                             {kControl, kSharedSize, PROT_READ | PROT_WRITE}};

Result<bool> map_at(Injector& in, std::uint64_t at, std::uint64_t size, int prot) {
  ASSIGN_OR_RETURN(const long got, in.call(SYS_mmap, {at, size, static_cast<std::uint64_t>(prot),
                                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
                                                      kNoFd, 0}));
  if (got == static_cast<long>(at)) return true;
  if (got > 0 || got < -4095) in.call(SYS_munmap, {static_cast<std::uint64_t>(got), size}).value_or(0);
  if (got == -ENOMEM || got == -EACCES || got == -EPERM)
    return errno_error(static_cast<int>(-got), "memory for the stub");
  return false;
}

template <class T>
Status put(pid_t pid, std::uint64_t at, const T& value) {
  return write_exact(pid, at, std::as_bytes(std::span(&value, 1)));
}

// Lines of /proc/PID/status, proc_pid_status(5).
std::string status_line(const std::string& text, std::string_view name) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    if (text.compare(at, name.size(), name) == 0) return text.substr(at + name.size(), end - at - name.size());
    at = end + 1;
  }
  return {};
}

int filters_of(const std::string& status) { return atoi(status_line(status, "Seccomp_filters:").c_str()); }

// The kernel lets programs have a shadow stack (Linux 6.6, CET): one could be turned on after its start.
bool have_shadow_stacks() {
  auto info = read_proc_file("/proc/cpuinfo");
  return !info || info->find("user_shstk") != std::string::npos;
}

}  // namespace

Status Stub::write_code(MemoryWriter& out, std::uint64_t window) {
  std::vector<std::byte> code(code_bytes().begin(), code_bytes().end());
  CodeHead head = code_head();
  head.area_tag = (window + kAreas) / kAreasSize;
  memcpy(code.data(), &head, sizeof head);
  RETURN_IF_ERROR(out.write(window + kCode, code));
  return out.write(window + kTraced, traced_bytes());
}

Result<std::unique_ptr<Stub>> Stub::create() {
  if (!have_fsgsbase())
    return plain_error("calls can't be made in process: this processor or kernel lacks FSGSBASE (Linux 5.9 or later)");
  auto stub = std::unique_ptr<Stub>(new Stub);
  stub->memory_.reset(memfd_create("supervise-stub", MFD_CLOEXEC));
  if (!stub->memory_) return errno_error("memfd_create for the stub");
  if (ftruncate(stub->memory_.get(), kSharedSize) != 0) return errno_error("ftruncate for the stub");
  void* at = mmap(nullptr, kSharedSize, PROT_READ | PROT_WRITE, MAP_SHARED, stub->memory_.get(), 0);
  if (at == MAP_FAILED) return errno_error("mmap for the stub");
  stub->control_ = static_cast<Control*>(at);
  stub->ring_ = static_cast<char*>(at) + kControlSize;
  stub->control_->magic = kMagic;
  stub->control_->version = kVersion;
  stub->control_->flags = kSlow;
  // Another supervisor's, as an image carries it, must never look like ours.
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  stub->starts_programs_ = !have_shadow_stacks();
  stub->control_->fd_epoch = static_cast<std::uint32_t>(now.tv_sec * 1000 + now.tv_nsec / 1'000'000) | 1u << 31;
  return stub;
}

Stub::~Stub() {
  if (control_) munmap(control_, kSharedSize);
}

Status Stub::check_process(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string status, read_proc_file(fmt::format("/proc/{}/status", pid)));
  if (status_line(status, "x86_Thread_features:").find("shstk") != std::string::npos)
    return plain_error("the program uses a shadow stack");
  // Ours, and what this program itself runs under.
  const int filters = filters_of(status);
  if (own_filters_ < 0) {
    ASSIGN_OR_RETURN(const std::string ours, read_proc_file("/proc/self/status"));
    own_filters_ = filters_of(ours);
  }
  if (filters > own_filters_ + 1) return plain_error("the program runs under a seccomp filter of its own");
  return {};
}

bool Stub::may_start() const {
  return starts_programs_ && !paused && !own_filters && !(control_->flags & (kNoPaths | kSlow));
}

void Stub::on_exec(Task& task) const {
  task.start.reset();
  task.space = std::make_shared<Space>();
  task.area = 0;
  task.no_area = task.stranger = false;
  task.begin = Task::Begun;
  task.deferred_signal = 0;
}

void Stub::on_end(const Task& task) {
  release_locks_of(*control_, static_cast<std::uint32_t>(task.tid));
  if (task.space && task.area) task.space->give_area(task.area);
}

bool Stub::is_code(const Task& task, std::uint64_t rip) const {
  return task.space && task.space->installed && rip >= task.space->at(kCode) && rip < task.space->at(kCode) + kCodeSize;
}

bool Stub::is_traced_entry(const Task& task, std::uint64_t ip) const {
  return task.space && task.space->installed && ip == task.space->at(kCode) + code_head().traced_entry + 2;
}

void Stub::forget(const Task& task, std::uint64_t first, std::uint64_t last) const {
  first = static_cast<std::uint32_t>(first);
  last = static_cast<std::uint32_t>(last);
  if (first != last) {
    auto high = read_value<std::uint32_t>(task.tid, task.space->at(kProcess) + offsetof(Process, fd_high));
    if (!high || *high == 0) return;
    last = std::min<std::uint64_t>(last, *high - 1);
  }
  for (std::uint64_t fd = first; fd <= last && fd < kFds; ++fd) {
    const std::uint64_t at = task.space->at(kFdTable) + fd * sizeof(std::uint32_t);
    auto entry = read_value<std::uint32_t>(task.tid, at);
    // A new version, as the stub itself would make it: who looked before can't store what he found.
    if (entry) put(task.tid, at, ((*entry >> 16) + 1) << 16).ignore();
  }
}

void Stub::tell_hint(const Task& task) const {
  if (task.area) put(task.tid, task.area + offsetof(Area, hint), task.hint).ignore();
}

Result<Area> Stub::area_of(const Task& task) const {
  if (!task.area) return plain_error("no area");
  return read_value<Area>(task.tid, task.area);
}

bool Stub::take_out(const Task& task, const Area& area) {
  const bool told = fate_of(*control_, ring_, area) == Fate::Whole;
  if (area.ring_held) {
    void_record(*control_, ring_, area.ring_pos, area.tid);
    release_lock(control_->ring_lock, area.tid);
  }
  Area idle = area;
  idle.stage = kIdle;
  idle.ring_held = idle.file_held = 0;
  put(task.tid, task.area, idle).ignore();
  return told;
}

void Stub::free_file(const Area& area) {
  if (area.file_held && area.file_held <= kFiles) release_lock(control_->files[area.file_held - 1].lock, area.tid);
}

Status Stub::install(Injector& in, Space& space) {
  const pid_t pid = in.tid();
  RETURN_IF_ERROR(check_process(pid));
  for (unsigned w = kLastWindow; w >= kFirstWindow && !space.window; --w) {
    const std::uint64_t window = w * kWindow;
    std::size_t done = 0;
    for (const Piece& piece : kPieces) {
      ASSIGN_OR_RETURN(const bool there, map_at(in, window + piece.offset, piece.size, piece.prot));
      if (!there) break;
      ++done;
    }
    if (done == std::size(kPieces)) {
      space.window = window;
      break;
    }
    for (std::size_t i = 0; i < done; ++i)
      in.call(SYS_munmap, {window + kPieces[i].offset, kPieces[i].size}).value_or(0);
  }
  if (!space.window) return plain_error("no room for the stub in the low addresses of the process");
  MemoryWriter out(pid);
  RETURN_IF_ERROR(fill(out, space));
  RETURN_IF_ERROR(share(in, space));
  space.installed = true;
  ++figures.spaces;
  return {};
}

Status Stub::fill(MemoryWriter& out, const Space& space) const {
  RETURN_IF_ERROR(write_code(out, space.window));
  Process process{};
  process.magic = kMagic;
  process.version = kVersion;
  process.window = space.window;
  process.fd_epoch = control_->fd_epoch;
  return put(out.pid(), space.at(kProcess), process);
}

Status Stub::copy_control(pid_t pid, const Space& space) const {
  std::array<std::byte, offsetof(Control, files)> copy;
  memcpy(copy.data(), control_, copy.size());
  RETURN_IF_ERROR(write_exact(pid, space.at(kControl), copy));
  return copy_flags(pid, space);
}

// Without a journal: nothing can be recorded.
Status Stub::copy_flags(pid_t pid, const Space& space) const {
  const std::uint32_t flags = control_->flags & ~static_cast<std::uint32_t>(kJournalContent | kJournalRanges);
  return put(pid, space.at(kControl) + offsetof(Control, flags), flags);
}

Status Stub::share(Injector& in, Space& space) {
  if (own_filters_ < 0) {  // of an image: what it came with, it may have
    auto status = read_proc_file(fmt::format("/proc/{}/status", in.tid()));
    if (status) own_filters_ = filters_of(*status) - 1;
  }
  ASSIGN_OR_RETURN(FdChannel channel, FdChannel::open(in));
  ASSIGN_OR_RETURN(const int fd, channel.give(memory_.get()));
  auto mapped = in.call_checked(SYS_mmap, {space.at(kControl), kSharedSize, PROT_READ | PROT_WRITE,
                                           MAP_SHARED | MAP_FIXED, static_cast<std::uint64_t>(fd), 0});
  in.call(SYS_close, {static_cast<std::uint64_t>(fd)}).value_or(0);
  if (!mapped) return mapped.error();
  return was_shared(in.tid(), space);
}

Status Stub::was_shared(pid_t pid, Space& space) const {
  // What was learned of descriptors without it is void.
  if (space.light) RETURN_IF_ERROR(put(pid, space.at(kProcess) + offsetof(Process, fd_epoch), std::uint32_t{0}));
  space.light = false;
  return {};
}

Status Stub::unshare(Injector& in, const Space& space) const {
  auto mapped = in.call_checked(SYS_mmap, {space.at(kControl), kSharedSize, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, kNoFd, 0});
  return mapped ? Status() : Status(mapped.error());
}

CodeAround Stub::code_around(pid_t pid, std::uint64_t site) {
  CodeAround code{};
  const auto bytes = std::as_writable_bytes(std::span(code));
  if (read_some(pid, site - kBefore, bytes) == code.size()) return code;
  // Code that begins or ends a mapping: what can't be read is no plan's instruction.
  code = {};
  read_some(pid, site, bytes.subspan<kBefore>());
  for (std::size_t n = kBefore; n > 0; --n)
    if (read_some(pid, site - n, bytes.subspan(kBefore - n, n)) == n) break;
  return code;
}

std::vector<Plan> Stub::plans_of(std::uint64_t site, int nr, const CodeAround& code) {
  return plan_patch(site, nr, std::span<const std::uint8_t, kBefore>(code.data(), kBefore),
                    std::span<const std::uint8_t, kAfter>(code.data() + kBefore, kAfter));
}

Status Stub::put_page(MemoryWriter& out, Space& space, std::uint64_t page) {
  space.pages.add_page(page);
  return out.put(page, space.at(kCode) + code_head().enter);
}

Status Stub::put_patch(MemoryWriter& out, Space& space, std::uint64_t site, const Plan& plan, std::uint64_t slot) {
  const Site entry = to_site(plan, site, slot);
  RETURN_IF_ERROR(out.put(slot, encode_slot(plan, site, slot)));
  RETURN_IF_ERROR(out.put(space.at(kProcess) + sizeof(Process) + space.sites.size() * sizeof(Site), entry));
  space.add_site(entry, slot + slow_offset(plan));
  // Whoever takes over from us must know each patch.
  RETURN_IF_ERROR(out.put(space.at(kProcess) + offsetof(Process, sites), static_cast<std::uint32_t>(space.sites.size())));
  ++figures.patched;
  const auto bytes = encode_patch(plan, site, slot);
  return out.write(site - plan.patched_at, std::as_bytes(std::span(bytes)));
}

void Stub::pages_for(const std::vector<Known>& sites, const Space& space, BootMap (&maps)[kBootMaps + 1]) {
  unsigned used = 0;
  while (used < kBootMaps && maps[used].size != 0) ++used;
  SlotPages pages = space.pages;
  bool near = false;
  for (const Known& known : sites) {
    const auto plans = plans_of(known.site, known.nr, known.code);
    if (used == kBootMaps || plans.empty() || std::ranges::any_of(plans, [&](const Plan& plan) {
          if (near && plan.method == kMethodMov) return true;
          const auto slot = pages.find(plan, known.site);
          if (slot) pages.take(*slot);
          return slot.has_value();
        }))
      continue;
    BootMap& map = maps[used];
    map = {0, SlotPages::kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, 0};
    if (plans.front().method == kMethodMov) {
      // The kernel's own choice is near a library, and needs no page table of its own.
      if (known.site < kMappedFrom) map.address = SlotPages::hints(known.site).front();
      near = true;
    } else {
      const auto wanted = pages.wanted(plans.front());
      if (wanted.empty()) continue;
      map.address = wanted.front().page;
      map.flags |= MAP_NORESERVE | MAP_FIXED_NOREPLACE;
      pages.add_page(map.address);
      pages.take(wanted.front().slot);
    }
    ++used;
  }
}

Status Stub::patch_known(pid_t pid, Space& space, const std::vector<Known>& sites, const BootMap (&maps)[kBootMaps + 1]) {
  // In few writes: slots by page, the site table's entries, then the patches.
  const std::uint64_t enter = space.at(kCode) + code_head().enter;
  std::map<std::uint64_t, std::vector<std::byte>> fresh;  // pages up to their last slot
  for (const BootMap& map : maps) {
    const auto page = static_cast<std::uint64_t>(map.result);
    if (map.size != SlotPages::kPage || page == 0 || page >= 0xfffffffffffff000) continue;
    space.pages.add_page(page);
    fresh[page].resize(sizeof enter);
    memcpy(fresh[page].data(), &enter, sizeof enter);
  }
  MemoryWriter out(pid);
  const std::size_t before = space.sites.size();
  std::vector<std::pair<std::uint64_t, std::vector<std::uint8_t>>> patches;
  for (const Known& known : sites) {
    if (space.sites.size() == kSites) break;
    for (const Plan& plan : plans_of(known.site, known.nr, known.code)) {
      if (disturbs(plan, known.site, space.sites)) continue;
      const auto slot = space.pages.find(plan, known.site);
      if (!slot) continue;
      const auto code = encode_slot(plan, known.site, *slot);
      const std::uint64_t offset = *slot & (SlotPages::kPage - 1);
      if (auto page = fresh.find(*slot - offset); page != fresh.end()) {
        page->second.resize(std::max(page->second.size(), offset + code.size()));
        memcpy(&page->second[offset], code.data(), code.size());
      } else {
        RETURN_IF_ERROR(out.put(*slot, code));
      }
      patches.emplace_back(known.site - plan.patched_at, encode_patch(plan, known.site, *slot));
      space.add_site(to_site(plan, known.site, *slot), *slot + slow_offset(plan));
      break;
    }
  }
  for (const auto& [page, bytes] : fresh) RETURN_IF_ERROR(out.write(page, bytes));
  const std::uint64_t table = space.at(kProcess) + sizeof(Process);
  RETURN_IF_ERROR(write_exact(pid, table + before * sizeof(Site), std::as_bytes(std::span(space.sites).subspan(before))));
  RETURN_IF_ERROR(put(pid, space.at(kProcess) + offsetof(Process, sites), static_cast<std::uint32_t>(space.sites.size())));
  for (const auto& [at, bytes] : patches) RETURN_IF_ERROR(out.write(at, std::as_bytes(std::span(bytes))));
  figures.patched += patches.size();
  return {};
}

Result<bool> Stub::patch(Injector& in, Space& space, std::uint64_t site, int nr, std::string& why) {
  const pid_t pid = in.tid();
  if (space.sites.size() == kSites) {
    why = "the site table is full";
    return false;
  }
  MemoryWriter out(pid);
  const auto plans = plans_of(site, nr, code_around(pid, site));
  why = plans.empty() ? "no system call instruction" : "no page near the call";
  for (const Plan& plan : plans) {
    if (disturbs(plan, site, space.sites)) continue;
    auto slot = space.pages.find(plan, site);
    if (!slot && plan.method == kMethodMov) {
      for (std::uint64_t hint : SlotPages::hints(site)) {
        ASSIGN_OR_RETURN(const long got, in.call(SYS_mmap, {hint, SlotPages::kPage, PROT_READ | PROT_EXEC,
                                                            MAP_PRIVATE | MAP_ANONYMOUS, kNoFd, 0}));
        if (got < 0 && got > -4096) continue;
        const auto page = static_cast<std::uint64_t>(got);
        if (!SlotPages::near(page, site)) {
          in.call(SYS_munmap, {page, SlotPages::kPage}).value_or(0);
          continue;
        }
        RETURN_IF_ERROR(put_page(out, space, page));
        break;
      }
      slot = space.pages.find(plan, site);
    }
    if (!slot) {
      for (const auto& wanted : space.pages.wanted(plan)) {
        auto there = map_at(in, wanted.page, SlotPages::kPage, PROT_READ | PROT_EXEC);
        if (!there || !*there) continue;
        RETURN_IF_ERROR(put_page(out, space, wanted.page));
        slot = wanted.slot;
        break;
      }
    }
    if (!slot) continue;
    RETURN_IF_ERROR(put_patch(out, space, site, plan, *slot));
    return true;
  }
  ++figures.unpatchable;
  return false;
}

Result<bool> Stub::find(pid_t pid, Space& space) const {
  for (unsigned w = kLastWindow; w >= kFirstWindow; --w) {
    const std::uint64_t window = w * kWindow;
    auto process = read_value<Process>(pid, window + kProcess);
    if (!process || process->magic != kMagic || process->window != window) continue;
    if (process->version != kVersion || process->sites > kSites)
      return plain_error(fmt::format("the image's stub has version {}, this program's {}: its calls go the slow way",
                                     process->version, kVersion));
    std::vector<Site> sites(process->sites);
    RETURN_IF_ERROR(read_exact(pid, window + kProcess + sizeof(Process), std::as_writable_bytes(std::span(sites))));
    space.window = window;
    space.installed = true;
    for (const Site& site : sites) space.add_site(site, site.slot + slow_offset(site));
    // Areas are known by the threads' %gs; what is above the highest one was never used, or is free.
    space.areas = kAreaCount;
    return true;
  }
  return false;
}

Result<bool> Stub::has_copy(pid_t pid, const Space& space) const {
  ASSIGN_OR_RETURN(const auto maps, maps_of(pid));
  for (const Vma& v : maps)
    if (space.at(kControl) >= v.start && space.at(kControl) < v.end) return !v.shared;
  return plain_error("it has no control block");
}

Status Stub::renew_code(pid_t pid, const Space& space) const {
  MemoryWriter out(pid);
  RETURN_IF_ERROR(write_code(out, space.window));
  for (std::uint64_t page : space.pages.pages())
    RETURN_IF_ERROR(out.put(page, space.at(kCode) + code_head().enter));
  return {};
}

}  // namespace supervise::stub
