#include "supervisor/storage_path.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "supervisor/base/unique_fd.h"

namespace supervise {

std::optional<std::size_t> StoragePath::next_alternate() const {
  for (std::size_t i = 0; i < dirs.size(); ++i)
    if (i != active && !given_up.contains(i)) return i;
  return std::nullopt;
}

StoragePath& StoragePaths::add(StoragePath path) {
  path.slot = paths_.size();
  paths_.push_back(std::make_unique<StoragePath>(std::move(path)));
  return *paths_.back();
}

StoragePath* StoragePaths::find(std::string_view name) const {
  for (const auto& p : paths_)
    if (p->name == name) return p.get();
  return nullptr;
}

StoragePath* StoragePaths::of_mount(std::uint64_t mnt_id) const {
  for (const auto& p : paths_)
    if (p->mounts.contains(mnt_id)) return p.get();
  return nullptr;
}

StoragePath* StoragePaths::of_absolute(std::string_view path, std::string* rest) const {
  StoragePath* best = nullptr;
  for (const auto& p : paths_) {
    const std::string& place = p->place;
    if (!path.starts_with(place)) continue;
    if (path.size() != place.size() && path[place.size()] != '/' && place != "/") continue;
    if (!best || place.size() > best->place.size()) best = p.get();
  }
  if (best && rest) {
    std::string_view r = path.substr(best->place.size());
    while (r.starts_with('/')) r.remove_prefix(1);
    *rest = r;
  }
  return best;
}

StoragePath* StoragePaths::of_fd(pid_t tid, int fd, FdInfo& info) const {
  if (fd < 0 || paths_.empty()) return nullptr;
  auto got = fd_info(tid, fd);
  if (!got) return nullptr;
  info = got.take();
  if (by_mount_) return of_mount(info.mnt_id);
  auto link = fd_link(tid, fd);
  return link ? of_absolute(*link, nullptr) : nullptr;
}

Result<std::string> StoragePaths::name_of_fd(pid_t tid, int fd, const StoragePath& path,
                                             bool& deleted) {
  ASSIGN_OR_RETURN(std::string link, fd_link(tid, fd));
  deleted = strip_deleted(link);
  if (!link.starts_with(path.place))
    return plain_error(fmt::format("{} is not below {}", link, path.place));
  std::string_view rest = std::string_view(link).substr(path.place.size());
  while (rest.starts_with('/')) rest.remove_prefix(1);
  return std::string(rest);
}

std::string lexically_normal(std::string_view path) {
  std::vector<std::string_view> parts;
  std::size_t at = 0;
  while (at < path.size()) {
    const auto slash = std::min(path.find('/', at), path.size());
    const std::string_view part = path.substr(at, slash - at);
    at = slash + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
      continue;
    }
    parts.push_back(part);
  }
  std::string out;
  for (auto part : parts) {
    out += '/';
    out += part;
  }
  return out.empty() ? "/" : out;
}

namespace {

int open_in_root(int root, const std::string& path, std::uint64_t resolve, bool nofollow) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(O_PATH | O_CLOEXEC | (nofollow ? O_NOFOLLOW : 0));
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve;
  return static_cast<int>(syscall(SYS_openat2, root, path.c_str(), &how, sizeof how));
}

std::string own_link(int fd) {
  auto link = fd_link(getpid(), fd);
  return link ? link.take() : std::string();
}

void fill(Target& t, int fd) {
  struct statx sx;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &sx) != 0) return;
  t.exists = true;
  t.is_dir = S_ISDIR(sx.stx_mode);
  t.is_regular = S_ISREG(sx.stx_mode);
  t.ino = sx.stx_ino;
  t.mode = sx.stx_mode;
  t.uid = sx.stx_uid;
  t.gid = sx.stx_gid;
  t.size = sx.stx_size;
  t.links = sx.stx_nlink;
  t.atime = {sx.stx_atime.tv_sec, sx.stx_atime.tv_nsec};
  t.mtime = {sx.stx_mtime.tv_sec, sx.stx_mtime.tv_nsec};
}

}  // namespace

Target StoragePaths::resolve(pid_t tid, int dirfd, const std::string& path, bool follow) const {
  Target target;
  if (paths_.empty()) return target;
  std::string absolute = path;
  if (!path.starts_with('/')) {
    auto base = dirfd == AT_FDCWD ? proc_link(tid, "cwd") : fd_link(tid, dirfd);
    if (!base) return target;
    strip_deleted(*base);
    absolute = path.empty() ? *base : *base + "/" + path;
  }
  const std::string normal = lexically_normal(absolute);
  std::string rest;
  StoragePath* lexical = of_absolute(normal, &rest);

  UniqueFd root(open(fmt::format("/proc/{}/root", tid).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (root) {
    // Cached first; a walk that needs the disk only when the text says that it is not ours.
    UniqueFd fd(open_in_root(root.get(), absolute, RESOLVE_CACHED, !follow));
    if (!fd && errno == EAGAIN) fd.reset(open_in_root(root.get(), absolute, 0, !follow));
    if (fd) {
      auto info = fd_info(getpid(), fd.get());
      std::string real = own_link(fd.get());
      strip_deleted(real);
      StoragePath* p = info && by_mount_ ? of_mount(info->mnt_id) : of_absolute(real, nullptr);
      if (!p || !real.starts_with(p->place)) return target;
      target.path = p;
      of_absolute(real, &target.name);
      fill(target, fd.get());
      return target;
    }
    if (errno == ENOENT) {
      // The last component is missing: its directory decides.
      const auto slash = absolute.find_last_not_of('/');
      const auto cut = absolute.rfind('/', slash);
      std::string parent = cut == std::string::npos || cut == 0 ? "/" : absolute.substr(0, cut);
      std::string last = absolute.substr(cut + 1, slash - cut);
      UniqueFd dir(open_in_root(root.get(), parent, RESOLVE_CACHED, false));
      if (!dir && errno == EAGAIN) dir.reset(open_in_root(root.get(), parent, 0, false));
      if (dir && last != "." && last != "..") {
        auto info = fd_info(getpid(), dir.get());
        std::string real = own_link(dir.get());
        StoragePath* p = info && by_mount_ ? of_mount(info->mnt_id) : of_absolute(real, nullptr);
        if (!p || !real.starts_with(p->place)) return target;
        target.path = p;
        of_absolute(real + "/" + last, &target.name);
        return target;
      }
      if (!dir && errno == ENOENT) return target;
    }
  }
  // The walk failed (a dead path): the text must do.
  target.path = lexical;
  target.name = rest;
  return target;
}

Result<FileFacts> facts_of_fd(pid_t tid, int fd) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", tid, fd);
  struct statx sx;
  if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &sx) != 0)
    return errno_error(std::string("statx ") + path);
  FileFacts f;
  f.dev = (static_cast<std::uint64_t>(sx.stx_dev_major) << 32) | sx.stx_dev_minor;
  f.ino = sx.stx_ino;
  f.size = sx.stx_size;
  f.blocks = sx.stx_blocks;
  f.mode = sx.stx_mode;
  f.nlink = sx.stx_nlink;
  f.uid = sx.stx_uid;
  f.gid = sx.stx_gid;
  return f;
}

}  // namespace supervise
