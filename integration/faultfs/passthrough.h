// A directory handed through FUSE call by call, with faults in between. Inodes are O_PATH
// descriptors of the lower directory, so the daemon needs no path below it and may live in any
// mount namespace. Every operation asks the fault rules first, by its name: lookup getattr chmod
// chown truncate utimens readlink mkdir mknod symlink unlink rmdir rename link open create read
// write flush fsync opendir readdir fsyncdir statfs setxattr getxattr listxattr removexattr
// fallocate lseek copy_file_range. POSIX locks and flock are the kernel's own (local).
#pragma once

#include "integration/faultfs/mount_session.h"

#include <sys/stat.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace supervise::faults {

struct Inode {
  int fd = -1;  // O_PATH | O_NOFOLLOW
  dev_t device = 0;
  ino_t number = 0;
  std::uint64_t lookups = 0;

  std::string proc_path() const;  // follows to the file itself
  std::string path() const;       // as the daemon sees it; only its ending is meant to be compared
};

// The inodes that the kernel knows. An inode lives while it has lookups.
class InodeTable {
 public:
  // Takes over `fd`. The lookup count goes up by one.
  Inode* intern(int fd, const struct stat& st);
  void forget(Inode* inode, std::uint64_t lookups);

 private:
  std::mutex mutex_;
  std::map<std::pair<dev_t, ino_t>, Inode*> inodes_;
};

struct Passthrough {
  Inode root;
  InodeTable inodes;
  FaultRules rules;
  bool writeback = false;
  bool direct_io = false;
  double cache_seconds = 0;
};

Passthrough& self(fuse_req_t request);
Inode* inode_of(fuse_req_t request, fuse_ino_t ino);

// Answers the request itself when the call must fail.
Verdict judge(fuse_req_t request, std::string_view op, const Inode& inode,
              const char* child = nullptr, std::optional<ByteRange> range = {});

void reply_status(fuse_req_t request, bool good);  // 0 or errno

// Fills `entry` for `name` in `parent` and counts the lookup; 0 or an errno.
int look_up(fuse_req_t request, const Inode& parent, const char* name, fuse_entry_param& entry);

// New files belong to the caller, not to the daemon. 0 or an errno.
int give_to_caller(fuse_req_t request, int parent_fd, const char* name);

void add_metadata_ops(fuse_lowlevel_ops& ops);   // passthrough_meta.cpp
void add_file_ops(fuse_lowlevel_ops& ops);       // passthrough_file.cpp
void add_directory_ops(fuse_lowlevel_ops& ops);  // passthrough_dir.cpp

}  // namespace supervise::faults
