// What the application has written to one storage path and is not known to be durable yet: the
// *final state* of every touched byte range, file size, attribute and name since the last
// successful sync that covered it. Pure: it learns from completed calls and touches no file.
// Names are relative to the path's root, without leading slash; "" is the root itself.
// Files are known by FileId (our own, stable over path switches); inode numbers are how calls on
// the current path name them. fsync(2): success covers data and size of that file; names become
// durable with fsync of their directory, syncfs(2) or sync(2).
//
// A name that was created and removed again is kept as absent until its directory is durable: the
// storage may have seen the creation alone. Everything beyond a truncation counts as zeros until
// the file is durable, for the same reason. memory() says what all this costs.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/byte_ranges.h"

namespace supervise {

struct InodeKey {
  std::uint64_t dev = 0;
  std::uint64_t ino = 0;
  auto operator<=>(const InodeKey&) const = default;
};

using FileId = std::uint64_t;
// Other: a socket or device, or a file whose kind is not known yet.
enum class NodeKind { Regular, Directory, Symlink, Fifo, Other };

struct FileState {
  FileId id = 0;
  InodeKey key;                       // on the path in use
  NodeKind kind = NodeKind::Regular;
  std::vector<std::string> names;     // current names (several when hard-linked); empty: unlinked
  std::vector<std::string> old_names; // names it had before renames that are not durable yet
  bool created = false;               // created since the names became durable
  Seq created_seq = 0;
  mode_t mode = 0;                    // for created files, and when attributes changed
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  bool mode_changed = false;
  std::optional<std::string> symlink_target;
  std::optional<std::uint64_t> size;  // as the application sees it; set once it was touched
  Seq size_seq = 0;
  bool size_dirty = false;
  ByteRanges data;
  std::optional<timespec> mtime, atime;  // set explicitly (utimensat)
  std::map<std::string, std::optional<std::string>> xattrs;  // set or removed
  Seq attr_seq = 0;              // of the last change of an attribute
  // A created file whose whole content is in here (nothing retired, nothing kept as range only);
  // a created directory of which every name is in names().
  bool complete = false;
  bool links_elsewhere = false;  // no name known, but it has links that we never saw
  bool inode_reused = false;     // a created directory with the inode of one removed before

  bool unlinked() const { return names.empty() && !links_elsewhere; }
  // To be built from the journal alone, whatever the storage shows.
  bool rebuilt() const {
    return created && !names.empty() &&
           (kind == NodeKind::Symlink || kind == NodeKind::Fifo ||
            (kind == NodeKind::Regular && complete));
  }
};

// What a name must be on the storage, for names touched since they were durable.
struct NameState {
  std::optional<FileId> file;  // nothing: must be absent
  Seq seq = 0;
};

class Journal {
 public:
  explicit Journal(bool content = true);

  Seq now() const { return seq_; }

  // --- data. `size_after` is the file's size as fstat says after the call.
  void wrote(InodeKey, std::string_view name, std::uint64_t offset,
             std::span<const std::byte> bytes, std::uint64_t size_after, bool durable = false);
  void wrote_range(InodeKey, std::string_view name, std::uint64_t offset, std::uint64_t length,
                   std::uint64_t size_after, bool durable = false);  // content not kept
  void zeroed(InodeKey, std::string_view name, std::uint64_t offset, std::uint64_t length,
              std::uint64_t size_after);
  void resized(InodeKey, std::string_view name, std::uint64_t size);

  // --- names
  void created(InodeKey, std::string_view name, NodeKind kind, mode_t mode, uid_t uid, gid_t gid,
               std::string_view symlink_target = {});
  // `existing` may be "" for a file without a name (O_TMPFILE, created with the name "").
  void linked(InodeKey, std::string_view existing, std::string_view name);
  // `links_left` (st_nlink of the file that lost its name, when known) tells a file that lives on
  // under names that were never seen from one that is gone; seen() comes first when find() knows
  // the inode, maybe under another name.
  void renamed(std::string_view from, std::string_view to, bool exchange = false,
               std::optional<std::uint64_t> links_left = {});
  void unlinked(std::string_view name, std::optional<std::uint64_t> links_left = {});  // also rmdir
  // The inode that `from` is, told before renamed() for files not seen yet, and the one that `to`
  // is when it exists (two links of one inode: rename does nothing) or is exchanged.
  void seen(InodeKey, std::string_view name, NodeKind kind);

  // --- attributes (nullopt: unchanged)
  void attributes(InodeKey, std::string_view name, std::optional<mode_t> mode,
                  std::optional<uid_t> uid, std::optional<gid_t> gid);
  void times(InodeKey, std::string_view name, std::optional<timespec> atime,
             std::optional<timespec> mtime);
  void xattr(InodeKey, std::string_view name, std::string_view key,
             std::optional<std::string> value);

  // --- durability. `upto` is now() as it was when the sync call was entered.
  // Data and size of one file; with `attributes` (fsync, not fdatasync) also mode, owner, times.
  void synced_file(InodeKey, Seq upto, bool attributes = false);
  void synced_directory(std::string_view dir, Seq upto);  // names directly in it
  void synced_all(Seq upto);                   // syncfs, sync
  // The inode is gone: its last name when nobody has it open, or the last close after that.
  void forget(InodeKey);

  // --- after a switch: the same file has another inode on the new path
  void rekey(FileId, InodeKey now);

  std::uint64_t bytes() const { return content_bytes_; }  // content held
  std::uint64_t memory() const;                // content and an estimate of what describes it
  bool empty() const;                          // nothing to replay
  std::size_t dirty_files() const;
  std::uint64_t tag() const { return tag_; }   // tells this journal's temporary names from others'
  const std::map<FileId, FileState>& files() const { return files_; }
  const std::map<std::string, NameState, std::less<>>& names() const { return names_; }
  const FileState* find(InodeKey) const;
  std::vector<FileId> largest_first() const;   // for making files durable at the limit

 private:
  using Names = std::map<std::string, NameState, std::less<>>;
  FileState& file(InodeKey, std::string_view name, NodeKind kind);
  FileState& data_file(InodeKey, std::string_view name);
  void put(InodeKey, std::string_view name, std::uint64_t offset, std::uint64_t length,
           const std::byte* bytes, std::uint64_t size_after, bool durable);
  FileState& new_file(InodeKey, NodeKind kind);
  FileState* by_name(std::string_view name);
  FileState& by_name_or_placeholder(std::string_view name);
  void attach(FileState&, std::string_view name);
  FileState* detach(std::string_view name);
  void lost_name(FileState&, std::optional<std::uint64_t> links_left);
  void forget_below(std::string_view dir);
  void move_below(std::string_view from, std::string_view to);
  void set_name(std::string_view name, std::optional<FileId>);
  void touched_size(FileState&, std::uint64_t size);
  void retire_data(FileState&, Seq upto);
  void name_durable(FileState&, Seq upto);
  bool name_pending(const FileState&) const;
  bool clean(const FileState&) const;
  void drop(FileId);
  void drop_if_clean(FileId);

  bool content_;
  std::uint64_t tag_;
  Seq seq_ = 0;
  FileId next_id_ = 1;
  std::uint64_t content_bytes_ = 0;
  std::uint64_t pieces_ = 0;
  std::map<FileId, FileState> files_;
  std::map<InodeKey, FileId> by_inode_;
  std::map<std::string, FileId, std::less<>> by_name_;
  Names names_;
  std::set<InodeKey> removed_dirs_;
};

}  // namespace supervise
