#include "supervisor/journal.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "supervisor/journal_parts.h"

namespace supervise {
namespace {

std::uint64_t new_tag() {
  static std::atomic<std::uint64_t> count{0};
  auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return static_cast<std::uint64_t>(now) * 1024 + count++ % 1024;
}

std::optional<NodeKind> kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return NodeKind::Regular;
    case S_IFDIR: return NodeKind::Directory;
    case S_IFLNK: return NodeKind::Symlink;
    case S_IFIFO: return NodeKind::Fifo;
    default: return std::nullopt;
  }
}

void add_once(std::vector<std::string>& list, std::string_view name) {
  if (std::ranges::find(list, name) == list.end()) list.emplace_back(name);
}

// Takes the entries below a prefix out of a map keyed by name.
template <class Map>
std::vector<typename Map::node_type> take_below(Map& map, const std::string& prefix) {
  std::vector<typename Map::node_type> out;
  for (auto it = map.lower_bound(prefix); it != map.end() && is_below(it->first, prefix);)
    out.push_back(map.extract(it++));
  return out;
}

}  // namespace

Journal::Journal(bool content) : content_(content), tag_(new_tag()) {}

// ---- files

FileState& Journal::new_file(InodeKey key, NodeKind kind) {
  FileId id = next_id_++;
  FileState& f = files_[id];
  f.id = id;
  f.key = key;
  f.kind = kind;
  if (key != InodeKey{}) by_inode_[key] = id;
  return f;
}

FileState* Journal::by_name(std::string_view name) {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &files_.at(it->second);
}

FileState& Journal::by_name_or_placeholder(std::string_view name) {
  if (FileState* f = by_name(name)) return *f;
  FileState& f = new_file({}, NodeKind::Other);
  attach(f, name);
  return f;
}

// The state of an inode. A name that is known to be another file's, or to be gone, is an old name
// of a file that has none any more.
FileState& Journal::file(InodeKey key, std::string_view name, NodeKind kind) {
  bool nameless = name.empty() && kind != NodeKind::Directory;
  auto known = by_inode_.find(key);
  if (known != by_inode_.end()) {
    FileState& f = files_.at(known->second);
    if (f.kind == NodeKind::Other) f.kind = kind;
    if (f.links_elsewhere && !nameless && !by_name(name) && !names_.contains(name)) {
      attach(f, name);
      f.links_elsewhere = false;
    }
    return f;
  }
  if (FileState* f = by_name(name); f && f->key == InodeKey{}) {
    f->key = key;
    by_inode_[key] = f->id;
    f->kind = kind;
    return *f;
  }
  FileState& f = new_file(key, kind);
  if (!nameless && !by_name(name) && !names_.contains(name)) attach(f, name);
  return f;
}

FileState& Journal::data_file(InodeKey key, std::string_view name) {
  FileState& f = file(key, name, NodeKind::Regular);
  f.mtime.reset();
  return f;
}

void Journal::attach(FileState& f, std::string_view name) {
  detach(name);
  add_once(f.names, name);
  by_name_.insert_or_assign(std::string(name), f.id);
}

FileState* Journal::detach(std::string_view name) {
  auto it = by_name_.find(name);
  if (it == by_name_.end()) return nullptr;
  FileState& f = files_.at(it->second);
  by_name_.erase(it);
  std::erase(f.names, name);
  return &f;
}

// What becomes of a file that has just lost one name.
void Journal::lost_name(FileState& f, std::optional<std::uint64_t> links_left) {
  if (!f.names.empty()) return;
  bool may_be_open = f.kind == NodeKind::Regular || f.kind == NodeKind::Other;
  if (links_left.value_or(0) > 0 && f.kind != NodeKind::Directory) {
    f.links_elsewhere = true;
    drop_if_clean(f.id);
  } else if (!may_be_open) {
    if (f.kind == NodeKind::Directory) removed_dirs_.insert(f.key);
    drop(f.id);
  }
}

void Journal::drop(FileId id) {
  auto it = files_.find(id);
  if (it == files_.end()) return;
  FileState& f = it->second;
  content_bytes_ -= f.data.bytes();
  pieces_ -= f.data.pieces().size();
  if (auto k = by_inode_.find(f.key); k != by_inode_.end() && k->second == id) by_inode_.erase(k);
  for (const auto& name : f.names) {
    by_name_.erase(name);
    if (auto n = names_.find(name); n != names_.end() && n->second.file == id)
      n->second.file.reset();
  }
  files_.erase(it);
}

bool Journal::name_pending(const FileState& f) const {
  return std::ranges::any_of(f.names, [&](const std::string& name) {
    auto it = names_.find(name);
    return it != names_.end() && it->second.file == f.id;
  });
}

bool Journal::clean(const FileState& f) const {
  return f.data.empty() && !f.size_dirty && !f.created && !f.mode_changed && !f.uid && !f.gid &&
         !f.mtime && !f.atime && f.xattrs.empty() && !name_pending(f);
}

