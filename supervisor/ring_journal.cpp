#include "supervisor/ring_journal.h"

#include <algorithm>

#include "tracer/stub/ring_writer.h"

namespace supervise {

using stub::Record;
using stub::SeenRecord;

RingJournal::RingJournal(stub::Control& control, char* ring, StoragePaths& paths)
    : control_(control), paths_(paths), reader_(control, ring) {}

RingJournal::PathState& RingJournal::state_of(const StoragePath& path) {
  if (path_states_.size() <= path.slot) path_states_.resize(path.slot + 1);
  return path_states_[path.slot];
}

// What the journal was told since we last looked came in the supervisor's own way.
void RingJournal::notice(const StoragePath& path) {
  PathState& state = state_of(path);
  const Seq now = path.journal.now();
  if (now == state.seen) return;
  if (now < state.seen) {  // another journal
    state.sequence = {};
    state.seen = 0;
  }
  state.sequence.learned(state.seen, reader_.head(), ++learned_);
  __atomic_store_n(&control_.learned, learned_, __ATOMIC_RELEASE);
  state.seen = now;
}

void RingJournal::mark(const StoragePath& path) { notice(path); }

Seq RingJournal::sequence_at(const StoragePath& path, std::uint64_t position, std::uint64_t learned) const {
  if (path.slot >= path_states_.size()) return 0;
  const PathState& state = path_states_[path.slot];
  // What nobody has marked yet may be later.
  return state.sequence.at(position, learned, std::min(state.seen, path.journal.now()));
}

RingJournal::Entry* RingJournal::entry_of(const Record& record) {
  return record.file < files_.size() && files_[record.file].path ? &files_[record.file] : nullptr;
}

Status RingJournal::drain(const std::function<bool(pid_t)>& alive) {
  if (reader_.empty()) return {};
  for (const auto& path : paths_.all()) notice(*path);
  Status status = reader_.look(alive, look_);
  note_made();
  const auto unknown = std::ranges::find_if(look_.records, [&](const SeenRecord& r) { return !entry_of(r.head); });
  if (unknown != look_.records.end()) {
    if (status)
      status = plain_error("the journal's ring is broken: the record at " + std::to_string(unknown->head.position) +
                           " names file " + std::to_string(unknown->head.file) + ", and there is none");
    look_.records.erase(unknown, look_.records.end());
  }
  plan(look_.records);
  for (std::size_t i = 0; i < look_.records.size(); ++i) apply(i, look_.records[i]);
  records_ += look_.records.size();
  for (const auto& path : paths_.all()) state_of(*path).seen = path->journal.now();
  if (!status) {
    give_up_content();
    reader_.reset();
    left_.clear();
    return status;
  }
  reader_.take();
  std::erase_if(left_, [&](const LeftRecord& l) {
    return std::ranges::none_of(look_.left, [&](const Record& r) { return r.position == l.position; });
  });
  return {};
}

// Finds the writes that a sync in the same drain covers: nothing of them stays in the journal, so that their
// content need not be copied.
void RingJournal::plan(const std::vector<SeenRecord>& records) {
  made_.clear();
  ways_.assign(records.size(), Way::Tell);
  run_ends_.assign(records.size(), 0);
  runs_.resize(files_.size());
  content_wanted_.assign(files_.size(), false);
  for (const Record& r : look_.left) {
    const auto known = std::ranges::find(left_, r.position, &LeftRecord::position);
    if (known == left_.end() && entry_of(r)) left_.push_back({r.position, r.file, {r.offset, r.offset + r.bytes}, {}});
  }
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Record& r = records[i].head;
    if (r.kind > stub::kSync) {
      spoil_runs(records[i]);
      continue;
    }
    Run& run = runs_[r.file];
    if (r.kind == stub::kWrite) {
      run.plain = run.plain && !(r.flags & stub::kRecordDurable) && !records[i].late && !records[i].torn;
      run.writes.push_back(i);
      run.last = r.position;
      run.end = std::max(run.end, r.offset + r.bytes);
      continue;
    }
    if (run.writes.empty() || run.last >= r.size) continue;
    const StoragePath& path = *files_[r.file].path;
    const Seq before = path.journal.now();
    if (run.plain && state_of(path).sequence.at(r.size, r.offset, before) == before) {
      for (std::size_t w : run.writes) ways_[w] = Way::Rest;
      ways_[run.writes.front()] = Way::First;
      run_ends_[run.writes.front()] = run.end;
    }
    run = {};
  }
  for (const SeenRecord& r : records) runs_[r.head.file] = {};
}

