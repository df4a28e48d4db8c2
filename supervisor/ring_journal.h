// What the stub tells of writes and syncs (tracer/stub/layout.h, the ring), on its way into the journals
// of the storage paths; and the registry of files and open file descriptions that the stub's records name
// by number. drain() has to be called before anything else is told to, or read from, a journal, and mark()
// after anything was told: then the order is that of the calls. Touches no file of the application.
//
// A file's size is taken from what the journal and this registry know, not from the record: what the stub
// knows of it can be older than a truncation.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "supervisor/ring_sequence.h"
#include "supervisor/storage_path.h"
#include "tracer/stub/ring_reader.h"

namespace supervise {

class RingJournal {
 public:
  RingJournal(stub::Control& control, char* ring, StoragePaths& paths);

  bool empty() const { return reader_.empty(); }
  std::uint64_t pending() const { return reader_.pending(); }  // bytes
  // `alive`: is that thread still one of ours? An Error: the ring is broken. It was emptied, and the content
  // of all registered files counts as unknown; drain() can be called again.
  Status drain(const std::function<bool(pid_t)>& alive);
  // Call after a change was told to that path's journal directly: syncs that begin from now on cover it.
  void mark(const StoragePath& path);
  // The journal's sequence that everything has at most that lies before the entry of a sync which saw that
  // ring position, and Control::learned when it looked at that.
  Seq sequence_at(const StoragePath& path, std::uint64_t position, std::uint64_t learned = 0) const;

  // Bytes that a thread has written to the file, but ended before they were in the ring. True: the journal
  // was told of them by reading them back. Else the range is noted without content.
  struct Torn {
    std::uint64_t ino;
    const std::string& name;
    bool deleted;
    std::uint64_t offset, bytes, size;
  };
  void on_torn(std::function<bool(StoragePath&, const Torn&)> read_back) { read_back_ = std::move(read_back); }

  // Nothing when the table is full: reset() then, with nobody in the stub. The same path and inode give the
  // same number; name and size are those of now.
  std::optional<unsigned> register_file(const StoragePath& path, std::uint64_t ino, const std::string& name, bool deleted,
                                        std::uint64_t size);
  std::optional<unsigned> describe(unsigned file, std::uint8_t flags);  // stub::DescriptionFlags
  std::optional<unsigned> find(const StoragePath& path, std::uint64_t ino) const;
  // From now on the stub changes names in that directory itself. False: the table is full.
  bool register_directory(const StoragePath& path, std::uint64_t ino, const std::string& name);
  std::optional<std::uint64_t> directory(const StoragePath& path, std::string_view name) const;  // its inode, when registered
  // A change of names has made the numbers of a file useless: reset() soon, with nobody in the stub.
  bool wants_reset() const { return wants_reset_; }

  // Names, sizes and inode numbers that change in the slow way. `replaced`, `ino`: the file that lost its last
  // name, when it is known which (a descriptor may show a name that is another file's by now).
  void renamed(const StoragePath& path, std::string_view from, std::string_view to, bool exchange,
               std::optional<std::uint64_t> replaced = {});
  void unlinked(const StoragePath& path, std::string_view name, std::optional<std::uint64_t> ino = {});
  void linked(const StoragePath& path, std::uint64_t ino, std::string_view name);
  void resized(const StoragePath& path, std::uint64_t ino, std::uint64_t size);
  void rekeyed(const StoragePath& path, std::uint64_t from, std::uint64_t to);
  struct Known {
    std::string name;
    bool deleted;
    std::uint64_t size;
  };
  std::optional<Known> known(unsigned file) const;

  // The lock of a registered file, for a call of the slow way; true when there is none to take.
  bool try_lock(const StoragePath& path, std::uint64_t ino, std::uint32_t tid);
  void unlock_all(std::uint32_t tid);
  bool holds_locks(std::uint32_t tid) const { return locked_.contains(tid); }

  // All files and descriptors are unknown again. With nobody in the stub, and after drain().
  void reset();
  std::uint64_t records() const { return records_; }

 private:
  struct Entry {
    StoragePath* path = nullptr;
    std::uint64_t ino = 0;
    std::string name;
    bool deleted = false;
    bool directory = false;
    std::uint64_t size = 0;
  };
  struct PathState {
    RingSequence sequence;
    Seq seen = 0;                                            // the journal's, when we last looked
    std::multimap<std::string, unsigned, std::less<>> by_name;  // files that are not deleted
  };
  struct Range {
    std::uint64_t from, to;
  };
  struct LeftRecord {  // being written: what was written over it meanwhile
    std::uint64_t position;
    unsigned file;
    Range range;
    std::vector<Range> over;
  };
  // Writes of one file in this drain, up to a sync.
  struct Run {
    std::vector<std::size_t> writes;  // indexes in the look's records
    bool plain = true;                // nothing among them that has to be told by itself
    std::uint64_t last = 0, end = 0;  // position of the last, largest end
  };
  enum class Way : std::uint8_t {
    Tell,
    First,  // the first of a run that a sync in this drain covers: told as one range
    Rest,
  };

  PathState& state_of(const StoragePath& path);
  void notice(const StoragePath& path);
  Entry* entry_of(const stub::Record& record);
  void plan(const std::vector<stub::SeenRecord>& records);
  void apply(std::size_t index, const stub::SeenRecord& record);
  void apply_change(const stub::SeenRecord& record, Entry& entry);
  void apply_names(const stub::SeenRecord& record, Entry& directory);
  void apply_attributes(const stub::SeenRecord& record, Entry& entry);
  void spoil_runs(const stub::SeenRecord& record);
  void note_made();
  void show_name(unsigned file);
  void end_directory(unsigned index);
  Entry* take_entry(unsigned index, const StoragePath& path, std::uint64_t ino);
  void apply_write(std::size_t index, const stub::SeenRecord& record, Entry& entry);
  void tell(const stub::SeenRecord& record, Entry& entry, Range range);
  void note_overwritten(const stub::Record& record);
  std::vector<Range> still_visible(const stub::SeenRecord& record);
  void give_up_content();
  void set_name(unsigned file, std::string name, bool deleted);

  stub::Control& control_;
  StoragePaths& paths_;
  stub::RingReader reader_;
  stub::RingReader::Look look_;
  std::function<bool(StoragePath&, const Torn&)> read_back_;
  std::vector<Entry> files_;
  std::vector<PathState> path_states_;                                  // by path slot
  std::map<std::pair<std::size_t, std::uint64_t>, unsigned> by_inode_;  // path slot, inode
  std::map<std::uint32_t, std::vector<unsigned>> locked_;               // by tid
  std::vector<LeftRecord> left_;
  std::vector<Way> ways_;                                               // of the look's records
  std::vector<std::uint64_t> run_ends_;                                 // of those that are Way::First
  std::vector<Run> runs_;                                               // by file
  std::vector<bool> content_wanted_;                                    // by file: the run is told after all
  std::map<std::pair<std::size_t, std::uint64_t>, unsigned> made_;      // in the drain at hand
  bool wants_reset_ = false;
  std::uint64_t learned_ = 0;
  std::uint64_t records_ = 0;
};

}  // namespace supervise
