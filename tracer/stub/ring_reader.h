// The supervisor's side of the journal's ring. What lies there is the application's to scribble on:
// everything is checked, and a ring that makes no sense is an Error that says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <span>

#include <sys/types.h>

#include "supervisor/base/result.h"
#include "tracer/stub/layout.h"

namespace supervise::stub {

// One record as it was when it was looked at; `content` lies in the ring and may still be scribbled on.
struct SeenRecord {
  Record head;
  std::span<const std::byte> content;  // empty for ranges and syncs, and when torn
  bool torn = false;                   // its owner ended before it was whole
};

class RingReader {
 public:
  RingReader(Control& control, const char* ring) : control_(control), ring_(ring) {}

  bool empty() const;
  // Looks at all records that can be taken, oldest first, without taking them.
  Status look(const std::function<bool(pid_t)>& alive, const std::function<void(const SeenRecord&)>& tell);
  // Those that the last look told of. What was not whole stays, and is told later.
  void take();
  void reset();  // nobody may be in the stub

 private:
  Control& control_;
  const char* ring_;
  std::uint64_t tail_ = 0;              // before which all is taken
  std::uint64_t looked_ = 0;            // how far the last look went
  std::set<std::uint64_t> taken_;       // positions of records behind tail_ that are
  std::set<std::uint64_t> told_;
};

// Of the thread with that number: a record that it had published, but did not commit, is void.
void void_record(Control& control, char* ring, std::uint64_t position, std::uint32_t tid);
// Every lock that it holds is free, and who waits is woken.
void release_locks_of(Control& control, std::uint32_t tid);
void release_lock(std::uint32_t& word, std::uint32_t tid);

}  // namespace supervise::stub
