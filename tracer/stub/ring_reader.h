// The supervisor's side of the journal's ring. What lies there is the application's to scribble on:
// everything is checked, and a ring that makes no sense is an Error that says so. What a record's states
// mean is told in ring_writer.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <sys/types.h>

#include "supervisor/base/result.h"
#include "tracer/stub/layout.h"

namespace supervise::stub {

// One record as it was when it was looked at; `content` lies in the ring and may still be scribbled on.
struct SeenRecord {
  Record head;
  std::span<const std::byte> content;  // empty for ranges and syncs, and when torn
  bool torn = false;                   // its owner ended before the content was there
  bool late = false;                   // an earlier look had to leave it, and told of later ones
};

class RingReader {
 public:
  struct Look {
    std::vector<SeenRecord> records;   // those that can be taken, oldest first
    std::vector<Record> left;          // those whose owners still copy, oldest first
  };

  RingReader(Control& control, char* ring) : control_(control), ring_(ring) {}

  bool empty() const;  // nothing that was not taken, also nothing that is being written
  // Fills `seen` with writes and syncs. `alive`: is that thread still one of ours? After an Error, what is
  // in `seen` was in order, and the ring has to be reset(): it can't be read any further.
  Status look(const std::function<bool(pid_t)>& alive, Look& seen);
  // Those that the last look told of; what it left is told later. Content is gone from now on.
  void take();
  // Gives up all that is there. Threads may be in the stub: what they are writing is never told.
  void reset();
  std::uint64_t pending() const { return head() - scanned_; }  // bytes
  std::uint64_t head() const;          // ring position up to which all is published

 private:
  struct Place {
    std::uint64_t position;
    std::uint32_t length;
  };
  Status check(const Record& record, std::uint64_t at, std::uint64_t head) const;
  void rewind();

  Control& control_;
  char* ring_;
  std::uint64_t scanned_ = 0;          // before which all is taken, but for:
  std::vector<Place> left_;
  std::uint64_t looked_ = 0;           // what take() will make of them
  std::vector<Place> leaving_;
};

// What came of the record of a thread that stands (ring_writer.h).
enum class Fate { None, Unfinished, Whole };
Fate fate_of(const Control& control, const char* ring, const Area& area);
// Of the thread with that number: a record that it had published, but did not commit, is void.
void void_record(Control& control, char* ring, std::uint64_t position, std::uint32_t tid);
// Every lock that it holds is free, and who waits is woken.
void release_locks_of(Control& control, std::uint32_t tid);
void release_lock(std::uint32_t& word, std::uint32_t tid);

}  // namespace supervise::stub
