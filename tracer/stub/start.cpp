#include "tracer/stub/start.h"

#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>

#include "tracer/stub/code.h"

namespace supervise::stub {
namespace {

constexpr std::uint64_t kTheWindow = kLastWindow * kWindow;  // where it is taken, the arena is made later
constexpr unsigned kArenaMaps = 2, kNearPage = kArenaMaps;
constexpr std::uint32_t kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr std::uint32_t kExactly = kPrivate | MAP_NORESERVE | MAP_FIXED_NOREPLACE;

std::uint64_t table_at(const ptrace_raw::Regs& begin) { return begin.rsp - kBootTable; }

std::span<const std::byte> first_code() {
  return code_bytes().subspan(code_head().first, code_head().first_end - code_head().first);
}

}  // namespace

ptrace_raw::Regs Start::begin() const {
  ptrace_raw::Regs regs = begin_;
  skip_call(regs, 0);
  return regs;
}

bool Start::prepare(const KnownCode::Start& known) {
  for (const auto& [offset, site] : known.segment->sites)
    if (site.at_start) chosen_.push_back({known.base + offset, site.nr, site.code});
  if (chosen_.empty() || chosen_.size() > kSites) return false;

  // What is there, in one go, with what our code will be written over.
  std::vector<CodeAround> code(chosen_.size());
  original_.resize(first_code().size());
  std::vector<iovec> local, remote;
  local.push_back({original_.data(), original_.size()});
  remote.push_back({reinterpret_cast<void*>(begin_.rip), original_.size()});
  for (std::size_t i = 0; i < chosen_.size() && i < 1000; ++i) {
    local.push_back({code[i].data(), code[i].size()});
    remote.push_back({reinterpret_cast<void*>(chosen_[i].site - kBefore), code[i].size()});
  }
  const auto want = static_cast<ssize_t>(original_.size() + (local.size() - 1) * sizeof(CodeAround));
  if (process_vm_readv(tid_, local.data(), local.size(), remote.data(), remote.size(), 0) != want) return false;
  chosen_.resize(local.size() - 1);
  for (std::size_t i = 0; i < chosen_.size(); ++i)
    if (code[i] != chosen_[i].code) return false;

  maps_[0] = {kTheWindow + kAreas, kControl + kSharedSize - kAreas, PROT_READ | PROT_WRITE, kExactly, 0};
  maps_[1] = {kTheWindow + kCode, kWholeCode, PROT_READ | PROT_EXEC, kExactly, 0};
  maps_[kNearPage] = {SlotPages::hints(begin_.rip).front(), SlotPages::kPage, PROT_READ | PROT_EXEC, kPrivate, 0};
  unsigned used = kNearPage + 1;
  for (const Chosen& c : chosen_) {
    const auto plans = Stub::plans_of(c.site, c.nr, c.code);
    if (plans.empty() || plans.front().method == kMethodMov) continue;
    for (const auto& wanted : SlotPages().wanted(plans.front())) {
      if (used < kBootMaps) maps_[used++] = {wanted.page, SlotPages::kPage, PROT_READ | PROT_EXEC, kExactly, 0};
      break;
    }
  }
  if (notes_ && original_.size() <= TracerNotes::kCode && (note_ = notes_->claim(tid_, begin_, mask))) {
    std::ranges::copy(original_, note_->code);
    note_->code_size = static_cast<std::uint32_t>(original_.size());
    note_->state = TracerNotes::Active;
  }
  return write_exact(tid_, table_at(begin_), std::as_bytes(std::span(maps_))).ok() &&
         out_.write(begin_.rip, first_code()).ok();
}

Status Start::fill() {
  RETURN_IF_ERROR(out_.write(begin_.rip, original_));
  if (note_) note_->code_size = 0;
  RETURN_IF_ERROR(read_exact(tid_, table_at(begin_), std::as_writable_bytes(std::span(maps_))));
  for (unsigned i = 0; i < kArenaMaps; ++i)
    if (maps_[i].result != static_cast<std::int64_t>(maps_[i].address)) return plain_error("the stub's place is taken");
  space_.window = kTheWindow;
  RETURN_IF_ERROR(stub_.fill(out_, space_));
  RETURN_IF_ERROR(stub_.copy_control(tid_, space_));
  for (unsigned i = kNearPage; maps_[i].size != 0; ++i) {
    const auto page = static_cast<std::uint64_t>(maps_[i].result);
    if (i == kNearPage ? page < 0xfffffffffffff000 : page == maps_[i].address)
      RETURN_IF_ERROR(Stub::put_page(out_, space_, page));
  }
  RETURN_IF_ERROR(patch_known());
  space_.installed = space_.started = space_.light = true;
  ++stub_.figures.spaces;
  ++stub_.figures.started;
  return {};
}

Status Start::patch_known() {
  for (const Chosen& c : chosen_) {
    for (const Plan& plan : Stub::plans_of(c.site, c.nr, c.code)) {
      if (disturbs(plan, c.site, space_.sites)) continue;
      const auto slot = space_.pages.find(plan, c.site);
      if (!slot) continue;
      RETURN_IF_ERROR(stub_.put_patch(out_, space_, c.site, plan, *slot));
      break;
    }
  }
  return {};
}

}  // namespace supervise::stub
