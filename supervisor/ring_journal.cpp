#include "supervisor/ring_journal.h"

#include <algorithm>

namespace supervise {
namespace {

constexpr std::size_t kMarks = 65536;

bool is_below(std::string_view name, std::string_view dir) {
  return name.size() > dir.size() && name.starts_with(dir) && name[dir.size()] == '/';
}

}  // namespace

RingJournal::RingJournal(stub::Control& control, char* ring, StoragePaths& paths)
    : control_(control), paths_(paths), reader_(control, ring) {}

Status RingJournal::drain(const std::function<bool(pid_t)>& alive) {
  std::vector<stub::SeenRecord> records;
  if (auto s = reader_.look(alive, [&](const stub::SeenRecord& r) { records.push_back(r); }); !s) {
    reader_.reset();
    return s;
  }
  // What a later sync covers need not be copied.
  std::map<unsigned, std::uint64_t> durable;
  for (const auto& r : records)
    if (r.head.kind == stub::kSync && !r.torn) {
      auto& upto = durable[r.head.file];
      upto = std::max(upto, r.head.size);
    }
  for (const auto& r : records) apply(r, durable);
  records_ += records.size();
  reader_.take();
  return {};
}

void RingJournal::apply(const stub::SeenRecord& r, const std::map<unsigned, std::uint64_t>& durable) {
  const stub::Record& h = r.head;
  if (h.file >= files_.size() || !files_[h.file].path) return;  // scribbled on: no file of ours
  const Entry& entry = files_[h.file];
  Journal& journal = entry.path->journal;
  const InodeKey key{0, entry.ino};
  if (h.kind == stub::kSync) {
    if (r.torn) return;
    journal.synced_file(key, sequence_at(*entry.path, h.size), !(h.flags & stub::kRecordDataOnly));
    return;
  }
  const std::uint64_t end = h.position + h.length;
  const FileState* state = journal.find(key);
  auto sync = durable.find(h.file);
  const bool covered = sync != durable.end() && end <= sync->second && !entry.deleted &&
                       (!state || (!state->unlinked() && !state->created));
  const bool content = !r.torn && !(h.flags & stub::kRecordRange) && !covered;
  const bool is_durable = (h.flags & stub::kRecordDurable) && !r.torn;
  if (content) journal.wrote(key, entry.name, h.offset, r.content.first(h.bytes), h.size, is_durable);
  else journal.wrote_range(key, entry.name, h.offset, h.bytes, h.size, is_durable);
  if (entry.deleted) {
    state = journal.find(key);
    if (state && std::ranges::find(state->names, entry.name) != state->names.end()) journal.unlinked(entry.name);
  }
  note(*entry.path, end);
}

void RingJournal::note(const StoragePath& path, std::uint64_t position) {
  auto& marks = marks_[path.slot];
  const Seq seq = path.journal.now();
  if (!marks.empty() && marks.back().position >= position) {
    // A record that was finished late: it lies before what is already noted, so that covers it, too.
    if (marks.back().position == position) marks.back().seq = seq;
    return;
  }
  marks.push_back({position, seq});
  if (marks.size() > kMarks) marks.pop_front();
}

void RingJournal::mark(const StoragePath& path) {
  note(path, __atomic_load_n(&control_.head, __ATOMIC_ACQUIRE));
}

Seq RingJournal::sequence_at(const StoragePath& path, std::uint64_t position) const {
  auto found = marks_.find(path.slot);
  if (found == marks_.end()) return 0;
  const auto& marks = found->second;
  auto it = std::upper_bound(marks.begin(), marks.end(), position,
                             [](std::uint64_t p, const Mark& m) { return p < m.position; });
  return it == marks.begin() ? 0 : std::prev(it)->seq;
}

std::optional<unsigned> RingJournal::find(const StoragePath& path, std::uint64_t ino) const {
  auto it = by_inode_.find({path.slot, ino});
  if (it == by_inode_.end()) return std::nullopt;
  return it->second;
}

std::optional<unsigned> RingJournal::register_file(const StoragePath& path, std::uint64_t ino, const std::string& name,
                                                   bool deleted, std::uint64_t size) {
  unsigned index = 0;
  if (auto known = find(path, ino)) {
    index = *known;
  } else {
    if (files_.size() == stub::kFiles) return std::nullopt;
    index = static_cast<unsigned>(files_.size());
    files_.emplace_back();
    by_inode_[{path.slot, ino}] = index;
    control_.files[index] = {};
    control_.files[index].ino = ino;
    control_.files[index].path = static_cast<std::uint16_t>(path.slot);
  }
  Entry& entry = files_[index];
  entry.path = paths_.all()[path.slot].get();
  entry.ino = ino;
  entry.name = name;
  entry.deleted = deleted;
  __atomic_store_n(&control_.files[index].size, size, __ATOMIC_RELEASE);
  return index;
}

std::optional<unsigned> RingJournal::describe(unsigned file, std::uint8_t flags) {
  auto [it, fresh] = descriptions_.try_emplace({file, flags}, 0);
  if (!fresh) return it->second;
  const std::size_t id = descriptions_.size() - 1;
  if (id >= stub::kDescriptions) {
    descriptions_.erase(it);
    return std::nullopt;
  }
  it->second = static_cast<unsigned>(id);
  control_.descriptions[id] = {static_cast<std::uint16_t>(file), static_cast<std::uint8_t>(files_[file].path->slot), flags};
  return it->second;
}

void RingJournal::renamed(const StoragePath& path, std::string_view from, std::string_view to, bool exchange) {
  for (Entry& e : files_) {
    if (!e.path || e.path->slot != path.slot || e.deleted) continue;
    const auto moved = [&](std::string_view a, std::string_view b) {
      if (e.name == a) e.name = std::string(b);
      else if (is_below(e.name, a)) e.name = std::string(b) + e.name.substr(a.size());
      else return false;
      return true;
    };
    if (moved(from, to)) continue;
    if (exchange) moved(to, from);
    else if (e.name == to) e.deleted = true;  // replaced
  }
}

void RingJournal::unlinked(const StoragePath& path, std::string_view name) {
  for (Entry& e : files_)
    if (e.path && e.path->slot == path.slot && e.name == name) e.deleted = true;
}

void RingJournal::resized(const StoragePath& path, std::uint64_t ino, std::uint64_t size) {
  if (auto index = find(path, ino)) __atomic_store_n(&control_.files[*index].size, size, __ATOMIC_RELEASE);
}

bool RingJournal::try_lock(const StoragePath& path, std::uint64_t ino, std::uint32_t tid) {
  auto index = find(path, ino);
  if (!index) return true;
  auto& mine = locked_[tid];
  if (std::ranges::find(mine, *index) != mine.end()) return true;
  std::uint32_t nobody = 0;
  if (!__atomic_compare_exchange_n(&control_.files[*index].lock, &nobody, tid, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
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
  descriptions_.clear();
  reader_.reset();
  __atomic_add_fetch(&control_.fd_epoch, 1, __ATOMIC_ACQ_REL);
}

}  // namespace supervise
