// The steps of replay() (see replay.h), which share what is known of each file:
// locate (replay_locate.cpp), names (replay_names.cpp), data and proof (replay_data.cpp).
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "supervisor/beneath.h"
#include "supervisor/replay.h"

namespace supervise {

class Replayer {
 public:
  Replayer(const Journal& journal, int root_fd, const ReplayOptions& options);
  Result<ReplayReport> run();

 private:
  using Inode = std::pair<std::uint64_t, std::uint64_t>;

  struct Node {
    const FileState* f = nullptr;
    bool needed = false;       // something is to be done to it
    std::optional<Place> at;   // where it is on this storage
    Inode inode;
    bool keeps = false;        // has a durable name, maybe below a directory yet to be moved
    bool placed = false;       // has one of its final names
    bool parked = false;       // has a temporary name
  };

  // replay_locate.cpp
  Status prepare();
  Status locate();
  Status relocate_nameless();
  Status locate_by_inode(Node&);
  Status locate_by_name(Node&);
  Status walk(const Place& dir, const struct stat& dir_stat,
              std::map<std::uint64_t, Node*>& wanted);
  Result<bool> at_name(const Node&, std::string_view name, Place& place, struct stat& st);
  Result<bool> names_look_final();
  Status find_in_place();
  bool rebuilt(const FileState& f) const { return f.rebuilt() && !in_place_.contains(f.id); }
  void found(Node&, Place place, const struct stat& st);
  bool untouched(std::string_view name) const { return !names_.contains(name); }
  bool path_untouched(std::string_view name) const;  // nor any directory above it
  std::uint64_t ino_of(const struct stat& st) const;

  // replay_names.cpp
  Status place_all();
  Status place_node(Node&, const std::string& name);
  Status place_directory(Node&, const std::string& name, const Place& target);
  Status place_rebuilt(Node&, const std::string& name);
  Status build(Node&);
  Status remove_absent();
  Status drop_parked();
  Status clear(const Place& place, const std::string& name);
  Status move(Node&, const Place& target, const std::string& name);
  Status link(Node&, const Place& target, const std::string& name);

  // replay_data.cpp
  Status write_all();
  bool holds_already(const FileState& f, int fd, const struct stat& st);
  Status write_data(const FileState& f, int fd, const std::string& name);
  Status set_attributes(const FileState& f, const Place& place, int fd, const std::string& name);
  Status sync_directories();
  Status verify_all();
  Status verify_names();
  Status verify_file(const Node&, const std::string& name);
  Status verify_range(int fd, std::uint64_t from, std::uint64_t to,
                      const ByteRanges::Piece* piece, const std::string& name);
  Result<std::pair<Place, std::string>> final_place(const Node&);
  Status report_files();

  Status step(std::string_view what);
  Error failed(std::string_view what, std::string_view name) const;
  std::string parked_name(FileId id) const;
  std::string built_name(FileId id) const;
  Place in_root(std::string leaf);
  static bool is_kind(const FileState& f, const struct stat& st);
  static bool has_attributes(const FileState& f);

  const Journal& journal_;
  const std::map<std::string, NameState, std::less<>>& names_;
  const ReplayOptions& options_;
  int root_fd_;
  Beneath beneath_;
  std::shared_ptr<UniqueFd> root_;
  bool inodes_match_ = false;
  std::set<FileId> in_place_;
  std::map<FileId, Node> nodes_;
  std::map<Inode, FileId> live_;
  ReplayReport report_;
};

}  // namespace supervise
