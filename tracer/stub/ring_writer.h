// The stub's side of the journal's ring, and the lock words. Freestanding.
//
// The supervisor may stop a thread for good, or lose it, at any instruction, and then has to know what came
// of its record. It has the thread's Area (not when the thread was killed), control block and ring. In the
// order of the stores:
//
//   ring_held = length, ring_pos = none   a record is wanted; the ring lock is being waited for, or held
//   the header is written                 at head: nobody looks beyond it, and only the lock's owner writes there
//   ring_pos = position                   still not published: head <= ring_pos
//   head = position + length              published: all of the header is true. State kReserved
//   the lock is freed                     ... or was not: then its owner is the thread, which names it
//   the content is copied
//   state = kCommitted                    whole
//   ring_held = 0
//
// So: ring_held == 0: there is no record, or it is whole. head <= ring_pos (none is the largest): there is
// none and never will be. Else the record at ring_pos is this thread's (position and owner say so), and its
// state tells. A supervisor that takes the thread out makes a kReserved one void and learns of the call in its own
// way. When the thread was killed, a record that is kReserved for ever is torn: what it says of file, offset and
// length is true, its content is not there; one that has no content is as good as committed. A lock word
// that names a thread that is gone is freed by the supervisor. A thread that is lost between freeing a lock
// and waking who waits for it wakes nobody: Env::futex_wait has to come back after some milliseconds.
//
// Env: void futex_wait(uint32_t* at, uint32_t value): returns when woken, when *at is another, or after about
// 10 ms; it may return at any time. void futex_wake(uint32_t* at, int count).
#pragma once

#include "tracer/stub/layout.h"

