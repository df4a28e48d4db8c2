// Names and attributes that the stub has changed, and the registry's own names.
#include <algorithm>
#include <cstring>

#include "supervisor/ring_journal.h"
#include "tracer/stub/ring_writer.h"

namespace supervise {

using stub::NameChange;
using stub::SeenRecord;

namespace {

NodeKind kind_of(std::uint32_t mode) {
  switch (mode & 0170000) {
    case 0100000: return NodeKind::Regular;
    case 0040000: return NodeKind::Directory;
    case 0120000: return NodeKind::Symlink;
    case 0010000: return NodeKind::Fifo;
    default: return NodeKind::Other;
  }
}

struct Change {
  NameChange facts;
  std::string name, second;
};

// It was looked at already; the application may have scribbled on it since.
std::optional<Change> parse(const SeenRecord& r) {
  Change c;
  if (r.content.size() < sizeof c.facts) return std::nullopt;
  memcpy(&c.facts, r.content.data(), sizeof c.facts);
  const auto names = r.content.subspan(sizeof c.facts);
  if (c.facts.name == 0 || std::size_t{c.facts.name} + c.facts.second > names.size()) return std::nullopt;
  const auto* text = reinterpret_cast<const char*>(names.data());
  c.name.assign(text, c.facts.name);
  c.second.assign(text + c.facts.name, c.facts.second);
  return c;
}

bool is_names(const SeenRecord& r) { return r.head.kind >= stub::kCreate && r.head.kind <= stub::kRename; }

std::uint64_t left(std::uint32_t links) { return links > 0 ? links - 1 : 0; }

}  // namespace

void RingJournal::set_name(unsigned file, std::string name, bool deleted) {
  Entry& e = files_[file];
  auto& by_name = state_of(*e.path).by_name;
  auto [from, to] = by_name.equal_range(e.name);
  for (auto it = from; it != to; ++it) {
    if (it->second != file) continue;
    by_name.erase(it);
    break;
  }
  e.name = std::move(name);
  e.deleted = deleted;
  if (!deleted) by_name.emplace(e.name, file);
  show_name(file);
}

// For the stub, which knows a file that it opens by directory and name.
void RingJournal::show_name(unsigned file) {
  const Entry& e = files_[file];
  if (e.directory) return;
  stub::File& shown = control_.files[file];
  __atomic_fetch_and(&shown.flags, static_cast<std::uint16_t>(~unsigned{stub::kNamed}), __ATOMIC_ACQ_REL);
  if (e.deleted || e.name.empty()) return;
  const auto slash = e.name.rfind('/');
  const auto dir = directory(*e.path, slash == e.name.npos ? std::string_view() : std::string_view(e.name).substr(0, slash));
  const auto index = dir ? find(*e.path, *dir) : std::nullopt;
  if (!index) return;
  const std::string_view leaf = slash == e.name.npos ? std::string_view(e.name) : std::string_view(e.name).substr(slash + 1);
  shown.dir = *index + 1;
  shown.name = stub::name_hash(leaf.data(), static_cast<unsigned>(leaf.size()));
  __atomic_fetch_or(&shown.flags, std::uint16_t{stub::kNamed}, __ATOMIC_ACQ_REL);
}

// Files that the stub has made, and numbered itself: records that follow name them.
void RingJournal::note_made() {
  for (const SeenRecord& r : look_.records) {
    if (r.head.kind != stub::kCreate || (r.head.flags & stub::kRecordExisted)) continue;
    const Entry* directory = entry_of(r.head);
    const auto change = parse(r);
    if (!directory || !change || change->facts.file == 0) continue;
    const unsigned index = change->facts.file - 1;
    if (index < files_.size() && files_[index].path) continue;
    take_entry(index, *directory->path, change->facts.ino);
  }
}

// A file whose names or size change among its writes: each is told by itself.
void RingJournal::spoil_runs(const SeenRecord& r) {
  const auto spoil = [this](std::optional<unsigned> index) {
    if (index && *index < runs_.size()) runs_[*index].plain = false;
  };
  if (!is_names(r)) {
    spoil(r.head.file);
    return;
  }
  const auto change = parse(r);
  const Entry* directory = entry_of(r.head);
  if (!change || !directory) return;
  const auto file_of = [&](std::uint64_t ino) -> std::optional<unsigned> {
    const auto it = made_.find({directory->path->slot, ino});
    return it == made_.end() ? find(*directory->path, ino) : it->second;
  };
  if (r.head.kind == stub::kCreate && change->facts.file > 0) {
    made_[{directory->path->slot, change->facts.ino}] = change->facts.file - 1;
    return;
  }
  spoil(file_of(change->facts.ino));
  if (change->facts.replaced_mode) spoil(file_of(change->facts.replaced_ino));
}

void RingJournal::apply_change(const SeenRecord& r, Entry& entry) {
  if (is_names(r)) {
    apply_names(r, entry);
  } else if (r.head.kind == stub::kResize) {
    entry.path->journal.resized({0, entry.ino}, entry.name, r.head.offset);
    entry.size = r.head.offset;
    if (entry.deleted) {
      const FileState* file = entry.path->journal.find({0, entry.ino});
      if (file && std::ranges::find(file->names, entry.name) != file->names.end()) entry.path->journal.unlinked(entry.name);
    }
  } else {
    apply_attributes(r, entry);
  }
}

void RingJournal::apply_attributes(const SeenRecord& r, Entry& entry) {
  stub::Attributes a;
  if (entry.deleted || r.content.size() < sizeof a) return;
  memcpy(&a, r.content.data(), sizeof a);
  Journal& journal = entry.path->journal;
  const InodeKey key{0, entry.ino};
  if (a.what & stub::kChangedTimes) {
    journal.times(key, entry.name, timespec{a.atime_sec, static_cast<long>(a.atime_nsec)},
                  timespec{a.mtime_sec, static_cast<long>(a.mtime_nsec)});
  } else if (a.what & stub::kChangedOwner) {
    journal.attributes(key, entry.name, a.mode & 07777, a.uid, a.gid);
  } else {
    journal.attributes(key, entry.name, a.mode & 07777, std::nullopt, std::nullopt);
  }
}

void RingJournal::apply_names(const SeenRecord& r, Entry& directory) {
  const auto change = parse(r);
  if (!change || directory.deleted) return;
  StoragePath& path = *directory.path;
  Journal& journal = path.journal;
  const NameChange& facts = change->facts;
  const std::string below = directory.name.empty() ? "" : directory.name + "/";
  const std::string name = below + change->name, second = below + change->second;
  const InodeKey key{0, facts.ino};
  switch (r.head.kind) {
    case stub::kCreate: {
      if (r.head.flags & stub::kRecordExisted) {
        journal.resized(key, name, 0);
        resized(path, facts.ino, 0);
        return;
      }
      journal.created(key, name, kind_of(facts.mode), facts.mode & 07777, facts.uid, facts.gid);
      // Its inode number may have been another's, whom nobody has open any more.
      const unsigned index = facts.file - 1;
      if (facts.file > 0 && index < files_.size() && files_[index].path && files_[index].ino == facts.ino) {
        by_inode_[{path.slot, facts.ino}] = index;
        set_name(index, name, false);
      } else if (auto old = find(path, facts.ino)) {
        set_name(*old, name, false);
        resized(path, facts.ino, 0);
      }
      return;
    }
    case stub::kUnlink:
      journal.seen(key, name, kind_of(facts.mode));
      journal.unlinked(name, facts.links == 0 ? std::optional<std::uint64_t>() : left(facts.links));
      // It lives on under a name that nobody told.
      if (left(facts.links) > 0 && find(path, facts.ino)) wants_reset_ = true;
      else unlinked(path, name, facts.ino);
      return;
    default: {
      std::optional<std::uint64_t> lost, replaced;
      if (facts.replaced_mode) {
        lost = left(facts.replaced_links);
        replaced = facts.replaced_ino;
        if (*lost > 0 && find(path, *replaced)) wants_reset_ = true;
      }
      journal.seen(key, name, kind_of(facts.mode));
      journal.renamed(name, second, false, lost);
      renamed(path, name, second, false, replaced);
      return;
    }
  }
}

// ---- directories

bool RingJournal::register_directory(const StoragePath& path, std::uint64_t ino, const std::string& name) {
  if (const auto known = find(path, ino)) return files_[*known].directory;
  const unsigned index = __atomic_fetch_add(&control_.files_used, 1, __ATOMIC_ACQ_REL);
  Entry* entry = take_entry(index, path, ino);
  if (!entry) return false;
  by_inode_[{path.slot, ino}] = index;
  entry->directory = true;
  set_name(index, name, false);
  stub::File& file = control_.files[index];
  file = {};
  file.ino = ino;
  file.path = static_cast<std::uint16_t>(path.slot);
  file.flags = stub::kDirectory;
  stub::remember_inode(&control_, index);
  return true;
}

// It is gone; its inode number may come again.
void RingJournal::end_directory(unsigned index) {
  __atomic_store_n(&control_.files[index].flags, std::uint16_t{0}, __ATOMIC_RELEASE);
  by_inode_.erase({files_[index].path->slot, files_[index].ino});
}

std::optional<std::uint64_t> RingJournal::directory(const StoragePath& path, std::string_view name) const {
  if (path.slot >= path_states_.size()) return std::nullopt;
  const auto& by_name = path_states_[path.slot].by_name;
  const auto [first, last] = by_name.equal_range(name);
  for (auto it = first; it != last; ++it)
    if (files_[it->second].directory) return files_[it->second].ino;
  return std::nullopt;
}

// ---- names that change in the slow way

void RingJournal::renamed(const StoragePath& path, std::string_view from, std::string_view to, bool exchange,
                          std::optional<std::uint64_t> replaced) {
  if (from == to) return;
  auto& by_name = state_of(path).by_name;
  std::vector<std::pair<unsigned, std::string>> moved;
  const auto collect = [&](std::string_view a, std::string_view b) {
    const auto [first, last] = by_name.equal_range(a);
    for (auto it = first; it != last; ++it) moved.emplace_back(it->second, std::string(b));
    const std::string below = std::string(a) + "/";
    for (auto it = by_name.lower_bound(below); it != by_name.end() && it->first.starts_with(below); ++it)
      moved.emplace_back(it->second, std::string(b) + it->first.substr(a.size()));
  };
  collect(from, to);
  if (exchange) collect(to, from);
  else unlinked(path, to, replaced);
  for (auto& [file, name] : moved) set_name(file, std::move(name), false);
}

void RingJournal::unlinked(const StoragePath& path, std::string_view name, std::optional<std::uint64_t> ino) {
  if (ino) {
    // With another name it is the next file with that inode number, made in another directory before this was told.
    if (auto index = find(path, *ino); index && files_[*index].name == name) {
      set_name(*index, files_[*index].name, true);
      if (files_[*index].directory) end_directory(*index);
    }
    return;
  }
  auto& by_name = state_of(path).by_name;
  const auto [first, last] = by_name.equal_range(name);
  for (auto it = first; it != last; ++it) {
    files_[it->second].deleted = true;
    show_name(it->second);
    if (files_[it->second].directory) end_directory(it->second);
  }
  by_name.erase(first, last);
}

void RingJournal::linked(const StoragePath& path, std::uint64_t ino, std::string_view name) {
  auto index = find(path, ino);
  if (index && files_[*index].deleted) set_name(*index, std::string(name), false);
}

}  // namespace supervise
