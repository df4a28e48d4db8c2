// What a successful sync makes of the journal: what it covered is no longer in it.
#include "supervisor/journal.h"
#include "supervisor/journal_parts.h"

namespace supervise {

void Journal::retire_data(FileState& f, Seq upto) {
  if (f.created && f.created_seq > upto) return;  // it had no name then: a crash would drop it
  for (const auto& [offset, piece] : f.data.pieces())
    if (piece.seq <= upto && !piece.zero) f.complete = false;
  Counted counted(f.data, content_bytes_, pieces_);
  f.data.retire(upto);
  if (f.size_seq <= upto) f.size_dirty = false;
}

namespace {

void clear_attributes(FileState& f) {
  f.mtime.reset();
  f.atime.reset();
  f.xattrs.clear();
  f.mode_changed = false;
  if (f.created) return;  // needed to create it
  f.uid.reset();
  f.gid.reset();
}

}  // namespace

// One of its names is durable, so the inode is.
void Journal::name_durable(FileState& f, Seq upto) {
  if (f.created && f.created_seq <= upto) {
    f.created = false;
    f.inode_reused = false;  // what had the number before is durably gone
    if (f.attr_seq <= f.created_seq) clear_attributes(f);
  }
  if (!name_pending(f)) f.old_names.clear();
}

void Journal::synced_file(InodeKey key, Seq upto, bool attributes) {
  auto it = by_inode_.find(key);
  if (it == by_inode_.end()) return;
  FileState& f = files_.at(it->second);
  if (f.unlinked()) return;
  retire_data(f, upto);
  if (attributes && f.attr_seq <= upto && f.attr_seq > f.created_seq) clear_attributes(f);
  drop_if_clean(f.id);
}

void Journal::synced_directory(std::string_view dir, Seq upto) {
  std::string prefix = dir.empty() ? "" : below(dir);
  std::vector<FileId> touched;
  bool live = false;
  for (auto it = names_.lower_bound(prefix); it != names_.end() && is_below(it->first, prefix);) {
    bool direct = it->first.find('/', prefix.size()) == std::string::npos;
    if (!direct || it->second.seq > upto) {
      ++it;
      continue;
    }
    if (it->second.file) touched.push_back(*it->second.file);
    live = live || it->second.file;
    it = names_.erase(it);
  }
  for (FileId id : touched) {
    if (auto f = files_.find(id); f != files_.end()) name_durable(f->second, upto);
    drop_if_clean(id);
  }
  if (FileState* d = by_name(dir)) {
    if (live) d->complete = false;
    if (d->attr_seq <= upto && d->attr_seq > d->created_seq) clear_attributes(*d);
    drop_if_clean(d->id);
  }
}

void Journal::synced_all(Seq upto) {
  std::erase_if(names_, [&](const auto& n) { return n.second.seq <= upto; });
  removed_dirs_.clear();
  std::vector<FileId> ids;
  for (auto& [id, f] : files_) {
    ids.push_back(id);
    if (f.unlinked()) continue;
    retire_data(f, upto);
    name_durable(f, upto);
    if (f.kind == NodeKind::Directory) f.complete = false;
    if (f.attr_seq <= upto) clear_attributes(f);
  }
  for (FileId id : ids) drop_if_clean(id);
}

}  // namespace supervise