void Journal::drop_if_clean(FileId id) {
  auto it = files_.find(id);
  if (it != files_.end() && !it->second.unlinked() && clean(it->second)) drop(id);
}

// ---- data

void Journal::touched_size(FileState& f, std::uint64_t size) {
  f.size = size;
  f.size_seq = seq_;
  f.size_dirty = true;
}

void Journal::put(InodeKey key, std::string_view name, std::uint64_t offset, std::uint64_t length,
                  const std::byte* bytes, std::uint64_t size_after, bool durable) {
  ++seq_;
  FileState& f = data_file(key, name);
  bool keep = !durable || f.unlinked();
  if (length > 0 && (!keep || !bytes)) f.complete = false;
  {
    Counted counted(f.data, content_bytes_, pieces_);
    if (!keep) f.data.erase(offset, length);
    else if (bytes) f.data.put(offset, {bytes, length}, seq_);
    else f.data.put_range_only(offset, length, seq_);
  }
  if (keep) return touched_size(f, size_after);
  f.size = size_after;
  drop_if_clean(f.id);
}

void Journal::wrote(InodeKey key, std::string_view name, std::uint64_t offset,
                    std::span<const std::byte> bytes, std::uint64_t size_after, bool durable) {
  put(key, name, offset, bytes.size(), content_ ? bytes.data() : nullptr, size_after, durable);
}

void Journal::wrote_range(InodeKey key, std::string_view name, std::uint64_t offset,
                          std::uint64_t length, std::uint64_t size_after, bool durable) {
  put(key, name, offset, length, nullptr, size_after, durable);
}

void Journal::zeroed(InodeKey key, std::string_view name, std::uint64_t offset,
                     std::uint64_t length, std::uint64_t size_after) {
  ++seq_;
  FileState& f = data_file(key, name);
  Counted counted(f.data, content_bytes_, pieces_);
  f.data.put_zero(offset, length, seq_);
  touched_size(f, size_after);
}

void Journal::resized(InodeKey key, std::string_view name, std::uint64_t size) {
  ++seq_;
  FileState& f = data_file(key, name);
  Counted counted(f.data, content_bytes_, pieces_);
  f.data.put_zero(size, ByteRanges::kEnd, seq_);
  touched_size(f, size);
}

// ---- names

void Journal::set_name(std::string_view name, std::optional<FileId> file) {
  names_.insert_or_assign(std::string(name), NameState{file, seq_});
}

void Journal::created(InodeKey key, std::string_view name, NodeKind kind, mode_t mode, uid_t uid,
                      gid_t gid, std::string_view symlink_target) {
  ++seq_;
  if (auto it = by_inode_.find(key); it != by_inode_.end()) drop(it->second);  // its inode is reused
  FileState& f = new_file(key, kind);
  f.created = true;
  f.created_seq = f.attr_seq = seq_;
  f.mode = mode;
  f.uid = uid;
  f.gid = gid;
  if (kind == NodeKind::Symlink) f.symlink_target = std::string(symlink_target);
  f.complete = kind == NodeKind::Directory || (kind == NodeKind::Regular && content_);
  f.inode_reused = kind == NodeKind::Directory && removed_dirs_.contains(key);
  if (kind == NodeKind::Regular) touched_size(f, 0);
  if (name.empty()) return;
  if (FileState* old = detach(name)) lost_name(*old, {});
  attach(f, name);
  set_name(name, f.id);
}

void Journal::linked(InodeKey key, std::string_view existing, std::string_view name) {
  ++seq_;
  FileState& f = file(key, existing, NodeKind::Other);
  FileId id = f.id;
  if (FileState* old = detach(name); old && old->id != id) lost_name(*old, {});
  // A file made with O_TMPFILE can be on the storage from its first name on, not earlier.
  if (f.created && f.names.empty()) f.created_seq = f.attr_seq = seq_;
  attach(f, name);
  f.links_elsewhere = false;
  set_name(name, id);
}

void Journal::seen(InodeKey key, std::string_view name, NodeKind kind) {
  ++seq_;
  FileState* at = by_name(name);
  if (at && at->key == key) {
    if (at->kind == NodeKind::Other) at->kind = kind;
    return;
  }
  if (at && at->key != InodeKey{}) {  // replaced by someone whom we do not supervise
    names_.erase(std::string(name));
    if (FileState* old = detach(name)) lost_name(*old, {});
  } else if (auto n = names_.find(name); n != names_.end() && !n->second.file) {
    names_.erase(n);
  }
  FileState& f = file(key, name, kind);
  attach(f, name);
  f.links_elsewhere = false;
}

// Forgets all that was known below a directory that is gone.
void Journal::forget_below(std::string_view dir) {
  std::string prefix = below(dir);
  take_below(names_, prefix);
  for (auto& node : take_below(by_name_, prefix)) {
    auto it = files_.find(node.mapped());
    if (it == files_.end()) continue;
    std::erase(it->second.names, node.key());
    lost_name(it->second, {});
  }
}

