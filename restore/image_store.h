// Images in a directory: STORE/NAME/gen-NNNNNN/{*.img,manifest.json}. An image is made in
// STORE/NAME/.tmp-*, its parts are fsynced and hashed, the manifest is written last (temp, fsync,
// rename), then the directory gets its final name. What has no valid manifest is no image.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "restore/manifest.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

struct ImageRef {
  std::string dir;               // absolute
  std::uint64_t generation = 0;
};

class ImageStore {
 public:
  static Result<ImageStore> open(const std::string& store, const std::string& app_name,
                                 bool create);

  // A fresh temporary directory for the next generation.
  struct Draft {
    std::string dir;
    std::uint64_t generation = 0;
    UniqueFd dir_fd;
  };
  Result<Draft> begin();
  // Hashes and fsyncs every part, writes the manifest, renames. ENOSPC and the like name the part.
  Result<ImageRef> finish(Draft draft, Manifest& manifest);
  static void abandon(const Draft& draft);

  Result<std::vector<ImageRef>> list() const;       // oldest first
  Result<std::optional<ImageRef>> newest() const;
  // Keeps the newest `keep`, what a standby that beats has ready, what somebody who may be alive has
  // claimed, and what is committed and not claimed.
  Status prune(std::size_t keep) const;
  void sweep() const;  // removes drafts whose maker is dead (pid + boot id + host in a marker file)

  const std::string& dir() const { return dir_; }

 private:
  std::string dir_;
};

// Reads and verifies: manifest, every part's size and hash, no part missing. The error names the
// part that failed.
Result<Manifest> load_manifest(const std::string& image_dir);
// `progress` is told the number of bytes after each piece (about a MiB) that was read.
using ReadProgress = std::function<void(std::uint64_t)>;
Result<Manifest> verify_image(const std::string& image_dir, const ReadProgress& progress = {});

Result<std::string> sha256_of_fd(int fd);
// Small files that two hosts speak through: written as temp, fsync, rename, fsync of the directory.
Status write_file_durably(const std::string& path, const std::string& content);
Result<std::string> read_small_file(const std::string& path);

}  // namespace supervise
