#include "tracer/stub/start.h"

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tracer/stub/code.h"

namespace supervise::stub {
namespace {

constexpr std::uint64_t kTheWindow = kLastWindow * kWindow;  // where it is taken, the arena is made later
constexpr unsigned kArenaMaps = 2;
constexpr std::uint32_t kExactly = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;

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

Start::~Start() {
  if (note_ && owner_ == getpid()) note_->state = TracerNotes::Free;  // a copy of us has none
}

void Start::note(TracerNotes::Injection* note) {
  note_ = note;
  note_->regs = begin();
  note_->state = TracerNotes::Starting;
}

void Start::undo(pid_t tid, const ptrace_raw::Regs& begin) {
  auto table = read_value<BootTable>(tid, table_at(begin));
  std::vector<std::byte> code(first_code().size());
  if (!table || !read_exact(tid, begin.rip, code) || !std::ranges::equal(code, first_code())) return;
  write_exact(tid, begin.rip, std::as_bytes(std::span(table->code)).first(code.size())).ignore();
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

  table_.maps[0] = {kTheWindow + kAreas, kControl + kSharedSize - kAreas, PROT_READ | PROT_WRITE, kExactly, 0};
  table_.maps[1] = {kTheWindow + kCode, kWholeCode, PROT_READ | PROT_EXEC, kExactly, 0};
  Stub::pages_for(chosen_, space_, table_.maps);
  if (original_.size() > sizeof table_.code) return false;
  memcpy(table_.code, original_.data(), original_.size());
  return write_exact(tid_, table_at(begin_), std::as_bytes(std::span(&table_, 1))).ok() &&
         out_.write(begin_.rip, first_code()).ok();
}

Status Start::fill() {
  RETURN_IF_ERROR(out_.write(begin_.rip, original_));
  RETURN_IF_ERROR(read_exact(tid_, table_at(begin_), std::as_writable_bytes(std::span(&table_, 1))));
  for (unsigned i = 0; i < kArenaMaps; ++i)
    if (table_.maps[i].result != static_cast<std::int64_t>(table_.maps[i].address)) return plain_error("the stub's place is taken");
  space_.window = kTheWindow;
  RETURN_IF_ERROR(stub_.fill(out_, space_));
  RETURN_IF_ERROR(stub_.copy_control(tid_, space_));
  RETURN_IF_ERROR(stub_.patch_known(tid_, space_, chosen_, table_.maps));
  space_.installed = space_.started = space_.light = true;
  ++stub_.figures.spaces;
  ++stub_.figures.started;
  return {};
}

}  // namespace supervise::stub
