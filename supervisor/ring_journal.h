// What the stub tells of writes and syncs (tracer/stub/layout.h, the ring), on its way into the journals
// of the storage paths; and the registry of files and open file descriptions that the stub's records name
// by number. drain() has to be called before anything else is told to, or read from, a journal: then the
// order is that of the calls. Touches no file of the application.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/storage_path.h"
#include "tracer/stub/ring_reader.h"

namespace supervise {

class RingJournal {
 public:
  RingJournal(stub::Control& control, char* ring, StoragePaths& paths);

  bool empty() const { return reader_.empty(); }
  // `alive`: is that thread still one of ours? Content of a record that nobody will finish is unknown: its
  // range is noted. An Error: the ring is broken; it was emptied.
  Status drain(const std::function<bool(pid_t)>& alive);
  // Call after a change was told to that path's journal directly: later syncs cover it.
  void mark(const StoragePath& path);
  // The journal's sequence that everything before that ring position has at most.
  Seq sequence_at(const StoragePath& path, std::uint64_t position) const;

  // Nothing when the table is full: reset() then, with nobody in the stub.
  std::optional<unsigned> register_file(const StoragePath& path, std::uint64_t ino, const std::string& name, bool deleted,
                                        std::uint64_t size);
  std::optional<unsigned> describe(unsigned file, std::uint8_t flags);
  std::optional<unsigned> find(const StoragePath& path, std::uint64_t ino) const;

  // Names and sizes that change in the slow way.
  void renamed(const StoragePath& path, std::string_view from, std::string_view to, bool exchange);
  void unlinked(const StoragePath& path, std::string_view name);
  void resized(const StoragePath& path, std::uint64_t ino, std::uint64_t size);

  // The lock of a registered file, for a call of the slow way; true when there is none to take.
  bool try_lock(const StoragePath& path, std::uint64_t ino, std::uint32_t tid);
  void unlock_all(std::uint32_t tid);

  // All files and descriptors are unknown again. With nobody in the stub, and after drain().
  void reset();
  std::uint64_t records() const { return records_; }

 private:
  struct Entry {
    StoragePath* path = nullptr;
    std::uint64_t ino = 0;
    std::string name;
    bool deleted = false;
  };
  struct Mark {
    std::uint64_t position;
    Seq seq;
  };
  void apply(const stub::SeenRecord& record, const std::map<unsigned, std::uint64_t>& durable);
  void note(const StoragePath& path, std::uint64_t position);

  stub::Control& control_;
  StoragePaths& paths_;
  stub::RingReader reader_;
  std::vector<Entry> files_;
  std::map<std::pair<std::size_t, std::uint64_t>, unsigned> by_inode_;  // path slot, inode
  std::map<std::pair<unsigned, std::uint8_t>, unsigned> descriptions_;
  std::map<std::size_t, std::deque<Mark>> marks_;                        // by path slot
  std::map<std::uint32_t, std::vector<unsigned>> locked_;                // by tid
  std::uint64_t records_ = 0;
};

}  // namespace supervise
