// Calls on descriptors: reads, writes, syncs, and what makes, copies and closes descriptors. Part of stub.cpp.
#pragma once

#include "tracer/stub/blob/calls.h"
#include "tracer/stub/blob/names.h"
#include "tracer/stub/ring_writer.h"

namespace supervise::stub {
namespace {

enum Way : int { kMade = 0, kThroughSlot = 1, kOnPath = 2 /* not an answer: ask_class */ };

bool told(const Control* c, long result) {
  if (result >= 0 || result < -255) return false;
  const auto e = static_cast<unsigned long>(-result);
  return (c->errnos[e / 64] >> (e % 64)) & 1;
}

int native(Area* a) {
  stub_native(a);
  a->stage = kDone;
  return kMade;
}

// The supervisor hears of an error that it may have to repair. stub_report does not return: the thread goes
// on at the site, or wherever the supervisor sends it.
int native_told(Area* a, Control* c) {
  stub_native(a);
  if (told(c, a->result)) stub_report(a);
  else a->stage = kDone;
  return kMade;
}

// By the supervisor, who says on the way what the descriptor is.
int traced(Area* a, int fd, uint32_t seen) {
  a->hint = 0;
  stub_traced(a);
  if (a->hint) learn(fd, seen, a->hint);
  return kMade;
}

struct Known {
  uint32_t cls = kUnknown;
  uint32_t seen = 0;
};

// kUnknown: only the supervisor can tell.
Known know(const Control* c, int fd) {
  Known k;
  k.seen = look(fd);
  k.cls = class_of(k.seen);
  if (k.cls != kUnknown || !(c->flags & kByMount)) return k;
  if (place_of_fd(fd, c).where == Place::Elsewhere) {
    learn(fd, k.seen, kForeign);
    k.cls = kForeign;
  }
  return k;
}

void mark(Area* a, const Control* c, uint32_t cls) {
  if (cls >= kFirstDescription) {
    const Description& d = c->descriptions[(cls - kFirstDescription) % kDescriptions];
    a->path = d.path + 1u;
    a->file = d.file + 1u;
  } else if (cls >= kDeclaredRead) {
    a->path = cls - kDeclaredRead + 1;
  }
}

// Made where the descriptor's class alone says how; kOnPath: it is one of a storage path, `k`.
int ask_class(Area* a, Control* c, long fd, Known* k) {
  if (c->flags & kNoPaths) return native(a);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  *k = know(c, static_cast<int>(fd));
  if (k->cls == kForeign) return native(a);
  if (k->cls == kUnknown) return traced(a, static_cast<int>(fd), k->seen);
  return kOnPath;
}

// Calls on one descriptor. `own`: its success on a storage path is nobody's business.
int on_fd(Area* a, Control* c, long fd, bool own) {
  Known k;
  if (const int answer = ask_class(a, c, fd, &k); answer != kOnPath) return answer;
  if (!own || k.cls == kDeclaredSlow) return kThroughSlot;
  mark(a, c, k.cls);
  return native_told(a, c);
}

// A read that came short before the end of the file is continued by the supervisor.
bool ends_early(const Area* a) {
  if (a->result <= 0 || static_cast<uint64_t>(a->result) >= a->rdx) return false;
  struct statx sx;
  const int fd = static_cast<int>(a->rdi);
  if (stat_at(fd, "", kEmptyPath, STATX_TYPE | STATX_SIZE, sx) != 0) return true;
  if ((sx.stx_mode & 0170000) != 0100000) return false;
  const long pos = static_cast<long>(a->rax) == nr::pread64
                       ? static_cast<long>(a->r10) + a->result
                       : sys(nr::lseek, fd, 0, 1 /* SEEK_CUR */);
  return pos < 0 || static_cast<uint64_t>(pos) < sx.stx_size;
}

int on_read(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  Known k;
  if (const int answer = ask_class(a, c, fd, &k); answer != kOnPath) return answer;
  if (k.cls == kDeclaredSlow) return kThroughSlot;
  mark(a, c, k.cls);
  stub_native(a);
  const long number = static_cast<long>(a->rax);
  if (told(c, a->result) || ((number == nr::read || number == nr::pread64) && ends_early(a))) stub_report(a);
  else a->stage = kDone;
  return kMade;
}

int on_write(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  Known k;
  if (const int answer = ask_class(a, c, fd, &k); answer != kOnPath) return answer;
  if (k.cls < kFirstDescription) return kThroughSlot;
  mark(a, c, k.cls);
  if (!(c->flags & (kJournalContent | kJournalRanges))) return kThroughSlot;

  const Description d = c->descriptions[(k.cls - kFirstDescription) % kDescriptions];
  if (d.file >= kFiles) return kThroughSlot;
  File* file = &c->files[d.file];
  const long number = static_cast<long>(a->rax);
  const bool vectors = number == nr::writev || number == nr::pwritev || number == nr::pwritev2;
  const bool implicit = number == nr::write || number == nr::writev ||
                        (number == nr::pwritev2 && static_cast<long>(a->r10) == -1);
  if (!implicit && (d.flags & kAppend)) return kThroughSlot;
  if (number == nr::pwritev2 && a->r9 != 0) return kThroughSlot;
  const bool content = c->flags & kJournalContent;
  if (!vectors && content && a->rdx > kLargestWrite) return kThroughSlot;

  Env env;
  if (implicit) {
    a->file_held = d.file + 1u;
    lock(&file->lock, a->tid, env);
  }
  stub_native(a);
  const auto done = static_cast<uint64_t>(a->result);
  bool report = told(c, a->result);
  bool half = false;
  if (a->result > 0) {
    if ((!vectors && done < a->rdx) || (content && done > kLargestWrite)) {
      report = true;  // the rest is asked for by the supervisor
    } else {
      long at = static_cast<long>(a->r10);
      if (implicit) at = sys(nr::lseek, fd, 0, 1 /* SEEK_CUR */) - a->result;
      const bool durable = d.flags & kDataSync;
      Record* record = at < 0 ? nullptr : reserve_write(c, ring(), a, env, d.file, static_cast<uint64_t>(at), done,
                                                        content, durable, &half);
      if (!record) {
        report = true;
      } else {
        if (content && !vectors) copy_bytes(content_of(record), reinterpret_cast<const char*>(a->rsi), done);
        if (content && vectors) gather_bytes(content_of(record), reinterpret_cast<const IoVector*>(a->rsi), a->rdx, done);
        commit(a, record);
      }
    }
  }
  if (report) stub_report(a);  // which gives the lock back
  a->stage = kDone;
  if (a->file_held) {
    unlock(&file->lock, a->tid, env);
    a->file_held = 0;
  }
  if (half) stub_report(a);  // the supervisor takes what is there
  return kMade;
}

bool journaled(const Control* c) { return c->flags & (kJournalContent | kJournalRanges); }

int on_sync(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  Known k;
  if (const int answer = ask_class(a, c, fd, &k); answer != kOnPath) return answer;
  Description d{};
  if (k.cls >= kFirstDescription) {
    d = c->descriptions[(k.cls - kFirstDescription) % kDescriptions];
    if (d.file >= kFiles) return kThroughSlot;
  } else if (k.cls >= kDeclaredRead && journaled(c)) {
    const Dir dir = known_dir(c, static_cast<int>(fd), nullptr);
    if (!dir.known) return kThroughSlot;
    d.file = static_cast<uint16_t>(dir.file);
  } else {
    return kThroughSlot;
  }
  mark(a, c, k.cls);
  Env env;
  enter_sync(c, a);
  stub_native(a);
  bool half = false;
  if (a->result < 0 ? told(c, a->result)
                    : !append_sync(c, ring(), a, env, d.file, a->entered,
                                   static_cast<long>(a->rax) == nr::fdatasync, &half)) {
    stub_report(a);
    return kMade;
  }
  a->stage = kDone;
  if (half) stub_report(a);
  return kMade;
}

int on_close(Area* a, Control* c) {
  const long fd = static_cast<int>(a->rdi);
  if (c->flags & kNoPaths) return native(a);
  if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
  const Known k = know(c, static_cast<int>(fd));
  if (k.cls == kUnknown || k.cls == kDeclaredSlow) {
    forget(static_cast<int>(fd));
    return kThroughSlot;
  }
  forget(static_cast<int>(fd));
  if (k.cls == kForeign) return native(a);
  if (c->flags & kSlow) return kThroughSlot;
  mark(a, c, k.cls);
  return native_told(a, c);
}

// What a new descriptor is: as `of`, when that was known and did not change meanwhile.
void inherit(long fd, int of, uint32_t before) {
  if (!fd_known(fd)) return;
  const uint32_t seen = look_at_new(static_cast<int>(fd));
  if (class_of(before) != kUnknown && look(of) == before) learn(static_cast<int>(fd), seen, class_of(before));
}

int on_dup(Area* a, Control* c) {
  if (c->flags & kNoPaths) return native(a);
  const long number = static_cast<long>(a->rax);
  const long from = static_cast<int>(a->rdi), to = static_cast<int>(a->rsi);
  if (!fd_known(from)) return from < 0 ? native(a) : kThroughSlot;
  const uint32_t before = look(static_cast<int>(from));
  if (number != nr::dup) {
    if (to < 0 || to == from) return native(a);
    if (!fd_known(to)) return kThroughSlot;
    forget(static_cast<int>(to));
  }
  native(a);
  // Others may have looked at what it replaces between the two.
  if (number != nr::dup) forget(static_cast<int>(to));
  if (a->result >= 0) inherit(a->result, static_cast<int>(from), before);
  return kMade;
}

int on_fcntl(Area* a, Control* c) {
  enum { kDupFd = 0, kSetFl = 4, kGetLk = 5, kSetLkW = 7, kOfdGetLk = 36, kOfdSetLkW = 38, kDupFdCloexec = 1030 };
  const long fd = static_cast<int>(a->rdi);
  const int command = static_cast<int>(a->rsi);
  if (c->flags & kNoPaths) return native(a);
  if (command == kDupFd || command == kDupFdCloexec) {
    if (!fd_known(fd)) return fd < 0 ? native(a) : kThroughSlot;
    const uint32_t before = look(static_cast<int>(fd));
    native(a);
    if (a->result >= 0) inherit(a->result, static_cast<int>(fd), before);
    return kMade;
  }
  const bool lock = (command >= kGetLk && command <= kSetLkW) || (command >= kOfdGetLk && command <= kOfdSetLkW);
  if (!lock && command != kSetFl) return native(a);
  return on_fd(a, c, fd, lock);
}

}  // namespace
}  // namespace supervise::stub