void RingJournal::apply(std::size_t index, const SeenRecord& r) {
  Entry& entry = *entry_of(r.head);
  Journal& journal = entry.path->journal;
  PathState& state = state_of(*entry.path);
  if (r.head.kind == stub::kSync) {
    const Seq upto = state.sequence.at(r.head.size, r.head.offset, journal.now());
    if (entry.directory) {
      if (!entry.deleted) journal.synced_directory(entry.name, upto);
      return;
    }
    journal.synced_file({0, entry.ino}, upto, !(r.head.flags & stub::kRecordDataOnly));
    return;
  }
  state.sequence.taken(journal.now(), r.head.position);
  if (r.head.kind > stub::kSync) {
    apply_change(r, entry);
    return;
  }
  apply_write(index, r, entry);
  if (!entry.deleted) return;
  const FileState* file = journal.find({0, entry.ino});
  if (file && std::ranges::find(file->names, entry.name) != file->names.end()) journal.unlinked(entry.name);
}

void RingJournal::apply_write(std::size_t index, const SeenRecord& r, Entry& entry) {
  Journal& journal = entry.path->journal;
  const InodeKey key{0, entry.ino};
  const Record& h = r.head;
  const Range range{h.offset, h.offset + h.bytes};
  const FileState* file = journal.find(key);
  if (file && file->size) entry.size = *file->size;
  if (!left_.empty()) note_overwritten(h);

  if (ways_[index] == Way::First) {
    content_wanted_[h.file] = false;
    // A file without a name is not made durable by a sync.
    if (!entry.deleted && (!file || !file->unlinked())) {
      journal.wrote_range(key, entry.name, h.offset, h.bytes, std::max(entry.size, run_ends_[index]));
      entry.size = std::max(entry.size, run_ends_[index]);
      file = journal.find(key);
      if (!file->unlinked()) return;
    }
    content_wanted_[h.file] = true;
  } else if (ways_[index] == Way::Rest && !content_wanted_[h.file]) {
    return;
  }
  entry.size = std::max(entry.size, range.to);
  if (r.late) {
    for (const Range& part : still_visible(r)) tell(r, entry, part);
  } else {
    tell(r, entry, range);
  }
}

void RingJournal::tell(const SeenRecord& r, Entry& entry, Range range) {
  Journal& journal = entry.path->journal;
  const InodeKey key{0, entry.ino};
  const std::uint64_t length = range.to - range.from;
  if (r.torn && read_back_ && read_back_(*entry.path, {entry.ino, entry.name, entry.deleted, range.from, length, entry.size}))
    return;
  const bool durable = r.head.flags & stub::kRecordDurable;
  if (r.content.empty()) journal.wrote_range(key, entry.name, range.from, length, entry.size, durable);
  else journal.wrote(key, entry.name, range.from, r.content.subspan(range.from - r.head.offset, length), entry.size, durable);
}

// Records are told in the order in which they were published. One that is being written stays behind: what
// was published later goes over it when it comes at last.
void RingJournal::note_overwritten(const Record& r) {
  for (LeftRecord& l : left_) {
    if (l.file != r.file || l.position >= r.position) continue;
    const Range common{std::max(l.range.from, r.offset), std::min(l.range.to, r.offset + r.bytes)};
    if (common.from < common.to) l.over.push_back(common);
  }
}

std::vector<RingJournal::Range> RingJournal::still_visible(const SeenRecord& r) {
  std::vector<Range> parts;
  std::uint64_t at = r.head.offset;
  const std::uint64_t end = at + r.head.bytes;
  if (const auto it = std::ranges::find(left_, r.head.position, &LeftRecord::position); it != left_.end()) {
    std::ranges::sort(it->over, {}, &Range::from);
    for (const Range& over : it->over) {
      if (over.from > at) parts.push_back({at, over.from});
      at = std::max(at, over.to);
    }
  }
  if (at < end) parts.push_back({at, end});
  return parts;
}

// Nobody knows what else was written: no file's content can be told from the journal alone.
void RingJournal::give_up_content() {
  for (Entry& e : files_) {
    if (!e.path) continue;
    Journal& journal = e.path->journal;
    if (const FileState* file = journal.find({0, e.ino}); file && file->size) e.size = *file->size;
    journal.wrote_range({0, e.ino}, e.deleted ? "" : e.name, 0, std::max<std::uint64_t>(e.size, 1), e.size);
  }
}

// ---- files

std::optional<unsigned> RingJournal::find(const StoragePath& path, std::uint64_t ino) const {
  auto it = by_inode_.find({path.slot, ino});
  if (it == by_inode_.end()) return std::nullopt;
  return it->second;
}

