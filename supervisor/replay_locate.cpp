// Which file on this storage is which file of the journal. Nothing is changed here.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/vfs.h>

#include <algorithm>

#include "supervisor/replayer.h"

namespace supervise {
namespace {

constexpr auto kFuseMagic = 0x65735546;

}  // namespace

void Replayer::found(Node& node, Place place, const struct stat& st) {
  node.at = std::move(place);
  node.inode = {st.st_dev, st.st_ino};
}

bool Replayer::path_untouched(std::string_view name) const {
  for (; !name.empty(); name = parent_name(name))
    if (!untouched(name)) return false;
  return true;
}

// False when there is nothing under that name, or something of another kind.
Result<bool> Replayer::at_name(const Node& node, std::string_view name, Place& place,
                               struct stat& st) {
  auto p = beneath_.place(name);
  if (!p && Beneath::is_missing(p.error())) return false;
  if (!p) return p.error().with(fmt::format("replay: {}", name));
  auto s = stat_at(*p);
  if (!s) return s.error().with(fmt::format("replay: {}", name));
  if (!*s || !is_kind(*node.f, **s)) return false;
  place = p.take();
  st = **s;
  return true;
}

// Files made since the last durable state that this path shows as they are.
Status Replayer::find_in_place() {
  for (const auto& [id, f] : journal_.files()) {
    if (!f.rebuilt()) continue;
    Node node;
    node.f = &f;
    bool there = true;
    for (const auto& name : f.names) {
      Place place;
      struct stat st;
      if (there) {
        ASSIGN_OR_RETURN(bool found, at_name(node, name, place, st));
        there = found && ino_of(st) == f.key.ino;
      }
    }
    if (there) in_place_.insert(id);
  }
  return {};
}

Status Replayer::locate() {
  if (options_.in_place) RETURN_IF_ERROR(find_in_place());
  for (const auto& [id, f] : journal_.files()) {
    if (f.unlinked() || rebuilt(f)) continue;
    Node& node = nodes_[id];
    node.f = &f;
    node.needed = f.created || f.size_dirty || !f.data.empty() || has_attributes(f) ||
                  std::ranges::any_of(f.names, [&](const auto& n) {
                    auto it = names_.find(n);
                    return it != names_.end() && it->second.file == f.id;
                  });
  }

  // Do both paths show the same inode numbers? A file whose name was not touched tells for sure.
  // FUSE servers make up small numbers that can be equal by chance: there it takes such a file.
  std::size_t untouched_same = 0, untouched_other = 0, same = 0;
  for (auto& [id, node] : nodes_) {
    if (node.f->key.ino == 0) continue;
    Place place;
    struct stat st;
    auto consider = [&](const std::string& name, bool current) -> Status {
      ASSIGN_OR_RETURN(bool there, at_name(node, name, place, st));
      if (!there) return {};
      bool equal = ino_of(st) == node.f->key.ino;
      same += equal;
      if (current && !node.f->created && path_untouched(name))
        ++(equal ? untouched_same : untouched_other);
      return {};
    };
    for (const auto& name : node.f->names) RETURN_IF_ERROR(consider(name, true));
    for (const auto& name : node.f->old_names) RETURN_IF_ERROR(consider(name, false));
  }
  struct statfs fs;
  if (fstatfs(root_fd_, &fs) < 0) return failed("statfs of", "");
  bool fuse = fs.f_type == kFuseMagic && !options_.ino_of;
  inodes_match_ = options_.in_place || (untouched_other == 0 && (fuse ? untouched_same : same) > 0);

  // Not one match, and nothing that speaks against: look everywhere before trusting names.
  std::map<std::uint64_t, Node*> wanted;
  bool maybe = !inodes_match_ && !fuse && untouched_other == 0;
  if (inodes_match_ || maybe) {
    for (auto& [id, node] : nodes_) {
      // A reused number may be that of the directory removed before, unless a sync covered this one.
      const bool doubtful =
          node.f->inode_reused && node.f->complete && !options_.in_place;
      if (node.f->key.ino == 0 || doubtful) continue;
      RETURN_IF_ERROR(locate_by_inode(node));
      bool may_be_missing = node.f->kind == NodeKind::Directory && node.f->created &&
                            node.f->complete;
      if (!node.at && node.needed && !may_be_missing) wanted[node.f->key.ino] = &node;
    }
    if (!wanted.empty()) {
      ASSIGN_OR_RETURN(auto st, stat_at(in_root(".")));
      std::size_t before = wanted.size();
      RETURN_IF_ERROR(walk(in_root("."), *st, wanted));
      if (wanted.size() < before) inodes_match_ = true;
    }
  }
  for (auto& [id, node] : nodes_) {
    bool by_name = !inodes_match_ || node.f->key.ino == 0;
    if (!node.at && node.needed && by_name) RETURN_IF_ERROR(locate_by_name(node));
    bool can_be_made = node.f->kind == NodeKind::Directory && node.f->created && node.f->complete;
    if (!node.at && node.needed && !can_be_made)
      return errno_error(ENOENT, fmt::format("replay: {} (inode {}) is not on this path, and the "
                                             "journal does not hold all of it",
                                             node.f->names.empty() ? "a file with links elsewhere"
                                                                   : node.f->names.front(),
                                             node.f->key.ino));
  }
  for (auto& [id, node] : nodes_) {
    if (!node.at) continue;
    auto [it, fresh] = live_.emplace(node.inode, id);
    if (!fresh)
      return errno_error(EEXIST, fmt::format("replay: {} and {} are one file on this path",
                                             node.f->names.empty() ? "?" : node.f->names.front(),
                                             nodes_.at(it->second).f->names.empty()
                                                 ? "?"
                                                 : nodes_.at(it->second).f->names.front()));
    // A current name that was not touched is durable: it stays as it is. The link that was found
    // may be another one.
    for (const auto& name : node.f->names) node.keeps = node.keeps || untouched(name);
    node.placed = node.keeps || node.f->names.empty() || !node.needed;
  }
  return {};
}

// Files of which no name is known are looked up again once all names are final: the link that was
// found first may be one of those that had to go.
Status Replayer::relocate_nameless() {
  std::map<std::uint64_t, Node*> wanted;
  for (auto& [id, node] : nodes_)
    if (node.at && node.f->names.empty()) wanted[node.f->key.ino] = &node;
  if (wanted.empty()) return {};
  ASSIGN_OR_RETURN(auto st, stat_at(in_root(".")));
  RETURN_IF_ERROR(walk(in_root("."), *st, wanted));
  if (wanted.empty()) return {};
  return errno_error(ENOENT, fmt::format("replay: inode {} has lost its last name",
                                         wanted.begin()->first));
}

Status Replayer::locate_by_inode(Node& node) {
  struct stat st;
  Place parked = in_root(parked_name(node.f->id));
  ASSIGN_OR_RETURN(auto p, stat_at(parked));
  if (p) {
    found(node, parked, *p);
    node.parked = true;
    return {};
  }
  Place place;
  // First a name that is not touched: it is where the file stays.
  for (bool want_untouched : {true, false}) {
    for (const auto* list : {&node.f->names, &node.f->old_names}) {
      for (const auto& name : *list) {
        if (want_untouched != (list == &node.f->names && untouched(name))) continue;
        ASSIGN_OR_RETURN(bool there, at_name(node, name, place, st));
        if (!there || ino_of(st) != node.f->key.ino) continue;
        found(node, std::move(place), st);
        return {};
      }
    }
  }
  return {};
}

// By names alone. Of its names those count first that were not touched; then old names that must
// be gone in the end (in their order: there it still is), then the new name. An old name that by
// now belongs to another file leaves a doubt, unless all names look as they must in the end.
Status Replayer::locate_by_name(Node& node) {
  struct stat st;
  Place place = in_root(parked_name(node.f->id));
  ASSIGN_OR_RETURN(auto p, stat_at(place));
  if (p) {
    found(node, place, *p);
    node.parked = true;
    return {};
  }
  if (node.f->names.empty()) return {};
  for (const auto& name : node.f->names) {
    if (!path_untouched(name)) continue;
    ASSIGN_OR_RETURN(bool there, at_name(node, name, place, st));
    if (!there) continue;
    found(node, std::move(place), st);
    return {};
  }
  std::vector<std::string> gone, taken, now;
  for (const auto& name : node.f->old_names) {
    auto it = names_.find(name);
    if (it == names_.end()) continue;  // durably something else
    ASSIGN_OR_RETURN(bool there, at_name(node, name, place, st));
    if (!there || (it->second.file == node.f->id)) continue;
    (it->second.file ? taken : gone).push_back(name);
  }
  for (const auto& name : node.f->names) {
    ASSIGN_OR_RETURN(bool there, at_name(node, name, place, st));
    if (there) now.push_back(name);
  }
  std::string choice;
  if (!gone.empty()) {
    choice = gone.front();
  } else if (taken.empty()) {
    if (now.empty()) return {};
    choice = now.front();
  } else if (now.empty() && taken.size() == 1) {
    choice = taken.front();
  } else {
    ASSIGN_OR_RETURN(bool final, names_look_final());
    if (now.empty() || !final)
      return errno_error(
          EUCLEAN, fmt::format("replay: cannot tell whether {} is the file that was {}: this path "
                               "shows other inode numbers",
                               node.f->names.empty() ? "?" : node.f->names.front(), taken.front()));
    choice = now.front();
  }
  ASSIGN_OR_RETURN(bool there, at_name(node, choice, place, st));
  if (there) found(node, std::move(place), st);
  return {};
}

Result<bool> Replayer::names_look_final() {
  for (const auto& [name, state] : names_) {
    Node any;
    FileState f;
    f.kind = NodeKind::Other;
    any.f = &f;
    Place place;
    struct stat st;
    ASSIGN_OR_RETURN(bool there, at_name(any, name, place, st));
    if (there != state.file.has_value()) return false;
  }
  return true;
}

// Looks for the inodes that were not under any of their names: a directory above was renamed too.
Status Replayer::walk(const Place& dir, const struct stat& dir_stat,
                      std::map<std::uint64_t, Node*>& wanted) {
  auto opened = open_at(dir, O_PATH | O_DIRECTORY);
  if (!opened) return opened.error().with("replay");
  auto fd = std::make_shared<UniqueFd>(opened.take());
  ASSIGN_OR_RETURN(auto entries, entries_at({fd, "."}));
  for (const auto& entry : entries) {
    if (wanted.empty()) return {};
    Place place{fd, entry};
    ASSIGN_OR_RETURN(auto st, stat_at(place));
    if (!st || st->st_dev != dir_stat.st_dev) continue;
    if (auto it = wanted.find(ino_of(*st)); it != wanted.end() && is_kind(*it->second->f, *st)) {
      found(*it->second, place, *st);
      wanted.erase(it);
    }
    if (S_ISDIR(st->st_mode)) RETURN_IF_ERROR(walk(place, *st, wanted));
  }
  return {};
}

}  // namespace supervise
