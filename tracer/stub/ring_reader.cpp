#include "tracer/stub/ring_reader.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace supervise::stub {
namespace {

std::uint64_t load(const std::uint64_t& value) { return __atomic_load_n(&value, __ATOMIC_ACQUIRE); }

}  // namespace

bool RingReader::empty() const { return load(control_.head) == tail_ && taken_.empty(); }

Status RingReader::look(const std::function<bool(pid_t)>& alive, const std::function<void(const SeenRecord&)>& tell) {
  told_.clear();
  const std::uint64_t head = load(control_.head);
  if (head < tail_ || head - tail_ > kRingSize)
    return plain_error(fmt::format("the journal's ring is broken: {} bytes in it, {} at most", head - tail_, kRingSize));
  for (std::uint64_t at = tail_; at < head;) {
    const std::uint64_t index = at % kRingSize;
    const auto* record = reinterpret_cast<const Record*>(ring_ + index);
    const std::uint32_t state = __atomic_load_n(&record->state, __ATOMIC_ACQUIRE);
    SeenRecord seen;
    memcpy(&seen.head, record, sizeof seen.head);
    const Record& h = seen.head;
    const bool sound = h.position == at && h.length >= sizeof(Record) && h.length % kRecordAlign == 0 &&
                       h.length <= head - at && h.length <= kRingSize - index &&
                       (h.kind == kPad || h.kind == kWrite || h.kind == kSync);
    const bool ranged = h.flags & kRecordRange;
    if (!sound || (h.kind == kWrite && !ranged && h.bytes > h.length - sizeof(Record)))
      return plain_error(fmt::format("the journal's ring is broken at {}: kind {}, {} bytes, written by thread {}", at,
                                     h.kind, h.length, h.owner));
    looked_ = at + h.length;
    if (h.kind != kPad && !taken_.contains(at)) {
      if (state == kCommitted) {
        if (h.kind == kWrite && !ranged)
          seen.content = {reinterpret_cast<const std::byte*>(record + 1), static_cast<std::size_t>(h.bytes)};
        told_.insert(at);
        tell(seen);
      } else if (state == kVoid) {
        told_.insert(at);
      } else if (!alive(static_cast<pid_t>(h.owner))) {
        seen.torn = true;
        told_.insert(at);
        tell(seen);
      }
    } else {
      told_.insert(at);
    }
    at += h.length;
  }
  return {};
}

void RingReader::take() {
  taken_.insert(told_.begin(), told_.end());
  told_.clear();
  while (tail_ < looked_ && taken_.contains(tail_)) {
    const auto* record = reinterpret_cast<const Record*>(ring_ + tail_ % kRingSize);
    const std::uint32_t length = record->length;
    taken_.erase(tail_);
    if (length < sizeof(Record) || length > looked_ - tail_) break;  // scribbled on meanwhile
    tail_ += length;
  }
  __atomic_store_n(&control_.ring_wanted, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&control_.tail, tail_, __ATOMIC_RELEASE);
}

void RingReader::reset() {
  taken_.clear();
  told_.clear();
  tail_ = looked_ = load(control_.head);
  __atomic_store_n(&control_.ring_wanted, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&control_.tail, tail_, __ATOMIC_RELEASE);
}

void void_record(Control& control, char* ring, std::uint64_t position, std::uint32_t tid) {
  if (position >= load(control.head) || position % kRecordAlign != 0 || position < control.tail) return;
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
  for (File& file : control.files) release_lock(file.lock, tid);
}

}  // namespace supervise::stub
