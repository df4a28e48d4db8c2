// Content, sizes, attributes, durability, and the proof by reading back.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "supervisor/replayer.h"

namespace supervise {
namespace {

constexpr std::size_t kBuffer = 1 << 20;

Error at_offset(std::string_view what, std::string_view name, std::uint64_t offset) {
  return errno_error(fmt::format("replay: {} {} at offset {}", what, name, offset));
}

Status write_bytes(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                   std::string_view name) {
  while (!bytes.empty()) {
    ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;
    if (n <= 0) return at_offset("write", name, offset);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Status write_zeros(int fd, std::uint64_t from, std::uint64_t to, std::string_view name) {
  if (from >= to) return {};
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(from),
                static_cast<off_t>(to - from)) == 0)
    return {};
  if (errno != EOPNOTSUPP && errno != ENOSYS) return at_offset("zero", name, from);
  std::vector<std::byte> zeros(std::min<std::uint64_t>(kBuffer, to - from));
  for (; from < to; from += zeros.size()) {
    if (to - from < zeros.size()) zeros.resize(to - from);
    RETURN_IF_ERROR(write_bytes(fd, zeros, from, name));
  }
  return {};
}

// The end of a piece within a file of that size.
std::uint64_t clipped_end(std::uint64_t offset, const ByteRanges::Piece& piece,
                          std::uint64_t size) {
  if (offset >= size) return offset;
  return offset + std::min(piece.length, size - offset);
}

}  // namespace

Status Replayer::write_data(const FileState& f, int fd, const std::string& name) {
  if (f.data.empty() && !f.size_dirty && !f.rebuilt()) return {};
  struct stat st;
  if (fstat(fd, &st) < 0) return failed("fstat", name);
  std::uint64_t size_now = static_cast<std::uint64_t>(st.st_size);
  std::uint64_t size = f.size.value_or(size_now);
  auto resize = [&]() -> Status {
    RETURN_IF_ERROR(step("truncate"));
    if (ftruncate(fd, static_cast<off_t>(size)) < 0) return failed("truncate", name);
    size_now = size;
    return {};
  };
  if (size_now > size) RETURN_IF_ERROR(resize());
  for (const auto& [offset, piece] : f.data.pieces()) {
    std::uint64_t end = clipped_end(offset, piece, size);
    if (end == offset) continue;
    if (piece.range_only())
      return plain_error(fmt::format("replay: {} bytes of {} at offset {} are not durable and the "
                                     "journal holds no content (--journal content keeps it)",
                                     end - offset, name, offset));
    RETURN_IF_ERROR(step("write"));
    if (piece.zero) {
      RETURN_IF_ERROR(write_zeros(fd, offset, std::min(end, size_now), name));
    } else {
      RETURN_IF_ERROR(write_bytes(fd, {piece.bytes.data(), end - offset}, offset, name));
      report_.bytes += end - offset;
      size_now = std::max(size_now, end);
    }
  }
  if (size_now != size) RETURN_IF_ERROR(resize());
  return {};
}

// Whether size and bytes are there, durable or not: writing them again is then no change of the file,
// and its modification time stays. Where a read fails they are taken for absent.
bool Replayer::holds_already(const FileState& f, int fd, const struct stat& st) {
  const auto size = static_cast<std::uint64_t>(st.st_size);
  if (f.size && *f.size != size) return false;
  const auto compared = report_.compared_bytes;  // counts the proof alone
  bool same = true;
  for (const auto& [offset, piece] : f.data.pieces()) {
    const std::uint64_t end = clipped_end(offset, piece, size);
    same = !piece.range_only() && (f.size || end == offset + piece.length) &&
           verify_range(fd, offset, end, piece.zero ? nullptr : &piece, "").ok();
    if (!same) break;
  }
  report_.compared_bytes = compared;
  return same;
}

// Owner before mode (chown clears set-user-ID), times last.
Status Replayer::set_attributes(const FileState& f, const Place& place, int fd,
                                const std::string& name) {
  if (!f.created && !has_attributes(f)) return {};
  RETURN_IF_ERROR(step("attributes"));
  ASSIGN_OR_RETURN(auto st, stat_at(place));
  if (!st) return errno_error(ENOENT, fmt::format("replay: {} has gone meanwhile", name));
  uid_t uid = f.uid.value_or(st->st_uid);
  gid_t gid = f.gid.value_or(st->st_gid);
  if ((uid != st->st_uid || gid != st->st_gid) &&
      fchownat(place.fd(), place.leaf.c_str(), uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
    return failed("chown", name);
  if ((f.created || f.mode_changed) && !S_ISLNK(st->st_mode) &&
      fchmodat(place.fd(), place.leaf.c_str(), f.mode & 07777, 0) < 0)
    return failed("chmod", name);
  if (!f.xattrs.empty() && (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode))) {
    UniqueFd own;
    if (fd < 0) {
      auto opened = open_at(place, O_RDONLY);
      if (!opened) return opened.error().with(fmt::format("replay: {}", name));
      own = opened.take();
      fd = own.get();
    }
    for (const auto& [key, value] : f.xattrs) {
      int r = value ? fsetxattr(fd, key.c_str(), value->data(), value->size(), 0)
                    : fremovexattr(fd, key.c_str());
      if (r < 0 && (value || errno != ENODATA)) return failed("extended attribute of", name);
    }
  }
  if (f.mtime || f.atime) {
    timespec times[2] = {f.atime.value_or(timespec{0, UTIME_OMIT}),
                         f.mtime.value_or(timespec{0, UTIME_OMIT})};
    if (utimensat(place.fd(), place.leaf.c_str(), times, AT_SYMLINK_NOFOLLOW) < 0)
      return failed("set times of", name);
  }
  return {};
}

Result<std::pair<Place, std::string>> Replayer::final_place(const Node& node) {
  if (node.f->names.empty()) return std::pair(*node.at, fmt::format("inode {}", node.f->key.ino));
  const std::string& name = node.f->names.front();
  auto place = beneath_.place(name);
  if (!place) return place.error().with(fmt::format("replay: {}", name));
  return std::pair(place.take(), name);
}

// Directories come last: what is made in them changes their times.
Status Replayer::write_all() {
  for (bool directories : {false, true}) {
    for (auto& [id, node] : nodes_) {
      const FileState& f = *node.f;
      if (!node.at || !node.needed || rebuilt(f)) continue;
      ASSIGN_OR_RETURN(auto final, final_place(node));
      auto& [place, name] = final;
      ASSIGN_OR_RETURN(auto st, stat_at(place));
      if (!st) return errno_error(ENOENT, fmt::format("replay: {} has gone meanwhile", name));
      if (S_ISDIR(st->st_mode) != directories) continue;
      UniqueFd fd;
      bool data = S_ISREG(st->st_mode) && (!f.data.empty() || f.size_dirty);
      if (S_ISREG(st->st_mode) || directories) {
        auto opened = open_at(place, data ? O_RDWR : O_RDONLY);
        if (!opened) return opened.error().with(fmt::format("replay: {}", name));
        fd = opened.take();
      }
      if (data) {
        const bool same = holds_already(f, fd.get(), *st);
        RETURN_IF_ERROR(write_data(f, fd.get(), name));
        const timespec times[2] = {{0, UTIME_OMIT}, st->st_mtim};
        if (same && futimens(fd.get(), times) < 0) return failed("set times of", name);
      }
      RETURN_IF_ERROR(set_attributes(f, place, fd.get(), name));
      if (directories || !fd) continue;
      RETURN_IF_ERROR(step("fsync"));
      if (fsync(fd.get()) < 0) return failed("fsync", name);
      ++report_.files;
    }
  }
  return {};
}

Status Replayer::sync_directories() {
  std::set<std::string, std::less<>> dirs{""};
  auto add = [&](std::string_view name) {
    while (!name.empty()) dirs.emplace(name = parent_name(name));
  };
  for (const auto& [name, state] : names_) add(name);
  for (const auto& [id, node] : nodes_) {
    if (!node.needed && !node.f->rebuilt()) continue;
    for (const auto& name : node.f->names) {
      add(name);
      if (node.f->kind == NodeKind::Directory) dirs.emplace(name);
    }
  }
  for (const auto& dir : dirs) {
    auto fd = beneath_.open_dir(dir, O_RDONLY);
    if (!fd && Beneath::is_missing(fd.error())) continue;
    if (!fd) return fd.error().with("replay");
    RETURN_IF_ERROR(step("fsync directory"));
    if (fsync(fd->get()) < 0 && errno != EINVAL) return failed("fsync directory", dir);
  }
  RETURN_IF_ERROR(step("syncfs"));
  UniqueFd root;
  ASSIGN_OR_RETURN(root, beneath_.open_dir("", O_RDONLY));
  if (syncfs(root.get()) < 0) return failed("syncfs of", "");
  return {};
}

Status Replayer::verify_all() {
  RETURN_IF_ERROR(verify_names());
  for (const auto& [id, node] : nodes_) {
    if (!node.at || (!node.needed && !node.f->rebuilt())) continue;
    ASSIGN_OR_RETURN(auto final, final_place(node));
    ASSIGN_OR_RETURN(auto st, stat_at(final.first));
    if (st && S_ISREG(st->st_mode)) RETURN_IF_ERROR(verify_file(node, final.second));
  }
  return {};
}

Status Replayer::verify_names() {
  for (const auto& [name, state] : names_) {
    auto place = beneath_.place(name);
    std::optional<struct stat> st;
    if (place) {
      ASSIGN_OR_RETURN(st, stat_at(*place));
    } else if (state.file || !Beneath::is_missing(place.error())) {
      return place.error().with(fmt::format("replay: read back {}", name));
    }
    if (!state.file) {
      if (st) return errno_error(EEXIST, fmt::format("replay: read back {}: should be gone", name));
      continue;
    }
    const Node& node = nodes_.at(*state.file);
    if (!st || Inode{st->st_dev, st->st_ino} != node.inode || !is_kind(*node.f, *st))
      return errno_error(ENOENT, fmt::format("replay: read back {}: not the file that it should be",
                                             name));
    if (node.f->symlink_target && node.f->created) {
      std::string target(node.f->symlink_target->size() + 1, '\0');
      ssize_t n = readlinkat(place->fd(), place->leaf.c_str(), target.data(), target.size());
      target.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
      if (target != *node.f->symlink_target)
        return errno_error(EIO, fmt::format("replay: read back {}: points to {}", name, target));
    }
  }
  return {};
}

Status Replayer::verify_file(const Node& node, const std::string& name) {
  const FileState& f = *node.f;
  if (f.data.empty() && !f.size_dirty && !f.rebuilt()) return {};
  ASSIGN_OR_RETURN(auto final, final_place(node));
  auto opened = open_at(final.first, O_RDONLY);
  if (!opened) return opened.error().with(fmt::format("replay: read back {}", name));
  int fd = opened->get();
  struct stat st;
  if (fstat(fd, &st) < 0) return failed("fstat", name);
  std::uint64_t size = static_cast<std::uint64_t>(st.st_size);
  if (f.size && size != *f.size)
    return errno_error(EIO, fmt::format("replay: read back {}: size {}, should be {}", name, size,
                                        *f.size));
  // The pages are clean now; dropped, they are read from the device.
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  std::uint64_t at = 0;
  for (const auto& [offset, piece] : f.data.pieces()) {
    std::uint64_t end = clipped_end(offset, piece, size);
    if (f.rebuilt()) RETURN_IF_ERROR(verify_range(fd, at, std::min(offset, size), nullptr, name));
    RETURN_IF_ERROR(verify_range(fd, offset, end, piece.zero ? nullptr : &piece, name));
    at = std::max(at, end);
  }
  if (f.rebuilt()) RETURN_IF_ERROR(verify_range(fd, at, size, nullptr, name));
  return {};
}

// No piece: zeros. Holes are taken for what they are.
Status Replayer::verify_range(int fd, std::uint64_t from, std::uint64_t to,
                              const ByteRanges::Piece* piece, const std::string& name) {
  std::vector<std::byte> buffer;
  std::uint64_t begin = from;
  while (from < to) {
    if (!piece) {
      off_t data = lseek(fd, static_cast<off_t>(from), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;
      if (data > 0) from = std::max(from, static_cast<std::uint64_t>(data));
      if (from >= to) break;
    }
    buffer.resize(std::min<std::uint64_t>(kBuffer, to - from));
    ssize_t n = pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(from));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;
    if (n <= 0) return at_offset("read back", name, from);
    buffer.resize(static_cast<std::size_t>(n));
    auto differs = buffer.end();
    if (piece) {
      auto want = piece->bytes.begin() + static_cast<std::ptrdiff_t>(from - begin);
      differs = std::mismatch(buffer.begin(), buffer.end(), want).first;
    } else {
      differs = std::ranges::find_if(buffer, [](std::byte b) { return b != std::byte{0}; });
    }
    if (differs != buffer.end())
      return errno_error(EIO, fmt::format("replay: read back {}: other content at offset {}", name,
                                          from + static_cast<std::uint64_t>(
                                                     differs - buffer.begin())));
    from += buffer.size();
  }
  report_.compared_bytes += to > begin ? to - begin : 0;
  return {};
}

}  // namespace supervise
