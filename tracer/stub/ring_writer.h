// The stub's side of the journal's ring, and the lock words. Freestanding.
//
// A supervisor that stops or loses the thread at any instruction can tell what is the case: Area::ring_held
// and ring_pos are set before the record is published. head <= ring_pos: not published, nothing to do but
// to free the lock. Beyond it, with the record's state kReserved: published, content unknown: the
// supervisor makes it void and learns of the write in its own way, or takes it for torn when the thread is
// gone. kCommitted: whole.
#pragma once

#include "tracer/stub/layout.h"

namespace supervise::stub {

template <class Env>
void lock(uint32_t* word, uint32_t tid, Env& env) {
  for (unsigned spins = 0;;) {
    uint32_t seen = 0;
    if (__atomic_compare_exchange_n(word, &seen, tid, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
    if (++spins < 200) {
      asm volatile("pause");
      continue;
    }
    // Whoever gets it after having slept leaves the mark: others may sleep, too.
    if (!(seen & kWaiters) &&
        !__atomic_compare_exchange_n(word, &seen, seen | kWaiters, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      continue;
    env.futex_wait(word, seen | kWaiters);
    seen = 0;
    if (__atomic_compare_exchange_n(word, &seen, tid | kWaiters, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
  }
}

template <class Env>
void unlock(uint32_t* word, uint32_t, Env& env) {
  if (__atomic_exchange_n(word, 0, __ATOMIC_RELEASE) & kWaiters) env.futex_wake(word, 1);
}

inline void copy_bytes(char* to, const char* from, uint64_t n) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

inline Record* record_at(char* ring, uint64_t position) {
  return reinterpret_cast<Record*>(ring + position % kRingSize);
}

// Space for a record with `content` bytes behind its header, published as kReserved. Null: the ring is full.
// `half`: with this one the supervisor should take what is there, and nobody has told it yet.
template <class Env>
Record* reserve(Control* c, char* ring, Area* a, Env& env, const Record& like, uint64_t content, bool* half) {
  const uint64_t length = (sizeof(Record) + content + kRecordAlign - 1) & ~uint64_t{kRecordAlign - 1};
  a->ring_held = static_cast<uint32_t>(length);
  a->ring_pos = ~uint64_t{0};
  lock(&c->ring_lock, a->tid, env);
  uint64_t head = __atomic_load_n(&c->head, __ATOMIC_RELAXED);
  const uint64_t tail = __atomic_load_n(&c->tail, __ATOMIC_ACQUIRE);
  const uint64_t left = kRingSize - head % kRingSize;
  const uint64_t pad = left < length ? left : 0;
  if (head - tail > kRingSize || head - tail + pad + length > kRingSize) {
    unlock(&c->ring_lock, a->tid, env);
    a->ring_held = 0;
    return nullptr;
  }
  if (pad) {
    Record* filler = record_at(ring, head);
    filler->kind = kPad;
    filler->flags = 0;
    filler->length = static_cast<uint32_t>(pad);
    filler->owner = a->tid;
    filler->position = head;
    __atomic_store_n(&filler->state, kCommitted, __ATOMIC_RELEASE);
    head += pad;
  }
  Record* record = record_at(ring, head);
  record->kind = like.kind;
  record->flags = like.flags;
  record->length = static_cast<uint32_t>(length);
  record->owner = a->tid;
  record->file = like.file;
  record->reserved = 0;
  record->offset = like.offset;
  record->bytes = like.bytes;
  record->size = like.size;
  record->position = head;
  __atomic_store_n(&record->state, kReserved, __ATOMIC_RELEASE);
  __atomic_store_n(&a->ring_pos, head, __ATOMIC_RELEASE);
  __atomic_store_n(&c->head, head + length, __ATOMIC_RELEASE);
  if (head + length - tail > c->want_at && !c->ring_wanted) {
    c->ring_wanted = 1;
    *half = true;
  }
  unlock(&c->ring_lock, a->tid, env);
  return record;
}

inline void commit(Area* a, Record* record) {
  __atomic_store_n(&record->state, kCommitted, __ATOMIC_RELEASE);
  __atomic_store_n(&a->ring_held, 0, __ATOMIC_RELEASE);
}

// The content is to be copied behind the record, which is then committed.
template <class Env>
Record* reserve_write(Control* c, char* ring, Area* a, Env& env, uint32_t file, uint64_t offset, uint64_t bytes,
                      bool content, bool durable, bool* half) {
  File* f = &c->files[file % kFiles];
  uint64_t size = __atomic_load_n(&f->size, __ATOMIC_RELAXED);
  while (size < offset + bytes &&
         !__atomic_compare_exchange_n(&f->size, &size, offset + bytes, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  if (size < offset + bytes) size = offset + bytes;
  Record like{};
  like.kind = kWrite;
  like.flags = static_cast<uint16_t>((content ? 0u : unsigned{kRecordRange}) | (durable ? unsigned{kRecordDurable} : 0u));
  like.file = file;
  like.offset = offset;
  like.bytes = bytes;
  like.size = size;
  return reserve(c, ring, a, env, like, content ? bytes : 0, half);
}

// Records before `entered` of that file are durable. False: the ring is full.
template <class Env>
bool append_sync(Control* c, char* ring, Area* a, Env& env, uint32_t file, uint64_t entered, bool data_only, bool* half) {
  Record like{};
  like.kind = kSync;
  like.flags = static_cast<uint16_t>(data_only ? unsigned{kRecordDataOnly} : 0u);
  like.file = file;
  like.size = entered;
  Record* record = reserve(c, ring, a, env, like, 0, half);
  if (!record) return false;
  commit(a, record);
  return true;
}

}  // namespace supervise::stub
