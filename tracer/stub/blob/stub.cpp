// What happens to a call at a patched site. Decides from the control block and the descriptor table: make
// it here, let the supervisor decide (a traced call), or make it here and report what came. The supervisor
// can take the thread out at any instruction (layout.h, Stage): nothing here may need to be finished.
#include <stddef.h>

#include "tracer/stub/blob/on_descriptors.h"
#include "tracer/stub/blob/on_names.h"

namespace supervise::stub {
namespace {

static_assert(offsetof(Area, rax) == 0 && offsetof(Area, rdi) == 8 && offsetof(Area, r9) == 48);
static_assert(offsetof(Area, rsp) == 56 && offsetof(Area, rbx) == 64 && offsetof(Area, r15) == 104);
static_assert(offsetof(Area, slot) == 112 && offsetof(Area, result) == 120 && offsetof(Area, stage) == 128);
static_assert(offsetof(ArenaCall, arguments) == 8 && offsetof(ArenaCall, result) == 56);
static_assert(offsetof(BootMap, size) == 8 && offsetof(BootMap, prot) == 16 && offsetof(BootMap, result) == 24);
static_assert(offsetof(Area, trap_kind) == 132 && kAreaSize == 8192 && kAreasSize == 1u << 25);

int on_map(Area* a, Control* c) {
  if (c->flags & kNoPaths || (a->r10 & 0x20 /* MAP_ANONYMOUS */)) return native(a);
  const long fd = static_cast<int>(a->r8);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  return know(c, static_cast<int>(fd)).cls == kForeign ? native(a) : kThroughSlot;
}

int on_close_range(Area* a) {
  const uint64_t first = static_cast<uint32_t>(a->rdi);
  uint64_t last = static_cast<uint32_t>(a->rsi);
  if (a->rdx & 2 /* CLOSE_RANGE_UNSHARE */) return kThroughSlot;
  const uint64_t high = __atomic_load_n(&process()->fd_high, __ATOMIC_RELAXED);
  if (last >= high) last = high ? high - 1 : 0;
  for (uint64_t fd = first; fd <= last && fd < kFds; ++fd) forget(static_cast<int>(fd));
  return native(a);
}

// The supervisor has made all classes void: a path was switched, flags of a description changed.
void renew(const Control* c) {
  Process* p = process();
  const uint32_t epoch = __atomic_load_n(&c->fd_epoch, __ATOMIC_ACQUIRE);
  if (p->fd_epoch == epoch) return;
  const uint32_t high = p->fd_high;
  for (uint32_t fd = 0; fd < high && fd < kFds; ++fd) forget(static_cast<int>(fd));
  __atomic_store_n(&p->fd_epoch, epoch, __ATOMIC_RELEASE);
}

}  // namespace

extern "C" int stub_main(Area* a) {
  Control* c = control();
  a->file = 0;
  a->path = 0;
  a->hint = 0;
  a->facts_known = 0;
  a->entered = 0;
  const uint64_t number = a->rax;
  if (number >= kModes) return kThroughSlot;
  renew(c);
  ++c->calls;
  const long fd = static_cast<int>(a->rdi);
  const uint8_t mode = c->modes[number];
  if (mode != kModeNative && (c->flags & kSlow) && mode != kModeClose && mode != kModeCloseRange && mode != kModeDup)
    return kThroughSlot;
  switch (mode) {
    case kModeNative: return native(a);
    case kModeFd: return on_fd(a, c, fd, true);
    case kModeFdChange: return on_fd(a, c, fd, false);
    case kModeTwoFds: return on_two_fds(a, c);
    case kModeName: return native_told(a, c);
    case kModeNameChange: return on_name_change(a, c);
    case kModeOpen: return on_open(a, c);
    case kModeClose: return on_close(a, c);
    case kModeCloseRange: return on_close_range(a);
    case kModeDup: return on_dup(a, c);
    case kModeFcntl: return on_fcntl(a, c);
    case kModeRead: return on_read(a, c);
    case kModeWrite: return on_write(a, c);
    case kModeSync: return on_sync(a, c);
    case kModeMap: return on_map(a, c);
    case kModeUnlink: return on_unlink(a, c);
    case kModeRename: return on_rename(a, c);
    case kModeResize:
    case kModeAttributes: return on_change_of_fd(a, c);
    default: return kThroughSlot;
  }
}

}  // namespace supervise::stub
