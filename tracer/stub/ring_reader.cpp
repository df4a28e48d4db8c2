#include "tracer/stub/ring_reader.h"

#include <fmt/format.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace supervise::stub {
namespace {

std::uint64_t load(const std::uint64_t& value) { return __atomic_load_n(&value, __ATOMIC_ACQUIRE); }

constexpr std::uint64_t kLargestOffset = INT64_MAX;
// What lies before it stays in the caches as long as little is written between two looks.
constexpr std::uint64_t kNear = 1 << 20;
constexpr std::uint32_t kReader = 0x7fffffff;  // owner of the ring's lock: no thread has that number

bool has_content(const Record& r) { return r.kind == kWrite && !(r.flags & kRecordRange); }

// What is wrong with a record that says it lies at `at`; null: nothing.
const char* wrong(const Record& r, std::uint64_t at, std::uint64_t head) {
  const std::uint64_t index = at % kRingSize;
  if (r.position != at) return "it is another's";
  if (r.length < sizeof(Record) || r.length % kRecordAlign != 0) return "its length is none";
  if (r.length > head - at) return "it reaches beyond what is published";
  if (r.length > kRingSize - index) return "it reaches beyond the ring's end";
  switch (r.kind) {
    case kPad: return r.length == kRingSize - index ? nullptr : "it pads to no end";
    case kSync:
      if (r.length != sizeof(Record)) return "its length is no sync's";
      if (r.size > at) return "it covers what came after it";
      break;
    case kWrite: {
      if (r.bytes == 0 || r.bytes > kLargestOffset || r.offset > kLargestOffset - r.bytes) return "no file has that range";
      const std::uint64_t content = has_content(r) ? r.bytes : 0;
      if (content > kLargestWrite) return "its content is too large";
      if (r.length != ((sizeof(Record) + content + kRecordAlign - 1) & ~std::uint64_t{kRecordAlign - 1}))
        return "its length is not its content's";
      break;
    }
    case kResize:
      if (r.bytes != 0 || r.length != sizeof(Record)) return "its length is no resize's";
      if (r.offset > kLargestOffset) return "no file has that size";
      break;
    case kAttributes:
      if (r.bytes != sizeof(Attributes) || r.length != record_length(r.bytes)) return "its length is none of attributes";
      break;
    case kCreate:
    case kUnlink:
    case kRename:
      if (r.bytes <= sizeof(NameChange) || r.bytes > sizeof(NameChange) + 2 * kLongestName || r.length != record_length(r.bytes))
        return "its length is none of names";
      break;
    default: return "its kind is none";
  }
  return r.file < kFiles ? nullptr : "its file is none";
}

Status check_names(const SeenRecord& r) {
  NameChange change;
  memcpy(&change, r.content.data(), sizeof change);
  const std::size_t names = r.content.size() - sizeof change;
  const bool two = r.head.kind == kRename;
  if (change.name == 0 || (change.second != 0) != two || std::size_t{change.name} + change.second != names ||
      change.file > kFiles || change.description > kDescriptions)
    return plain_error(fmt::format("the journal's ring is broken: the change of names at {} makes no sense", r.head.position));
  return {};
}

}  // namespace

std::uint64_t RingReader::head() const { return load(control_.head); }

bool RingReader::empty() const { return left_.empty() && head() == scanned_; }

Status RingReader::check(const Record& r, std::uint64_t at, std::uint64_t head) const {
  if (const char* what = wrong(r, at, head))
    return plain_error(fmt::format("the journal's ring is broken: the record at {} (kind {}, state {}, {} bytes, of thread "
                                   "{}) makes no sense: {}",
                                   at, r.kind, r.state, r.length, r.owner, what));
  return {};
}

