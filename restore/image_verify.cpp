#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "restore/digest.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/store_files.h"

namespace supervise {
namespace {

constexpr std::array<std::string_view, 8> kNoParts = {
    kManifestName, kCommitName, kClaimName, kDumpLog, kRestoreLog, kDumpStats, kRestoreStats, kPidFile};

// Nothing when the part is as the manifest says.
std::optional<Error> check_part(int dir, const ImagePart& part, const ReadProgress& progress) {
  auto bad = [&](int err, std::string why) {
    return Error{err, fmt::format("part {}: {}", part.name, why)};
  };
  UniqueFd fd(openat(dir, part.name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return errno == ENOENT ? bad(0, "is missing") : bad(errno, "open");
  struct stat st{};
  if (fstat(fd.get(), &st) != 0) return bad(errno, "stat");
  if (!S_ISREG(st.st_mode)) return bad(0, "is not a regular file");
  auto size = static_cast<std::uint64_t>(st.st_size);
  if (size != part.size) {
    return bad(0, fmt::format("has {} bytes, the manifest says {}", size, part.size));
  }
  auto hash = sha256_of_file(fd.get(), nullptr, UINT64_MAX, progress);
  if (!hash) return bad(hash.error().err, hash.error().what);
  if (*hash != part.sha256) {
    return bad(0, fmt::format("its content was changed (SHA-256 {}, the manifest says {})",
                              hash->substr(0, 16), part.sha256.substr(0, 16)));
  }
  return std::nullopt;
}

}  // namespace

bool is_part_name(const std::string& name) {
  return !name.starts_with(".") && !name.starts_with(kClaimPrefix) &&
         std::find(kNoParts.begin(), kNoParts.end(), name) == kNoParts.end();
}

Result<Manifest> load_manifest(const std::string& image_dir) {
  auto text = read_small_file(image_dir + "/" + kManifestName);
  if (!text) {
    if (text.error().err == ENOENT) {
      return errno_error(ENOENT, fmt::format("image {}: has no {}: it is not an image, or was never "
                                             "finished", image_dir, kManifestName));
    }
    return text.error().with(fmt::format("image {}", image_dir));
  }
  auto manifest = Manifest::from_json(*text);
  if (!manifest) return manifest.error().with(fmt::format("image {}", image_dir));
  return manifest;
}

Result<Manifest> verify_image(const std::string& image_dir, const ReadProgress& progress) {
  auto manifest = load_manifest(image_dir);
  if (!manifest) return manifest;
  UniqueFd dir(open(image_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return errno_error(fmt::format("open image {}", image_dir));
  constexpr std::size_t kNamed = 5;
  std::vector<std::string> failed;
  int err = 0;
  std::set<std::string> listed;
  for (const auto& part : manifest->parts) {
    listed.insert(part.name);
    if (auto bad = check_part(dir.get(), part, progress)) {
      if (err == 0) err = bad->err;
      failed.push_back(bad->what);
    }
  }
  ASSIGN_OR_RETURN(auto names, names_in(image_dir));
  for (const auto& name : names) {
    if (is_part_name(name) && !listed.contains(name)) {
      failed.push_back(fmt::format("file {}: is not in the manifest", name));
    }
  }
  if (failed.empty()) return manifest;
  std::string what = fmt::format("image {}", image_dir);
  for (std::size_t i = 0; i < std::min(failed.size(), kNamed); ++i) {
    what += (i == 0 ? ": " : "; ") + failed[i];
  }
  if (failed.size() > kNamed) what += fmt::format("; and {} more", failed.size() - kNamed);
  return Error{err, what};
}

}  // namespace supervise
