#include "restore/file_drift.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restore/digest.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {
namespace {

struct Located {
  const DriftPlace* place = nullptr;
  std::string below;  // relative to the place
};

// The longest place that holds the path.
Located locate(const std::string& path, const std::vector<DriftPlace>& places) {
  Located best;
  std::size_t length = 0;
  for (const auto& p : places) {
    std::string prefix = p.place;
    while (!prefix.empty() && prefix.back() == '/') prefix.pop_back();
    if (!path.starts_with(prefix + "/") || (best.place && prefix.size() < length)) continue;
    best = {&p, path.substr(prefix.size() + 1)};
    length = prefix.size();
  }
  return best;
}

Result<UniqueFd> open_below(const Located& at, int flags) {
  UniqueFd dir(open(at.place->dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return errno_error(fmt::format("open {}", at.place->dir));
  open_how how{};
  how.flags = static_cast<__u64>(flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  how.resolve = RESOLVE_BENEATH;
  long fd = syscall(SYS_openat2, dir.get(), at.below.c_str(), &how, sizeof how);
  if (fd < 0) return errno_error(fmt::format("open {}/{}", at.place->dir, at.below));
  return UniqueFd(static_cast<int>(fd));
}

Result<std::optional<FileDrift>> check(const ImageFile& file, const Located& at) {
  FileDrift drift{file.path, at.place->dir + "/" + at.below, DriftKind::Missing, file.size, 0, false};
  auto as = [&](DriftKind kind) {
    drift.kind = kind;
    return std::optional<FileDrift>(drift);
  };
  auto fd = open_below(at, O_RDONLY);
  if (!fd) {
    int err = fd.error().err;
    if (err == ENOENT || err == ENOTDIR) return as(DriftKind::Missing);
    // A symbolic link that leads out of the path, a socket.
    if (err == EXDEV || err == ELOOP || err == ENXIO) return as(DriftKind::NotRegular);
    return fd.error();
  }
  struct stat st{};
  if (fstat(fd->get(), &st) != 0) return errno_error(fmt::format("stat {}", drift.host_path));
  if (!S_ISREG(st.st_mode)) return as(DriftKind::NotRegular);
  drift.size = static_cast<std::uint64_t>(st.st_size);
  if (drift.size < file.size) return as(DriftKind::Shorter);
  if (!file.sha256.empty()) {
    auto hash = sha256_of_file(fd->get(), nullptr, file.size);
    if (!hash && hash.error().err == ENODATA) return as(DriftKind::Shorter);
    if (!hash) return hash.error().with(drift.host_path);
    if (*hash != file.sha256) return as(DriftKind::OtherContent);
    drift.prefix_proven = true;
  }
  if (drift.size > file.size) return as(DriftKind::Longer);
  return std::optional<FileDrift>();
}

Status cut_back(const FileDrift& drift, const Located& at) {
  auto fd = open_below(at, O_RDWR);
  if (!fd) return fd.error();
  if (ftruncate(fd->get(), static_cast<off_t>(drift.image_size)) != 0) {
    return errno_error(fmt::format("truncate {}", drift.host_path));
  }
  if (fsync(fd->get()) != 0) return errno_error(fmt::format("fsync {}", drift.host_path));
  return {};
}

}  // namespace

std::string FileDrift::describe() const {
  switch (kind) {
    case DriftKind::Missing:
      return fmt::format("{} is missing ({})", path, host_path);
    case DriftKind::NotRegular:
      return fmt::format("{} is not a regular file of this path ({})", path, host_path);
    case DriftKind::Shorter:
      return fmt::format("{} has {} bytes, the image needs {}", path, size, image_size);
    case DriftKind::Longer:
      return fmt::format("{} has {} bytes, the image knows {}", path, size, image_size);
    case DriftKind::OtherContent:
      return fmt::format("{} has other content than when the image was made", path);
  }
  return path;
}

Result<std::vector<FileDrift>> find_drift(const std::vector<ImageFile>& files,
                                          const std::vector<DriftPlace>& places) {
  std::vector<FileDrift> drifts;
  for (const auto& file : files) {
    Located at = locate(file.path, places);
    if (!at.place) {
      return plain_error(fmt::format("{} is below no storage path of the image", file.path));
    }
    ASSIGN_OR_RETURN(auto drift, check(file, at));
    if (drift) drifts.push_back(std::move(*drift));
  }
  return drifts;
}

Status apply_drift_policy(DriftPolicy policy, const std::vector<FileDrift>& drifts,
                          const std::vector<DriftPlace>& places) {
  std::string refused;
  bool only_growth = true;
  for (const auto& d : drifts) {
    bool growth = d.kind == DriftKind::Longer;
    only_growth = only_growth && growth;
    if (growth && policy != DriftPolicy::Refuse) continue;
    refused += (refused.empty() ? "" : "; ") + d.describe();
  }
  if (!refused.empty()) {
    std::string what = "files have changed since the image was made: " + refused;
    if (only_growth) what += " (--drift truncate or --drift accept-appended would go on)";
    return plain_error(what);
  }
  if (policy != DriftPolicy::Truncate) return {};
  for (const auto& d : drifts) {
    Located at = locate(d.path, places);
    if (!at.place) return plain_error(fmt::format("{} is below no storage path", d.path));
    RETURN_IF_ERROR(cut_back(d, at));
  }
  return {};
}

}  // namespace supervise
