// Names below a root directory, none of which can lead out of it or through a symbolic link:
// parents are opened with openat2(2) and RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, or one component
// after the other where openat2 is not there. A Place is an open parent and a last component, and
// stays valid when a directory above it is renamed.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

struct Place {
  std::shared_ptr<UniqueFd> dir;  // O_PATH
  std::string leaf;               // "." for the root itself
  int fd() const { return dir->get(); }
};

// The parent, "" for a name directly in the root.
std::string_view parent_name(std::string_view name);

class Beneath {
 public:
  explicit Beneath(int root_fd) : root_(root_fd) {}

  // Errors of a parent that is not there: is_missing().
  Result<Place> place(std::string_view name);
  // "" is the root. The flags are those of open(2).
  Result<UniqueFd> open_dir(std::string_view name, int flags) const;
  // While on, opened parents are remembered: only as long as nothing is renamed.
  void remember_parents(bool on);

  static bool is_missing(const Error& e);

 private:
  Result<UniqueFd> open_by_components(std::string_view name, int flags) const;

  int root_;
  bool remember_ = false;
  std::unordered_map<std::string, std::shared_ptr<UniqueFd>> parents_;
};

// Nothing when there is no such file.
Result<std::optional<struct stat>> stat_at(const Place&);
Result<UniqueFd> open_at(const Place&, int flags);  // O_NOFOLLOW | O_CLOEXEC added
Result<std::vector<std::string>> entries_at(const Place&);

}  // namespace supervise