std::optional<RingJournal::Known> RingJournal::known(unsigned file) const {
  if (file >= files_.size() || !files_[file].path) return std::nullopt;
  const Entry& e = files_[file];
  return Known{e.name, e.deleted, e.size};
}

RingJournal::Entry* RingJournal::take_entry(unsigned index, const StoragePath& path, std::uint64_t ino) {
  if (index >= stub::kFiles) return nullptr;
  if (files_.size() <= index) files_.resize(index + 1);
  files_[index] = {};
  files_[index].path = paths_.all()[path.slot].get();
  files_[index].ino = ino;
  return &files_[index];
}

std::optional<unsigned> RingJournal::register_file(const StoragePath& path, std::uint64_t ino, const std::string& name,
                                                   bool deleted, std::uint64_t size) {
  unsigned index = 0;
  if (auto known = find(path, ino)) {
    index = *known;
  } else {
    index = __atomic_fetch_add(&control_.files_used, 1, __ATOMIC_ACQ_REL);
    if (!take_entry(index, path, ino)) return std::nullopt;
    by_inode_[{path.slot, ino}] = index;
    stub::File& file = control_.files[index];
    file = {};
    file.ino = ino;
    file.path = static_cast<std::uint16_t>(path.slot);
    stub::remember_inode(&control_, index);
  }
  Entry& e = files_[index];
  if (e.name != name || e.deleted != deleted || name.empty()) set_name(index, name, deleted);
  else show_name(index);
  resized(path, ino, size);
  return index;
}

std::optional<unsigned> RingJournal::describe(unsigned file, std::uint8_t flags) {
  if (file >= files_.size() || !files_[file].path) return std::nullopt;
  const stub::Description wanted{static_cast<std::uint16_t>(file), static_cast<std::uint8_t>(files_[file].path->slot), flags};
  std::uint16_t& known = control_.files[file].described[flags & 3];
  if (const unsigned id = __atomic_load_n(&known, __ATOMIC_ACQUIRE); id > 0 && id <= stub::kDescriptions) {
    const stub::Description& d = control_.descriptions[id - 1];
    if (d.file == wanted.file && d.path == wanted.path && d.flags == wanted.flags) return id - 1;
  }
  const unsigned id = __atomic_fetch_add(&control_.descriptions_used, 1, __ATOMIC_ACQ_REL);
  if (id >= stub::kDescriptions) return std::nullopt;
  control_.descriptions[id] = wanted;
  __atomic_store_n(&known, static_cast<std::uint16_t>(id + 1), __ATOMIC_RELEASE);
  return id;
}

void RingJournal::resized(const StoragePath& path, std::uint64_t ino, std::uint64_t size) {
  auto index = find(path, ino);
  if (!index) return;
  files_[*index].size = size;
  __atomic_store_n(&control_.files[*index].size, size, __ATOMIC_RELEASE);
}

void RingJournal::rekeyed(const StoragePath& path, std::uint64_t from, std::uint64_t to) {
  auto node = by_inode_.extract({path.slot, from});
  if (node.empty() || from == to) {
    if (!node.empty()) by_inode_.insert(std::move(node));
    return;
  }
  files_[node.mapped()].ino = to;
  control_.files[node.mapped()].ino = to;
  stub::remember_inode(&control_, node.mapped());
  by_inode_.insert_or_assign({path.slot, to}, node.mapped());
}

bool RingJournal::try_lock(const StoragePath& path, std::uint64_t ino, std::uint32_t tid) {
  auto index = find(path, ino);
  if (!index) return true;
  auto& mine = locked_[tid];
  if (std::ranges::find(mine, *index) != mine.end()) return true;
  std::uint32_t owner = 0;
  if (!__atomic_compare_exchange_n(&control_.files[*index].lock, &owner, tid, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED) &&
      (owner & ~stub::kWaiters) != tid)
    return false;
  mine.push_back(*index);
  return true;
}

void RingJournal::unlock_all(std::uint32_t tid) {
  auto it = locked_.find(tid);
  if (it == locked_.end()) return;
  for (unsigned index : it->second) stub::release_lock(control_.files[index].lock, tid);
  locked_.erase(it);
}

void RingJournal::reset() {
  files_.clear();
  by_inode_.clear();
  locked_.clear();
  left_.clear();
  for (PathState& state : path_states_) state.by_name.clear();
  wants_reset_ = false;
  for (std::uint16_t& at : control_.inodes) __atomic_store_n(&at, 0, __ATOMIC_RELEASE);
  control_.files_used = control_.descriptions_used = 0;
  reader_.reset();
  __atomic_add_fetch(&control_.fd_epoch, 1, __ATOMIC_ACQ_REL);
}

}  // namespace supervise
