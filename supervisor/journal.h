// What the application has written to one storage path and is not known to be durable yet: the
// *final state* of every touched byte range, file size, attribute and name since the last
// successful sync that covered it. Pure: it learns from completed calls and touches no file.
// Names are relative to the path's root, without leading slash; "" is the root itself.
// Files are known by FileId (our own, stable over path switches); inode numbers are how calls on
// the current path name them. fsync(2): success covers data and size of that file; names become
// durable with fsync of their directory, syncfs(2) or sync(2).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise {

struct InodeKey {
  std::uint64_t dev = 0;
  std::uint64_t ino = 0;
  auto operator<=>(const InodeKey&) const = default;
};

using FileId = std::uint64_t;
using Seq = std::uint64_t;

enum class NodeKind { Regular, Directory, Symlink, Fifo, Other };

// Interval map: offset -> bytes, later writes replace earlier ones, each piece with the sequence
// at which it was written. A hole punched or a range zeroed is a piece with no bytes.
class ByteRanges {
 public:
  struct Piece {
    std::uint64_t length = 0;
    Seq seq = 0;
    bool zero = false;             // reads as zeros
    std::vector<std::byte> bytes;  // empty when zero, or when only ranges are journaled
  };
  void put(std::uint64_t offset, std::span<const std::byte> bytes, Seq seq);
  void put_zero(std::uint64_t offset, std::uint64_t length, Seq seq);
  void put_range_only(std::uint64_t offset, std::uint64_t length, Seq seq);
  void cut_from(std::uint64_t size);           // truncate
  void erase(std::uint64_t offset, std::uint64_t length);
  std::uint64_t retire(Seq upto);              // drops pieces with seq <= upto; bytes freed
  std::uint64_t bytes() const { return bytes_; }
  bool empty() const { return pieces_.empty(); }
  const std::map<std::uint64_t, Piece>& pieces() const { return pieces_; }

 private:
  void carve(std::uint64_t offset, std::uint64_t length);
  std::map<std::uint64_t, Piece> pieces_;
  std::uint64_t bytes_ = 0;
};

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
};

// What a name must be on the storage, for names touched since they were durable.
struct NameState {
  std::optional<FileId> file;  // nothing: must be absent
  Seq seq = 0;
};

class Journal {
 public:
  explicit Journal(bool content = true) : content_(content) {}

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
  void linked(InodeKey, std::string_view existing, std::string_view name);
  void renamed(std::string_view from, std::string_view to, bool exchange = false);
  void unlinked(std::string_view name);  // also rmdir
  // The inode that `from` is, told before renamed() for files not seen yet.
  void seen(InodeKey, std::string_view name, NodeKind kind);

  // --- attributes (nullopt: unchanged)
  void attributes(InodeKey, std::string_view name, std::optional<mode_t> mode,
                  std::optional<uid_t> uid, std::optional<gid_t> gid);
  void times(InodeKey, std::string_view name, std::optional<timespec> atime,
             std::optional<timespec> mtime);
  void xattr(InodeKey, std::string_view name, std::string_view key,
             std::optional<std::string> value);

  // --- durability. `upto` is now() as it was when the sync call was entered.
  void synced_file(InodeKey, Seq upto);        // data and size of one file
  void synced_directory(std::string_view dir, Seq upto);  // names directly in it
  void synced_all(Seq upto);                   // syncfs, sync
  void forget(InodeKey);                       // last close of an unlinked file

  // --- after a switch: the same file has another inode on the new path
  void rekey(FileId, InodeKey now);

  std::uint64_t bytes() const;                 // content held
  bool empty() const;
  std::size_t dirty_files() const;
  const std::map<FileId, FileState>& files() const { return files_; }
  const std::map<std::string, NameState, std::less<>>& names() const { return names_; }
  const FileState* find(InodeKey) const;
  // Name now of a file known under `name` before later renames of it or of a parent directory.
  std::vector<FileId> largest_first() const;   // for making files durable at the limit

 private:
  FileState& file(InodeKey, std::string_view name, NodeKind kind = NodeKind::Regular);
  void drop_if_clean(FileId);
  bool content_;
  Seq seq_ = 0;
  FileId next_id_ = 1;
  std::map<FileId, FileState> files_;
  std::map<InodeKey, FileId> by_inode_;
  std::map<std::string, NameState, std::less<>> names_;
};

}  // namespace supervise