void Journal::move_below(std::string_view from, std::string_view to) {
  std::string prefix = below(from);
  for (auto& node : take_below(names_, prefix)) {
    node.key() = std::string(to) + node.key().substr(from.size());
    names_.insert(std::move(node));
  }
  for (auto& node : take_below(by_name_, prefix)) {
    FileState& f = files_.at(node.mapped());
    std::string now = std::string(to) + node.key().substr(from.size());
    std::ranges::replace(f.names, node.key(), now);
    add_once(f.old_names, node.key());
    node.key() = std::move(now);
    by_name_.insert(std::move(node));
  }
}

void Journal::renamed(std::string_view from, std::string_view to, bool exchange,
                      std::optional<std::uint64_t> links_left) {
  ++seq_;
  if (from == to) return;
  FileState& f = by_name_or_placeholder(from);
  FileState* g = exchange ? &by_name_or_placeholder(to) : by_name(to);
  if (g == &f) return;  // two links of one inode: rename(2) does nothing
  bool f_dir = f.kind == NodeKind::Directory || f.kind == NodeKind::Other;
  if (exchange) {
    const std::string aside = "//exchange";  // no name has two slashes
    detach(from);
    detach(to);
    attach(f, to);
    attach(*g, from);
    add_once(f.old_names, from);
    add_once(g->old_names, to);
    move_below(from, aside);
    move_below(to, from);
    move_below(aside, to);
    for (auto& [id, state] : files_)
      std::erase_if(state.old_names, [&](const auto& n) { return is_below(n, below(aside)); });
    set_name(from, g->id);
    set_name(to, f.id);
    return;
  }
  detach(from);
  if (g) {
    detach(to);
    lost_name(*g, links_left);
  }
  if (f_dir) {
    forget_below(to);
    move_below(from, to);
  }
  attach(f, to);
  add_once(f.old_names, from);
  set_name(from, std::nullopt);
  set_name(to, f.id);
}

void Journal::unlinked(std::string_view name, std::optional<std::uint64_t> links_left) {
  ++seq_;
  FileState* f = detach(name);
  set_name(name, std::nullopt);
  if (f) lost_name(*f, links_left);
}

// ---- attributes

void Journal::attributes(InodeKey key, std::string_view name, std::optional<mode_t> mode,
                         std::optional<uid_t> uid, std::optional<gid_t> gid) {
  ++seq_;
  FileState& f = file(key, name, mode ? kind_of(*mode).value_or(NodeKind::Other) : NodeKind::Other);
  f.attr_seq = seq_;
  if (mode) {
    f.mode = *mode;
    f.mode_changed = true;
  }
  if (uid) f.uid = uid;
  if (gid) f.gid = gid;
}

void Journal::times(InodeKey key, std::string_view name, std::optional<timespec> atime,
                    std::optional<timespec> mtime) {
  ++seq_;
  FileState& f = file(key, name, NodeKind::Other);
  f.attr_seq = seq_;
  if (atime) f.atime = atime;
  if (mtime) f.mtime = mtime;
}

void Journal::xattr(InodeKey key, std::string_view name, std::string_view attribute,
                    std::optional<std::string> value) {
  ++seq_;
  FileState& f = file(key, name, NodeKind::Other);
  f.attr_seq = seq_;
  f.xattrs.insert_or_assign(std::string(attribute), std::move(value));
}

void Journal::forget(InodeKey key) {
  auto it = by_inode_.find(key);
  if (it != by_inode_.end() && files_.at(it->second).names.empty()) drop(it->second);
}

void Journal::rekey(FileId id, InodeKey now) {
  auto it = files_.find(id);
  if (it == files_.end()) return;
  if (auto k = by_inode_.find(it->second.key); k != by_inode_.end() && k->second == id)
    by_inode_.erase(k);
  it->second.key = now;
  it->second.inode_reused = false;
  by_inode_[now] = id;
}

// ---- looking at it

std::uint64_t Journal::memory() const {
  return content_bytes_ + pieces_ * 112 + names_.size() * 160 + files_.size() * 640;
}

bool Journal::empty() const { return names_.empty() && dirty_files() == 0; }

std::size_t Journal::dirty_files() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(files_, [&](const auto& f) { return !clean(f.second); }));
}

const FileState* Journal::find(InodeKey key) const {
  auto it = by_inode_.find(key);
  return it == by_inode_.end() ? nullptr : &files_.at(it->second);
}

std::vector<FileId> Journal::largest_first() const {
  std::vector<FileId> ids;
  for (const auto& [id, f] : files_)
    if (f.data.bytes() > 0 && !f.unlinked()) ids.push_back(id);
  std::ranges::sort(ids, [&](FileId a, FileId b) {
    return files_.at(a).data.bytes() > files_.at(b).data.bytes();
  });
  return ids;
}

}  // namespace supervise