Status RingReader::look(const std::function<bool(pid_t)>& alive, Look& seen) {
  seen.records.clear();
  seen.left.clear();
  leaving_.clear();
  looked_ = scanned_;
  release_lock(control_.ring_lock, kReader);  // of one that died in rewind()
  const std::uint64_t head = load(control_.head);
  const std::uint64_t tail = left_.empty() ? scanned_ : left_.front().position;
  if (head - tail > kRingSize || head % kRecordAlign != 0)
    return plain_error(fmt::format("the journal's ring is broken: it is said to be filled from {} to {}, and has {} bytes",
                                   tail, head, kRingSize));

  const auto see = [&](std::uint64_t at, bool late, std::uint32_t& length) -> Status {
    const auto* record = reinterpret_cast<const Record*>(ring_ + at % kRingSize);
    const std::uint32_t state = __atomic_load_n(&record->state, __ATOMIC_ACQUIRE);
    SeenRecord r;
    memcpy(&r.head, record, sizeof r.head);
    r.head.state = state;
    r.late = late;
    RETURN_IF_ERROR(check(r.head, at, head));
    if (late && r.head.length != length)
      return plain_error(fmt::format("the journal's ring is broken: the record at {} was {} bytes long, and is now {}", at,
                                     length, r.head.length));
    length = r.head.length;
    if (state != kReserved && state != kCommitted && state != kVoid)
      return plain_error(fmt::format("the journal's ring is broken: the record at {} has state {}", at, state));
    if (r.head.kind == kPad || state == kVoid) return {};
    if (has_content(r.head)) {
      if (state == kCommitted) {
        r.content = {reinterpret_cast<const std::byte*>(record + 1), static_cast<std::size_t>(r.head.bytes)};
      } else if (alive(static_cast<pid_t>(r.head.owner))) {
        leaving_.push_back({at, length});
        seen.left.push_back(r.head);
        return {};
      } else {
        r.torn = true;
      }
    }
    if (r.head.kind > kSync) {
      r.content = {reinterpret_cast<const std::byte*>(record + 1), static_cast<std::size_t>(r.head.bytes)};
      if (r.head.kind >= kCreate && r.head.kind <= kRename) RETURN_IF_ERROR(check_names(r));
    }
    seen.records.push_back(r);  // without content, all of it is there from the moment it is published
    return {};
  };

  for (Place& place : left_) RETURN_IF_ERROR(see(place.position, true, place.length));
  while (looked_ != head) {
    std::uint32_t length = 0;
    RETURN_IF_ERROR(see(looked_, false, length));
    looked_ += length;
  }
  return {};
}

void RingReader::take() {
  scanned_ = looked_;
  left_ = leaving_;
  __atomic_store_n(&control_.ring_wanted, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&control_.tail, left_.empty() ? scanned_ : left_.front().position, __ATOMIC_RELEASE);
  if (left_.empty() && scanned_ % kRingSize >= kNear) rewind();
}

// With nothing in the ring: on from its begin, whose memory was used last. A filler reaches to the end, as before any
// record that would not fit there.
void RingReader::rewind() {
  std::uint32_t free = 0;
  if (!__atomic_compare_exchange_n(&control_.ring_lock, &free, kReader, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
  const std::uint64_t head = load(control_.head), left = kRingSize - head % kRingSize;
  if (head == scanned_) {
    Record filler{};
    filler.kind = kPad;
    filler.length = static_cast<std::uint32_t>(left);
    filler.position = head;
    filler.state = kCommitted;
    memcpy(ring_ + head % kRingSize, &filler, sizeof filler);
    scanned_ = looked_ = head + left;
    __atomic_store_n(&control_.head, scanned_, __ATOMIC_RELEASE);
    __atomic_store_n(&control_.tail, scanned_, __ATOMIC_RELEASE);
  }
  release_lock(control_.ring_lock, kReader);
}

void RingReader::reset() {
  left_.clear();
  leaving_.clear();
  release_lock(control_.ring_lock, kReader);
  std::uint64_t head = load(control_.head);
  while (head % kRecordAlign != 0) {
    const std::uint64_t aligned = (head | (kRecordAlign - 1)) + 1;
    if (__atomic_compare_exchange_n(&control_.head, &head, aligned, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) head = aligned;
  }
  scanned_ = looked_ = head;
  __atomic_store_n(&control_.ring_wanted, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&control_.tail, head, __ATOMIC_RELEASE);
}

Fate fate_of(const Control& control, const char* ring, const Area& area) {
  if (area.ring_held == 0) return Fate::None;
  const std::uint64_t head = load(control.head), at = area.ring_pos;
  if (at >= head || head - at > kRingSize || at % kRecordAlign != 0) return Fate::None;
  const auto* record = reinterpret_cast<const Record*>(ring + at % kRingSize);
  if (record->position != at || record->owner != area.tid) return Fate::None;
  return __atomic_load_n(&record->state, __ATOMIC_ACQUIRE) == kCommitted ? Fate::Whole : Fate::Unfinished;
}

void void_record(Control& control, char* ring, std::uint64_t position, std::uint32_t tid) {
  const std::uint64_t head = load(control.head);
  if (position >= head || head - position > kRingSize || position % kRecordAlign != 0) return;
  auto* record = reinterpret_cast<Record*>(ring + position % kRingSize);
  std::uint32_t reserved = kReserved;
  if (record->position == position && record->owner == tid)
    __atomic_compare_exchange_n(&record->state, &reserved, kVoid, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void release_lock(std::uint32_t& word, std::uint32_t tid) {
  std::uint32_t seen = __atomic_load_n(&word, __ATOMIC_RELAXED);
  while ((seen & ~kWaiters) == tid && tid != 0) {
    if (!__atomic_compare_exchange_n(&word, &seen, 0, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) continue;
    if (seen & kWaiters) syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
    return;
  }
}

void release_locks_of(Control& control, std::uint32_t tid) {
  release_lock(control.ring_lock, tid);
  const std::uint32_t used = std::min<std::uint32_t>(control.files_used, kFiles);
  for (std::uint32_t i = 0; i < used; ++i) release_lock(control.files[i].lock, tid);
}

}  // namespace supervise::stub
