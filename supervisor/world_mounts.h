// Mounts of storage paths inside the world. A worker process (forked, with a deadline) captures the
// host's tree with open_tree(OPEN_TREE_CLONE), enters the world's mount namespace and attaches it
// with move_mount, after detaching what was there. The former file system is only touched by
// umount2(MNT_DETACH), which does not need it to answer. A place inside another place keeps its
// mount (and so its mount ids) while the outer one is changed. open_tree(2), move_mount(2),
// mount_setattr(2), proc_pid_mountinfo(5).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

class PassedFds;

struct MountEntry {
  std::uint64_t id = 0;
  std::uint64_t parent = 0;
  std::string device;  // "major:minor" of the superblock
  std::string place;   // unescaped mount point
  std::string type;    // of the file system, with its subtype: "ext4", "fuse.sshfs"
};

// In the order of the file: of two at one place the later one covers the earlier.
std::vector<MountEntry> parse_mountinfo(const std::string& text);
Result<std::vector<MountEntry>> read_mountinfo(const std::string& file);
// True when `path` is `directory` or lies under it.
bool is_at_or_under(const std::string& path, const std::string& directory);

class WorldMounts {
 public:
  // `init_pid` 0: no namespaces; then nothing can be bound, and mount ids come from our own table.
  explicit WorldMounts(pid_t init_pid) : init_pid_(init_pid) {}

  // Binds the tree of `source` at `place`. The first time the directory is made when it is missing
  // and symbolic links in `place` are followed; later calls (rebinds) touch nothing of the former
  // file system and also detach its other mounts in the world, unless "/" or another place needs
  // that file system.
  Status bind(const std::string& name, const std::string& place, const std::string& source,
              Deadline deadline);
  // Without namespaces: only remembers the name.
  void declare(const std::string& name, const std::string& place);

  nlohmann::json pass(PassedFds& fds) const;  // World::pass
  Status take(const nlohmann::json& passed);

  std::set<std::uint64_t> mount_ids(const std::string& name) const;
  // The superblock of a place now, "major:minor"; empty when it is no mount.
  std::string device(const std::string& name) const;
  // O_PATH descriptor on the root of the place's mount; -1 without namespaces. Closed by bind().
  int root_fd(const std::string& name) const;
  // Whether a file name of the world lies in a place.
  bool in_a_place(const std::string& path) const;
  const std::vector<std::string>& made_directories() const { return made_; }
  // What still keeps a former file system busy inside the world.
  const std::vector<std::string>& warnings() const { return warnings_; }
  bool has(const std::string& name) const { return places_.contains(name); }
  std::string place(const std::string& name) const;

 private:
  struct Place {
    std::string place;  // as declared
    std::string real;   // with symbolic links followed, as mountinfo shows it
    UniqueFd root;
  };
  Result<std::vector<MountEntry>> table() const;
  std::vector<const Place*> inside(const std::string& name) const;

  pid_t init_pid_;
  std::map<std::string, Place> places_;
  std::vector<std::string> made_;
  std::vector<std::string> warnings_;
};

}  // namespace supervise
