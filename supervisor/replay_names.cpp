// Names: every one that must be there, parents before what is below them, then those that must be
// absent. What is in the way is removed when it is dead in the final state, moved aside otherwise.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/replayer.h"

namespace supervise {

Status Replayer::place_all() {
  for (const auto& [name, state] : names_) {
    if (!state.file) continue;
    auto file = journal_.files().find(*state.file);
    if (file == journal_.files().end())
      return plain_error(fmt::format("replay: the journal knows no file for the name {}", name));
    Node& node = nodes_[*state.file];
    node.f = &file->second;
    RETURN_IF_ERROR(rebuilt(*node.f) ? place_rebuilt(node, name) : place_node(node, name));
    ++report_.names;
  }
  return {};
}

Status Replayer::remove_absent() {
  for (const auto& [name, state] : names_) {
    if (state.file) continue;
    auto place = beneath_.place(name);
    if (!place && Beneath::is_missing(place.error())) continue;
    if (!place) return place.error().with("replay");
    RETURN_IF_ERROR(clear(*place, name));
    ++report_.names;
  }
  return {};
}

// Links that were kept only to have hold of a file whose durable name was not in its place yet.
Status Replayer::drop_parked() {
  for (auto& [id, node] : nodes_) {
    if (!node.parked) continue;
    const std::string& name = node.f->names.front();
    ASSIGN_OR_RETURN(Place place, beneath_.place(name));
    ASSIGN_OR_RETURN(auto st, stat_at(place));
    if (!st || Inode{st->st_dev, st->st_ino} != node.inode)
      return errno_error(ENOENT, fmt::format("replay: {} did not get its place back; it is {}", name,
                                             node.at->leaf));
    RETURN_IF_ERROR(step("remove a temporary name"));
    if (unlinkat(root_->get(), node.at->leaf.c_str(), 0) < 0) return failed("remove", node.at->leaf);
    node.at = std::move(place);
    node.parked = false;
  }
  return {};
}

Status Replayer::place_node(Node& node, const std::string& name) {
  auto target = beneath_.place(name);
  if (!target) return target.error().with(fmt::format("replay: {}", name));
  ASSIGN_OR_RETURN(auto st, stat_at(*target));
  if (!node.at) return place_directory(node, name, *target);
  if (st && Inode{st->st_dev, st->st_ino} == node.inode) {
    if (node.parked) {
      RETURN_IF_ERROR(step("remove a temporary name"));
      if (unlinkat(root_->get(), node.at->leaf.c_str(), 0) < 0) return failed("remove", node.at->leaf);
      node.parked = false;
      node.placed = false;
    }
    if (!node.placed) node.at = *target;
    node.placed = true;
    return {};
  }
  if (!node.placed && !node.parked) {
    // Of several links the one that was found may be durable and unknown to the journal: another
    // is made beside it, and the old name goes with those that must be absent.
    ASSIGN_OR_RETURN(auto here, stat_at(*node.at));
    if (here && !S_ISDIR(here->st_mode) && here->st_nlink > 1) {
      RETURN_IF_ERROR(link(node, *target, name));
      node.at = *target;
      node.placed = true;
      return {};
    }
  }
  return node.placed ? link(node, *target, name) : move(node, *target, name);
}

// A directory made since the last durable state, and not found by its inode.
Status Replayer::place_directory(Node& node, const std::string& name, const Place& target) {
  ASSIGN_OR_RETURN(auto st, stat_at(target));
  bool take_it = st && S_ISDIR(st->st_mode) && !inodes_match_ &&
                 !live_.contains({st->st_dev, st->st_ino});
  if (!take_it) {
    RETURN_IF_ERROR(clear(target, name));
    RETURN_IF_ERROR(step("mkdir"));
    if (mkdirat(target.fd(), target.leaf.c_str(), 0700) < 0) return failed("mkdir", name);
    ASSIGN_OR_RETURN(st, stat_at(target));
    if (!st) return errno_error(ENOENT, fmt::format("replay: mkdir {}", name));
  }
  found(node, target, *st);
  live_[node.inode] = node.f->id;
  node.placed = true;
  return {};
}

Status Replayer::move(Node& node, const Place& target, const std::string& name) {
  ASSIGN_OR_RETURN(auto here, stat_at(*node.at));
  ASSIGN_OR_RETURN(auto there, stat_at(target));
  if (!here) return errno_error(ENOENT, fmt::format("replay: {} has gone meanwhile", name));
  // A dead file in the way is replaced by the rename itself; all else goes first.
  bool replaced = there && !S_ISDIR(there->st_mode) && !S_ISDIR(here->st_mode) &&
                  !live_.contains({there->st_dev, there->st_ino});
  if (there && !replaced) RETURN_IF_ERROR(clear(target, name));
  RETURN_IF_ERROR(step("rename"));
  if (renameat(node.at->fd(), node.at->leaf.c_str(), target.fd(), target.leaf.c_str()) < 0)
    return failed("rename to", name);
  node.at = target;
  node.placed = true;
  node.parked = false;
  return {};
}

Status Replayer::link(Node& node, const Place& target, const std::string& name) {
  RETURN_IF_ERROR(clear(target, name));
  RETURN_IF_ERROR(step("link"));
  if (linkat(node.at->fd(), node.at->leaf.c_str(), target.fd(), target.leaf.c_str(), 0) < 0)
    return failed("link", name);
  return {};
}

Status Replayer::clear(const Place& place, const std::string& name) {
  ASSIGN_OR_RETURN(auto st, stat_at(place));
  if (!st) return {};
  auto live = live_.find({st->st_dev, st->st_ino});
  if (live != live_.end()) {
    Node& node = nodes_.at(live->second);
    struct stat ours, its;
    if (fstat(place.fd(), &ours) < 0 || fstat(node.at->fd(), &its) < 0) return failed("stat", name);
    bool same_place = ours.st_dev == its.st_dev && ours.st_ino == its.st_ino &&
                      place.leaf == node.at->leaf;
    bool directory = S_ISDIR(st->st_mode);
    bool needed_yet = !node.placed || (node.keeps && same_place && !directory);
    if (needed_yet && !node.parked) {
      RETURN_IF_ERROR(step("move aside"));
      Place aside = in_root(parked_name(node.f->id));
      if (renameat(place.fd(), place.leaf.c_str(), aside.fd(), aside.leaf.c_str()) < 0)
        return failed("move aside", name);
      node.at = aside;
      node.parked = true;
      return {};
    }
    // Another link of a file that has its place already may go; the place itself may not.
    bool last = node.f->names.empty() ? st->st_nlink == 1 : same_place;
    if (directory || last)
      return errno_error(EBUSY, fmt::format("replay: {} is in the way and in use", name));
  }
  if (S_ISDIR(st->st_mode)) {
    auto opened = open_at(place, O_PATH | O_DIRECTORY);
    if (!opened) return opened.error().with(fmt::format("replay: {}", name));
    auto fd = std::make_shared<UniqueFd>(opened.take());
    ASSIGN_OR_RETURN(auto entries, entries_at({fd, "."}));
    for (const auto& entry : entries) RETURN_IF_ERROR(clear({fd, entry}, name + "/" + entry));
    RETURN_IF_ERROR(step("rmdir"));
    if (unlinkat(place.fd(), place.leaf.c_str(), AT_REMOVEDIR) < 0) return failed("rmdir", name);
    return {};
  }
  RETURN_IF_ERROR(step("unlink"));
  if (unlinkat(place.fd(), place.leaf.c_str(), 0) < 0) return failed("unlink", name);
  return {};
}

Status Replayer::place_rebuilt(Node& node, const std::string& name) {
  auto target = beneath_.place(name);
  if (!target) return target.error().with(fmt::format("replay: {}", name));
  if (node.placed) return link(node, *target, name);
  RETURN_IF_ERROR(build(node));
  return move(node, *target, name);
}

// Makes a file under a temporary name, durable with all its content and attributes.
Status Replayer::build(Node& node) {
  const FileState& f = *node.f;
  Place place = in_root(built_name(f.id));
  const std::string& name = f.names.front();
  RETURN_IF_ERROR(step("create"));
  UniqueFd fd;
  if (f.kind == NodeKind::Symlink) {
    if (symlinkat(f.symlink_target.value_or("").c_str(), place.fd(), place.leaf.c_str()) < 0)
      return failed("symlink", name);
  } else if (f.kind == NodeKind::Fifo) {
    if (mknodat(place.fd(), place.leaf.c_str(), S_IFIFO | 0600, 0) < 0) return failed("mkfifo", name);
  } else {
    fd.reset(openat(place.fd(), place.leaf.c_str(),
                    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) return failed("create", name);
    RETURN_IF_ERROR(write_data(f, fd.get(), name));
  }
  RETURN_IF_ERROR(set_attributes(f, place, fd.get(), name));
  if (fd) {
    RETURN_IF_ERROR(step("fsync"));
    if (fsync(fd.get()) < 0) return failed("fsync", name);
    ++report_.files;
  }
  ASSIGN_OR_RETURN(auto st, stat_at(place));
  if (!st) return errno_error(ENOENT, fmt::format("replay: {} has gone meanwhile", name));
  found(node, place, *st);
  live_[node.inode] = f.id;
  return {};
}

}  // namespace supervise
