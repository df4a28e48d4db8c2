#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "restore/criu_image.h"
#include "restore/file_drift.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "restore/protobuf_walk.h"
#include "restore/store_files.h"
#include "supervisor/base/scope_exit.h"

namespace supervise {
namespace {

constexpr const char* kFilesImg = "files.img";
constexpr std::uint32_t kEntryReg = 3;              // file_entry.reg
constexpr std::uint32_t kRegName = 6, kRegSize = 8; // reg_file_entry

// The entry with its size taken out when it is one of the paths.
std::optional<std::string> patched_entry(std::string_view entry, const std::set<std::string>& paths,
                                         std::set<std::string>& found) {
  auto fields = proto_fields(entry);
  if (!fields) return std::nullopt;
  std::string out;
  for (const auto& f : *fields) {
    if (f.number != kEntryReg) {
      out += f.whole;
      continue;
    }
    auto reg = proto_fields(f.bytes);
    if (!reg) return std::nullopt;
    const ProtoField* name = proto_find(*reg, kRegName);
    if (!name || !paths.contains(std::string(name->bytes))) {
      out += f.whole;
      continue;
    }
    found.insert(std::string(name->bytes));
    std::string content;
    for (const auto& r : *reg) {
      if (r.number != kRegSize) content += r.whole;
    }
    proto_put_bytes(out, kEntryReg, content);
  }
  return out;
}

}  // namespace

Result<std::string> files_img_without_sizes(const std::string& bytes,
                                            const std::vector<std::string>& paths) {
  std::set<std::string> wanted(paths.begin(), paths.end()), found;
  std::string out = bytes.substr(0, kImageHead);
  RETURN_IF_ERROR(for_each_entry(kFilesImg, bytes, kFilesMagic, [&](std::string_view whole) {
    const auto entry = patched_entry(whole, wanted, found);
    if (!entry) return false;
    const auto length = static_cast<std::uint32_t>(entry->size());
    out.append(reinterpret_cast<const char*>(&length), sizeof length);
    out += *entry;
    return true;
  }));
  for (const auto& path : wanted) {
    if (!found.contains(path)) {
      return plain_error(fmt::format("{}: the image does not have {} open", kFilesImg, path));
    }
  }
  return out;
}

Result<PatchedImage> image_without_sizes(const std::string& image_dir,
                                         const std::vector<std::string>& paths) {
  ASSIGN_OR_RETURN(std::string bytes, read_small_file(image_dir + "/" + kFilesImg));
  auto patched = files_img_without_sizes(bytes, paths);
  if (!patched) return patched.error().with(fmt::format("image {}", image_dir));
  PatchedImage image;
  std::string dir = temp_name_for(image_dir);
  remove_tree(dir);
  if (mkdir(dir.c_str(), 0700) != 0) return errno_error(fmt::format("create directory {}", dir));
  image.dir_ = dir;
  ASSIGN_OR_RETURN(auto names, names_in(image_dir));
  for (const auto& name : names) {
    if (!is_part_name(name) || name == kFilesImg) continue;
    if (link((image_dir + "/" + name).c_str(), (dir + "/" + name).c_str()) != 0) {
      return errno_error(fmt::format("link {}/{}", dir, name));
    }
  }
  RETURN_IF_ERROR(replace_file(dir + "/" + kFilesImg, *patched));
  return image;
}

PatchedImage::~PatchedImage() {
  if (!dir_.empty()) remove_tree(dir_);
}

}  // namespace supervise
