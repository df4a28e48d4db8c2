// Moves what a held application has open on a storage path to another mount of it: descriptors
// (with those that share their open file description, over all processes), mappings, working
// directories and roots; retakes locks. Files are opened in a worker inside the world and handed
// over with SCM_RIGHTS through a socket pair that the tracee is made to open for the moment, so
// that neither its user nor its RLIMIT_NOFILE matters.
//
// collect() and save_mappings() come before the mount is changed, move() after.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/storage_path.h"
#include "supervisor/world.h"
#include "tracer/tracer.h"

namespace supervise {

class Relocation {
 public:
  // What `path` has open in tasks of `tracer`, by /proc alone: touches no file of the path.
  static Result<Relocation> collect(Tracer& tracer, StoragePath& path);

  // Tells the journal what stores through shared mappings hold, page by page as far as present,
  // and keeps the private copies of pages that were written. Returns bytes told.
  std::uint64_t save_mappings();

  // Shut down, some file systems don't tell a file's size, beyond which a page's bytes are nothing.
  // Then the file on the other path, `dir`, tells it, once its journal has been replayed there.
  // Returns bytes told, which want another replay.
  Result<std::uint64_t> tell_unsized(const std::string& dir, Deadline deadline);

  struct Report {
    std::size_t descriptors = 0, mappings = 0, directories = 0, locks = 0;
    // Threads that wait for a vfork child: they can't be made to run a call before it lets go.
    std::vector<pid_t> late;
    std::vector<std::string> problems;  // what could not be moved, each with its way out
  };
  // `world`: the new mount is in place. The journal has been rekeyed already.
  Result<Report> move(World& world, Deadline deadline);

  // Descriptors, directories and locks of a thread of `late`, once it is held.
  Status move_late(pid_t tid, Deadline deadline);

  std::size_t open_files() const { return files_.size(); }
  std::size_t mappings() const { return maps_.size(); }
  std::string summary() const;

 private:
  struct FdRef {
    pid_t tid = 0;
    int fd = -1;
  };
  struct OpenFile {  // one open file description
    std::string name;
    bool deleted = false;
    int flags = 0;
    std::uint64_t pos = 0, ino = 0;
    std::uint32_t mode = 0;
    std::uint64_t size = 0;
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<FdRef> refs;
    std::vector<LockInfo> locks;  // flock and OFD
    bool for_mapping = false;
    bool sized = false;           // size is known
  };
  struct SavedPage {
    std::uint64_t addr = 0;
    std::vector<std::byte> bytes;
  };
  struct Map {
    pid_t pid = 0;
    Vma vma;
    std::size_t file = 0;          // index in files_
    std::vector<SavedPage> own;    // private pages that were written
    std::vector<SavedPage> shared;  // present pages of a file whose size is not known yet
  };
  struct Dir {
    pid_t tid = 0;
    std::string name;
    bool is_root = false;
  };
  struct PosixLock {
    FdRef at;
    LockInfo lock;
  };

  Relocation(Tracer& tracer, StoragePath& path) : tracer_(&tracer), path_(&path) {}
  void collect_descriptors(pid_t tid);
  void collect_mappings(pid_t pid);
  void collect_directories(pid_t tid);
  std::uint64_t tell(const OpenFile& file, std::uint64_t offset, std::span<const std::byte> bytes);
  Result<std::vector<UniqueFd>> open_all(World& world, Deadline deadline,
                                         std::vector<std::string>& problems) const;
  Result<int> open_one(int root, const OpenFile& file, std::string& problem) const;
  Result<int> recreate_deleted(int root, const OpenFile& file) const;
  Status move_process(pid_t tid, bool with_mappings, Deadline deadline, Report& report);

  Tracer* tracer_;
  StoragePath* path_;
  std::vector<OpenFile> files_;
  std::vector<Map> maps_;
  std::vector<Dir> dirs_;
  std::vector<PosixLock> posix_locks_;
  std::vector<UniqueFd> fds_;  // on the new mount: files_, then dirs_
};

}  // namespace supervise