namespace supervise::stub {

inline constexpr uint64_t kNowhere = ~uint64_t{0};  // Area::ring_pos: not published

// Stores that the supervisor looks at in a stopped thread: in this order for it, at no cost.
template <class T>
inline void show(T* at, T value) {
  __atomic_store_n(at, value, __ATOMIC_RELEASE);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

template <class Env>
void lock(uint32_t* word, uint32_t tid, Env& env) {
  uint32_t mark = 0;
  for (unsigned spins = 0;;) {
    uint32_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    const uint32_t owner = seen & ~kWaiters;
    if (owner == tid) return;
    if (owner == 0) {
      if (__atomic_compare_exchange_n(word, &seen, tid | seen | mark, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
      continue;
    }
    if (++spins < 100) {
      asm volatile("pause");
      continue;
    }
    if (!(seen & kWaiters) &&
        !__atomic_compare_exchange_n(word, &seen, seen | kWaiters, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      continue;
    env.futex_wait(word, seen | kWaiters);
    mark = kWaiters;  // others may sleep, too
  }
}

template <class Env>
void unlock(uint32_t* word, uint32_t tid, Env& env) {
  uint32_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  while ((seen & ~kWaiters) == tid) {
    if (!__atomic_compare_exchange_n(word, &seen, 0, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) continue;
    if (seen & kWaiters) env.futex_wake(word, 1);
    return;
  }
}

inline void copy_bytes(char* to, const char* from, uint64_t n) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

struct IoVector {  // iovec
  uint64_t base, length;
};

// The first `n` bytes of what the vectors name. They are the application's, and may change meanwhile.
inline void gather_bytes(char* to, const IoVector* vectors, uint64_t count, uint64_t n) {
  for (uint64_t i = 0; i < count && n > 0; ++i) {
    const IoVector v{__atomic_load_n(&vectors[i].base, __ATOMIC_RELAXED),
                   __atomic_load_n(&vectors[i].length, __ATOMIC_RELAXED)};
    const uint64_t part = v.length < n ? v.length : n;
    copy_bytes(to, reinterpret_cast<const char*>(v.base), part);
    to += part;
    n -= part;
  }
}

inline Record* record_at(char* ring, uint64_t position) {
  return reinterpret_cast<Record*>(ring + position % kRingSize);
}

inline char* content_of(Record* record) { return reinterpret_cast<char*>(record + 1); }

// ---- files by inode. Of several with one number, which came one after the other, the latest.
[[gnu::noinline]] inline uint32_t find_inode(const Control* c, uint64_t ino, unsigned path) {  // 1 + index; 0: none
  for (unsigned i = inode_hash(ino), n = 0; n < kInodes; ++n, i = (i + 1) % kInodes) {
    const uint16_t at = __atomic_load_n(&c->inodes[i], __ATOMIC_ACQUIRE);
    if (at == 0 || at > kFiles) return 0;
    if (c->files[at - 1].ino == ino && c->files[at - 1].path == path) return at;
  }
  return 0;
}

inline void remember_inode(Control* c, uint32_t file) {
  const File& f = c->files[file];
  const auto mine = static_cast<uint16_t>(file + 1);
  for (unsigned i = inode_hash(f.ino), n = 0; n < kInodes; ++n, i = (i + 1) % kInodes) {
    uint16_t at = __atomic_load_n(&c->inodes[i], __ATOMIC_ACQUIRE);
    do {
      if (at != 0 && (at > kFiles || c->files[at - 1].ino != f.ino || c->files[at - 1].path != f.path)) break;
      if (__atomic_compare_exchange_n(&c->inodes[i], &at, mine, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return;
    } while (true);
  }
}

struct Part {  // of a content that is there at once
  const void* at;
  uint64_t size;
};
inline constexpr unsigned kParts = 3;

inline constexpr uint64_t kAhead = 4096;

// What reserve() copies; `rep stos`, which an initializer would become, takes longer than the rest of it.
inline void set(Record& r, unsigned kind, unsigned flags, uint32_t file, uint64_t offset, uint64_t bytes, uint64_t size) {
  r.kind = static_cast<uint16_t>(kind);
  r.flags = static_cast<uint16_t>(flags);
  r.file = file;
  r.offset = offset;
  r.bytes = bytes;
  r.size = size;
}

// Space for a record with `content` bytes (kLargestWrite at most) behind its header, published as kReserved.
// Null: the ring is full. `half`: with this one the supervisor should take what is there, and nobody has told
// it yet. With `parts` (kParts; the content) it is whole as soon as it is published.
template <class Env>
Record* reserve(Control* c, char* ring, Area* a, Env& env, const Record& like, uint64_t content, bool* half,
                const Part* parts = nullptr) {
  const uint64_t length = record_length(content);
  show(&a->ring_pos, kNowhere);
  show(&a->ring_held, static_cast<uint32_t>(length));
  lock(&c->ring_lock, a->tid, env);
  uint64_t head = __atomic_load_n(&c->head, __ATOMIC_RELAXED);
  const uint64_t tail = __atomic_load_n(&c->tail, __ATOMIC_ACQUIRE);
  const uint64_t left = kRingSize - head % kRingSize;
  const uint64_t pad = left < length ? left : 0;
  if (head - tail > kRingSize || head - tail + pad + length > kRingSize) {
    unlock(&c->ring_lock, a->tid, env);
    show(&a->ring_held, 0u);
    return nullptr;
  }
  if (pad) {
    Record* filler = record_at(ring, head);
    filler->kind = kPad;
    filler->flags = 0;
    filler->length = static_cast<uint32_t>(pad);
    filler->owner = a->tid;
    filler->position = head;
    filler->state = kCommitted;
    head += pad;
  }
  Record* record = record_at(ring, head);
  record->state = kReserved;
  record->length = static_cast<uint32_t>(length);
  record->kind = like.kind;
  record->flags = like.flags;
  record->owner = a->tid;
  record->file = like.file;
  record->reserved = 0;
  record->offset = like.offset;
  record->bytes = like.bytes;
  record->size = like.size;
  record->position = head;
  if (parts) {
    char* to = content_of(record);
    for (unsigned i = 0; i < kParts; to += parts[i++].size)
      copy_bytes(to, static_cast<const char*>(parts[i].at), parts[i].size);
    record->state = kCommitted;
  }
  show(&a->ring_pos, head);
  show(&c->head, head + length);
  if (head + length - tail > c->want_at && !c->ring_wanted) {
    c->ring_wanted = 1;
    *half = true;
  }
  unlock(&c->ring_lock, a->tid, env);
  // The supervisor has read what lay where the next record will be: its memory is fetched while the application
  // goes on, and not when it is written to. Not for long ones: with it they take twice as long.
  const uint64_t next = (head + length) % kRingSize, ahead = length > 2 * kAhead ? 0 : length < kAhead ? length : kAhead;
  for (uint64_t at = next; at < next + ahead && at < kRingSize; at += 64) asm volatile("prefetchw (%0)" : : "r"(ring + at));
  return record;
}

// The call is told with it: whoever takes the thread out behind this must not tell it again.
inline void commit(Area* a, Record* record) {
  show(&record->state, uint32_t{kCommitted});
  show(&a->stage, uint32_t{kDone});
  show(&a->ring_held, 0u);
}

inline uint64_t raise_size(File* f, uint64_t end) {
  uint64_t size = __atomic_load_n(&f->size, __ATOMIC_RELAXED);
  while (size < end &&
         !__atomic_compare_exchange_n(&f->size, &size, end, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return size < end ? end : size;
}

// The content is to be copied to content_of() the record, which is then committed. A durable write (O_DSYNC)
// needs its content, too: it counts as durable only when the file has a name.
template <class Env>
Record* reserve_write(Control* c, char* ring, Area* a, Env& env, uint32_t file, uint64_t offset, uint64_t bytes,
                      bool content, bool durable, bool* half) {
  Record like;
  set(like, kWrite, (content ? 0u : unsigned{kRecordRange}) | (durable ? unsigned{kRecordDurable} : 0u), file, offset, bytes,
      raise_size(&c->files[file % kFiles], offset + bytes));
  return reserve(c, ring, a, env, like, content ? bytes : 0, half);
}

// Before the call of a sync: what it will cover when it succeeds.
inline void enter_sync(const Control* c, Area* a) {
  a->learned = __atomic_load_n(&c->learned, __ATOMIC_ACQUIRE);
  a->entered = __atomic_load_n(&c->head, __ATOMIC_ACQUIRE);
}

// That file is durable as it was at enter_sync(), or at the ring position `entered`. False: the ring is full.
template <class Env>
bool append_sync(Control* c, char* ring, Area* a, Env& env, uint32_t file, uint64_t entered, bool data_only, bool* half) {
  Record like;
  set(like, kSync, data_only ? unsigned{kRecordDataOnly} : 0u, file, a->learned, 0, entered);
  Record* record = reserve(c, ring, a, env, like, 0, half);
  if (!record) return false;
  commit(a, record);
  return true;
}

// A change of names in the directory `file`, or of the attributes of `file`. False: the ring is full.
template <class Env>
bool append_change(Control* c, char* ring, Area* a, Env& env, RecordKind kind, unsigned flags, uint32_t file,
                   const Part (&parts)[kParts], bool* half) {
  uint64_t bytes = 0;
  for (const Part& p : parts) bytes += p.size;
  Record like;
  set(like, kind, flags, file, 0, bytes, 0);
  Record* record = reserve(c, ring, a, env, like, like.bytes, half, parts);
  if (!record) return false;
  commit(a, record);
  return true;
}

template <class Env>
bool append_resize(Control* c, char* ring, Area* a, Env& env, uint32_t file, uint64_t size, bool* half) {
  const Part parts[kParts] = {};
  Record like;
  set(like, kResize, 0, file, size, 0, 0);
  Record* record = reserve(c, ring, a, env, like, 0, half, parts);
  if (!record) return false;
  commit(a, record);
  return true;
}

}  // namespace supervise::stub
