#include "supervisor/beneath.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include <algorithm>

namespace supervise {
namespace {

bool is_clean(std::string_view name) {
  if (name.empty()) return true;
  while (true) {
    auto slash = name.find('/');
    std::string_view part = name.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    name.remove_prefix(slash + 1);
  }
}

}  // namespace

std::string_view parent_name(std::string_view name) {
  auto slash = name.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : name.substr(0, slash);
}

bool Beneath::is_missing(const Error& e) {
  return e.err == ENOENT || e.err == ENOTDIR || e.err == ELOOP;
}

void Beneath::remember_parents(bool on) {
  remember_ = on;
  if (!on) parents_.clear();
}

Result<UniqueFd> Beneath::open_by_components(std::string_view name, int flags) const {
  int at = root_;
  UniqueFd held;
  while (!name.empty()) {
    auto slash = name.find('/');
    std::string part(name.substr(0, slash));
    name = slash == std::string_view::npos ? std::string_view() : name.substr(slash + 1);
    int how = name.empty() ? flags : O_PATH | O_CLOEXEC;
    UniqueFd next(openat(at, part.c_str(), how | O_DIRECTORY | O_NOFOLLOW));
    if (!next) return errno_error(part);
    held = std::move(next);
    at = held.get();
  }
  return held;
}

Result<UniqueFd> Beneath::open_dir(std::string_view name, int flags) const {
  flags |= O_DIRECTORY | O_CLOEXEC;
  if (!is_clean(name)) return errno_error(EINVAL, fmt::format("name '{}'", name));
  if (name.empty()) {
    UniqueFd fd(openat(root_, ".", flags));
    if (!fd) return errno_error("the path's root directory");
    return fd;
  }
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  std::string path(name);
  for (int tries = 0; tries < 64; ++tries) {
    UniqueFd fd(static_cast<int>(syscall(SYS_openat2, root_, path.c_str(), &how, sizeof how)));
    if (fd) return fd;
    // EAGAIN: a rename went on meanwhile. EPERM: container runtimes that know no openat2.
    if (errno == EAGAIN) continue;
    if (errno == ENOSYS || errno == EPERM || errno == E2BIG) break;
    return errno_error(fmt::format("directory {}", name));
  }
  auto fd = open_by_components(name, flags);
  if (!fd) return fd.error().with(fmt::format("directory {}", name));
  return fd;
}

Result<Place> Beneath::place(std::string_view name) {
  if (!is_clean(name)) return errno_error(EINVAL, fmt::format("name '{}'", name));
  std::string parent(parent_name(name));
  std::string leaf(name.empty() ? std::string_view(".")
                                : name.substr(parent.empty() ? 0 : parent.size() + 1));
  if (auto it = parents_.find(parent); it != parents_.end()) return Place{it->second, leaf};
  ASSIGN_OR_RETURN(UniqueFd fd, open_dir(parent, O_PATH));
  auto dir = std::make_shared<UniqueFd>(std::move(fd));
  if (remember_) parents_.emplace(std::move(parent), dir);
  return Place{std::move(dir), std::move(leaf)};
}

Result<std::optional<struct stat>> stat_at(const Place& p) {
  struct stat st;
  if (fstatat(p.fd(), p.leaf.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) return std::optional(st);
  if (errno == ENOENT) return std::optional<struct stat>();
  return errno_error("stat " + p.leaf);
}

Result<UniqueFd> open_at(const Place& p, int flags) {
  UniqueFd fd(openat(p.fd(), p.leaf.c_str(), flags | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return errno_error("open " + p.leaf);
  return fd;
}

Result<std::vector<std::string>> entries_at(const Place& p) {
  ASSIGN_OR_RETURN(UniqueFd fd, open_at(p, O_RDONLY | O_DIRECTORY));
  DIR* dir = fdopendir(fd.get());
  if (!dir) return errno_error("list " + p.leaf);
  fd.release();
  std::unique_ptr<DIR, int (*)(DIR*)> closer(dir, closedir);
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    dirent* e = readdir(dir);
    if (!e) break;
    std::string_view name = e->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno) return errno_error("list " + p.leaf);
  return names;
}

}  // namespace supervise
