// Files that the image has open or mapped, against what is there on this host, before CRIU runs.
// CRIU compares sizes only, and says little; here content counts too, and the file is named. What
// may be repaired is growth alone: a file that is missing, shorter, or whose first bytes are not
// the image's is always refused. Files are opened below the given directories only.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "restore/manifest.h"
#include "supervisor/base/result.h"
#include "supervisor/options.h"

namespace supervise {

struct DriftPlace {
  std::string place;  // where the application sees it
  std::string dir;    // this host's directory
};

enum class DriftKind { Missing, NotRegular, Shorter, Longer, OtherContent };

struct FileDrift {
  std::string path;       // as the application sees it
  std::string host_path;
  DriftKind kind = DriftKind::Missing;
  std::uint64_t image_size = 0, size = 0;
  bool prefix_proven = false;  // Longer: the first image_size bytes have the image's SHA-256
  std::string describe() const;
};

// Empty when all is as it was. An error is one of reading (EIO...), or a file below no place.
Result<std::vector<FileDrift>> find_drift(const std::vector<ImageFile>& files,
                                          const std::vector<DriftPlace>& places);

// Says no to what the policy does not allow, naming every such file and the way out; with Truncate
// cuts the longer files back and fsyncs them. After AcceptAppended has said yes, CRIU needs
// image_without_sizes().
Status apply_drift_policy(DriftPolicy policy, const std::vector<FileDrift>& drifts,
                          const std::vector<DriftPlace>& places);

// A directory beside the image in which every part is a hard link to the image's, but files.img is
// a copy whose entries for these files (as the application sees them) have no size. Removed with
// the object. Every path must be found in files.img.
class PatchedImage {
 public:
  PatchedImage() = default;
  PatchedImage(PatchedImage&& o) noexcept : dir_(std::exchange(o.dir_, {})) {}
  PatchedImage& operator=(PatchedImage&& o) noexcept {
    std::swap(dir_, o.dir_);
    return *this;
  }
  ~PatchedImage();
  const std::string& dir() const { return dir_; }

 private:
  friend Result<PatchedImage> image_without_sizes(const std::string& image_dir,
                                                  const std::vector<std::string>& paths);
  std::string dir_;
};
Result<PatchedImage> image_without_sizes(const std::string& image_dir,
                                         const std::vector<std::string>& paths);

// The bytes of a files.img (CRIU's images/fdinfo.proto and regfile.proto) without those sizes.
Result<std::string> files_img_without_sizes(const std::string& bytes,
                                            const std::vector<std::string>& paths);

}  // namespace supervise
