#include "restore/image_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <set>

#include "restore/digest.h"
#include "restore/host_identity.h"
#include "restore/image_layout.h"
#include "restore/ownership.h"
#include "restore/rendezvous.h"
#include "restore/store_files.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/scope_exit.h"

namespace supervise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kImagePrefix = "gen-";
constexpr std::string_view kDraftPrefix = ".tmp-";
constexpr std::string_view kNewPrefix = ".new-";    // a draft before it has its generation
constexpr std::string_view kGonePrefix = ".gone-";  // an image that is being removed
constexpr const char* kMaker = ".maker.json";
constexpr const char* kHighest = ".highest-generation";
constexpr std::int64_t kForgotten = 24 * 3600;      // seconds: a draft whose maker can't be judged

std::optional<std::uint64_t> number_after(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::uint64_t n = 0;
  auto [end, ec] = std::from_chars(name.data(), name.data() + name.size(), n);
  if (name.empty() || ec != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return n;
}

// The highest generation that was pruned with nothing left above it.
std::uint64_t kept_highest(const std::string& store_dir) {
  return number_after(read_small_file(store_dir + "/" + kHighest).value_or(""), "").value_or(0);
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

Status make_dirs(const std::string& dir) {
  std::error_code ec;
  fs::create_directories(dir, ec);
  if (ec) return errno_error(ec.value(), fmt::format("create directory {}", dir));
  return {};
}

// Age by the clock of the file system that holds the store; nothing when it can't be told.
std::optional<std::int64_t> age_seconds(const std::string& store_dir, const std::string& path) {
  struct stat now{}, then{};
  if (stat(path.c_str(), &then) != 0) return std::nullopt;
  auto probe = write_temp_file(store_dir + "/clock", "", false);
  if (!probe) return std::nullopt;
  bool ok = stat(probe->c_str(), &now) == 0;
  unlink(probe->c_str());
  if (!ok) return std::nullopt;
  return now.st_mtim.tv_sec - then.st_mtim.tv_sec;
}

}  // namespace

void remove_tree(const std::string& dir) {
  std::error_code ec;
  fs::remove_all(dir, ec);
}

Result<std::vector<std::string>> names_in(const std::string& dir) {
  DIR* d = opendir(dir.c_str());
  if (!d) return errno_error(fmt::format("open directory {}", dir));
  ScopeExit close_it([&] { closedir(d); });
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* e = readdir(d);
    if (!e) break;
    std::string_view name = e->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return errno_error(fmt::format("read directory {}", dir));
  std::sort(names.begin(), names.end());
  return names;
}

Result<ImageStore> ImageStore::open(const std::string& store, const std::string& app_name,
                                    bool create) {
  if (app_name.empty() || app_name[0] == '.' || app_name.find('/') != std::string::npos) {
    return errno_error(EINVAL, fmt::format("image store {}: \"{}\" is not a name for an application "
                                           "(no slash, no leading dot)", store, app_name));
  }
  std::error_code ec;
  auto absolute = fs::absolute(store, ec);
  if (ec || store.empty()) return plain_error(fmt::format("image store \"{}\": no such place", store));
  ImageStore s;
  s.dir_ = (absolute / app_name).lexically_normal().string();
  if (create) RETURN_IF_ERROR(make_dirs(s.dir_));
  struct stat st{};
  if (stat(s.dir_.c_str(), &st) != 0) return errno_error(fmt::format("image store {}", s.dir_));
  if (!S_ISDIR(st.st_mode)) return errno_error(ENOTDIR, fmt::format("image store {}", s.dir_));
  return s;
}

// The draft gets its maker's mark under a name of its own; the rename to .tmp-NNNNNN fails when
// another process has that generation, since no draft is ever empty. Once we hold the name, gen-N
// can't appear but by us: only then is its absence a proof.
Result<ImageStore::Draft> ImageStore::begin() {
  auto self = HostIdentity::self();
  std::string made = temp_name_for(dir_ + "/draft");
  made = fmt::format("{}/{}{}", dir_, kNewPrefix, name_of(made).substr(1));
  remove_tree(made);
  if (mkdir(made.c_str(), 0700) != 0) return errno_error(fmt::format("create directory {}", made));
  ScopeExit undo([&] { remove_tree(made); });
  RETURN_IF_ERROR(write_file_durably(made + "/" + kMaker, identity_to_json(self)));
  for (int attempt = 0; attempt < 10000; ++attempt) {
    ASSIGN_OR_RETURN(auto names, names_in(dir_));
    std::uint64_t highest = 0;
    for (const auto& n : names) {
      highest = std::max({highest, number_after(n, kImagePrefix).value_or(0),
                          number_after(n, kDraftPrefix).value_or(0),
                          number_after(n, kGonePrefix).value_or(0)});
    }
    highest = std::max(highest, kept_highest(dir_));
    std::uint64_t generation = highest + 1;
    std::string draft_dir = fmt::format("{}/{}{:06}", dir_, kDraftPrefix, generation);
    if (rename(made.c_str(), draft_dir.c_str()) != 0) {
      if (errno == EEXIST || errno == ENOTEMPTY) continue;
      return errno_error(fmt::format("create draft {}", draft_dir));
    }
    if (exists(fmt::format("{}/{}{:06}", dir_, kImagePrefix, generation))) {
      if (rename(draft_dir.c_str(), made.c_str()) != 0) {
        return errno_error(fmt::format("rename {}", draft_dir));
      }
      continue;
    }
    made = draft_dir;
    Draft draft{draft_dir, generation, UniqueFd(::open(draft_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC))};
    if (!draft.dir_fd) return errno_error(fmt::format("open {}", draft_dir));
    undo.dismiss();
    return draft;
  }
  return errno_error(EBUSY, fmt::format("image store {}: no free generation", dir_));
}

Result<ImageRef> ImageStore::finish(Draft draft, Manifest& manifest) {
  std::string current = draft.dir;
  ScopeExit undo([&] { remove_tree(current); });
  ASSIGN_OR_RETURN(auto names, names_in(draft.dir));
  std::erase_if(names, [](const std::string& n) { return !is_part_name(n); });
  std::vector<std::pair<std::string, UniqueFd>> parts;
  for (const auto& name : names) {
    auto part = [&](const char* op) {
      return errno_error(fmt::format("image {}: {} part {}", draft.dir, op, name));
    };
    UniqueFd fd(openat(draft.dir_fd.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!fd) return part("open");
    struct stat st{};
    if (fstat(fd.get(), &st) != 0) return part("stat");
    if (!S_ISREG(st.st_mode)) {
      return plain_error(fmt::format("image {}: part {} is not a regular file", draft.dir, name));
    }
    // Writing out starts for all parts before the first is waited for.
    (void)sync_file_range(fd.get(), 0, 0, SYNC_FILE_RANGE_WRITE);
    parts.emplace_back(name, std::move(fd));
  }
  if (parts.empty()) return plain_error(fmt::format("image {}: has no parts", draft.dir));
  manifest.parts.clear();
  for (auto& [name, fd] : parts) {
    std::string what = fmt::format("image {}: part {}", draft.dir, name);
    if (auto s = fault_point("image.part"); !s) return s.error().with(what);
    ImagePart part{name, 0, {}};
    auto hash = sha256_of_file(fd.get(), &part.size);
    if (!hash) return hash.error().with(what);
    part.sha256 = hash.take();
    if (fsync(fd.get()) != 0) return errno_error(fmt::format("{}: fsync", what));
    manifest.parts.push_back(std::move(part));
  }
  manifest.generation = draft.generation;
  RETURN_IF_ERROR(fault_point("image.parts"));
  if (auto s = write_file_durably(draft.dir + "/" + kManifestName, manifest.to_json()); !s) {
    return s.error().with(fmt::format("image {}: part {}", draft.dir, kManifestName));
  }
  RETURN_IF_ERROR(fault_point("image.manifest"));
  ImageRef ref{fmt::format("{}/{}{:06}", dir_, kImagePrefix, draft.generation), draft.generation};
  if (rename(draft.dir.c_str(), ref.dir.c_str()) != 0) {
    return errno_error(fmt::format("rename {} to {}", draft.dir, ref.dir));
  }
  current = ref.dir;
  (void)unlinkat(draft.dir_fd.get(), kMaker, 0);
  RETURN_IF_ERROR(fault_point("image.renamed"));
  RETURN_IF_ERROR(sync_dir(dir_));
  RETURN_IF_ERROR(fault_point("image.synced"));
  undo.dismiss();
  return ref;
}

void ImageStore::abandon(const Draft& draft) {
  if (!draft.dir.empty()) remove_tree(draft.dir);
}

Result<std::vector<ImageRef>> ImageStore::list() const {
  ASSIGN_OR_RETURN(auto names, names_in(dir_));
  std::vector<ImageRef> images;
  for (const auto& n : names) {
    auto generation = number_after(n, kImagePrefix);
    std::string path = dir_ + "/" + n;
    if (generation && exists(path + "/" + kManifestName)) images.push_back({path, *generation});
  }
  std::sort(images.begin(), images.end(),
            [](const ImageRef& a, const ImageRef& b) { return a.generation < b.generation; });
  return images;
}

Result<std::optional<ImageRef>> ImageStore::newest() const {
  ASSIGN_OR_RETURN(auto images, list());
  if (images.empty()) return std::optional<ImageRef>();
  return std::optional<ImageRef>(images.back());
}

Status ImageStore::prune(std::size_t keep) const {
  ASSIGN_OR_RETURN(auto images, list());
  if (images.size() <= keep) return {};
  std::set<std::string> held;
  for (const auto& standby : Rendezvous(dir_).standbys(Millis(2000)).value_or({}))
    held.insert(standby.holds.begin(), standby.holds.end());
  if (keep == 0 && images.back().generation > kept_highest(dir_)) {
    RETURN_IF_ERROR(write_file_durably(dir_ + "/" + kHighest,
                                       std::to_string(images.back().generation)));
  }
  images.resize(images.size() - keep);
  for (const auto& image : images) {
    // A committed image that nobody has claimed is the application itself.
    if (exists(image.dir + "/" + kCommitName) && !exists(image.dir + "/" + kClaimName)) continue;
    if (held.contains(name_of(image.dir)) || Ownership(dir_).in_use(image.dir)) continue;
    std::string gone = fmt::format("{}/{}{:06}", dir_, kGonePrefix, image.generation);
    remove_tree(gone);
    if (rename(image.dir.c_str(), gone.c_str()) != 0) {
      if (errno == ENOENT) continue;  // another process prunes too
      return errno_error(fmt::format("remove image {}", image.dir));
    }
    remove_tree(gone);
  }
  return {};
}

void ImageStore::sweep() const {
  auto names = names_in(dir_);
  if (!names) return;
  for (const auto& n : *names) {
    std::string path = dir_ + "/" + n;
    std::string_view name = n;
    if (name.starts_with(kGonePrefix)) {
      remove_tree(path);
      continue;
    }
    bool draft = name.starts_with(kDraftPrefix) || name.starts_with(kNewPrefix) ||
                 (name.starts_with(".") && name.ends_with(".tmp"));
    if (!draft) continue;
    auto text = read_small_file(path + "/" + kMaker);
    auto maker = text ? identity_from_json(path, *text) : Result<HostIdentity>(text.error());
    auto liveness = maker ? liveness_of(*maker) : Liveness::Unknown;
    if (liveness == Liveness::Alive) continue;
    if (liveness == Liveness::Unknown && age_seconds(dir_, path).value_or(0) < kForgotten) continue;
    remove_tree(path);
  }
}

}  // namespace supervise
