// The declared storage paths: where the application sees each (`place`), which directories lead to
// the same storage, which one is in use, what is journaled for it; and the answer to "does this
// descriptor or name belong to one?". A descriptor belongs to a path when its mount id is one of
// those that make up the place; a name is resolved in the root of the thread that uses it
// (openat2(2), RESOLVE_IN_ROOT, and RESOLVE_CACHED first so that a dead path is not walked).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/journal.h"
#include "supervisor/options.h"
#include "tracer/proc_info.h"

namespace supervise {

struct StoragePath {
  std::string name;
  std::string place;              // as the application sees it, no trailing slash
  std::vector<std::string> dirs;  // on this host; dirs[active] is bound at `place`
  std::string up, down;
  std::size_t active = 0;
  std::set<std::size_t> given_up; // indexes that failed or could not be taken
  std::vector<std::optional<std::uint64_t>> dev_at_start;  // st_dev of each dir, when it was there
  bool read_only_at_start = false;
  std::set<std::uint64_t> mounts;
  Journal journal;
  std::uint64_t journal_floor = 0;  // bytes that the last sync at the limit could not retire
  std::size_t files_expected = 1024;  // with more the journal is looked through for deleted ones
  std::set<std::uint64_t> deleted_missed;  // those that nobody had open then
  std::set<std::uint64_t> mapped; // inodes that were mapped shared and writable
  std::uint64_t errors = 0;       // intercepted so far
  std::uint64_t switches = 0;
  std::size_t slot = 0;           // its number among the paths

  const std::string& dir() const { return dirs[active]; }
  std::optional<std::size_t> next_alternate() const;
};

// A name below a storage path.
struct Target {
  StoragePath* path = nullptr;
  std::string name;     // relative to the place; "" is the place itself
  bool exists = false;
  bool is_dir = false;
  bool is_regular = false;
  std::uint64_t ino = 0;
  mode_t mode = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::uint64_t size = 0;
  std::uint64_t links = 0;
  timespec atime{}, mtime{};
  explicit operator bool() const { return path != nullptr; }
};

class StoragePaths {
 public:
  // `by_mount`: places are mounts of a private namespace; otherwise only names tell.
  void set_by_mount(bool yes) { by_mount_ = yes; }
  StoragePath& add(StoragePath path);
  std::vector<std::unique_ptr<StoragePath>>& all() { return paths_; }
  const std::vector<std::unique_ptr<StoragePath>>& all() const { return paths_; }
  bool empty() const { return paths_.empty(); }
  StoragePath* find(std::string_view name) const;

  // Nothing when the descriptor belongs to none. `info` is filled when the descriptor exists.
  StoragePath* of_fd(pid_t tid, int fd, FdInfo& info) const;
  // Name of the descriptor's file relative to the place; `deleted` when it has none any more.
  static Result<std::string> name_of_fd(pid_t tid, int fd, const StoragePath& path, bool& deleted);
  StoragePath* of_absolute(std::string_view path, std::string* rest) const;  // by text alone
  StoragePath* of_mount(std::uint64_t mnt_id) const;

  // Resolves what (dirfd, path) names for that thread. Follows a final symbolic link only when
  // `follow`. Nothing when it is not below a storage path.
  Target resolve(pid_t tid, int dirfd, const std::string& path, bool follow) const;

 private:
  bool by_mount_ = true;
  std::vector<std::unique_ptr<StoragePath>> paths_;
};

// "/a/./b//c/../d" -> "/a/b/d". Pure.
std::string lexically_normal(std::string_view path);

struct FileFacts {
  std::uint64_t dev = 0, ino = 0, size = 0, blocks = 0;
  std::uint32_t mode = 0, nlink = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};
// Of a thread's descriptor, without asking the server of a network file system (statx
// AT_STATX_DONT_SYNC).
Result<FileFacts> facts_of_fd(pid_t tid, int fd);

}  // namespace supervise
