// What an image takes hold of when it is restored, as its files.img says (CRIU's images/fdinfo.proto,
// sk-inet.proto, sk-unix.proto, regfile.proto): what two copies on one host would quarrel about, and what
// a copy that does not run yet must not hold.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "restore/manifest.h"
#include "supervisor/base/result.h"

namespace supervise {

struct ImageSocket {
  std::string address;   // "0.0.0.0:80", "[::1]:443", "unix:/run/x.sock", "unix:@abstract"
  bool listens = false;
  bool loopback = false;  // 127.0.0.0/8 or ::1, or a unix socket: no other host reaches it
};

struct ImageRegular {
  std::string path;                   // as the application sees it
  std::uint64_t id = 0;
  std::optional<std::uint64_t> size;  // that CRIU will insist on
};

struct ImageNeeds {
  std::vector<ImageSocket> bound;    // sockets with an address of their own
  std::vector<std::string> written;  // regular files that are open for writing, as the application sees them
  std::vector<ImageRegular> files;   // open or mapped, devices too; deleted ones are the image's own
};

Result<ImageNeeds> image_needs(const std::string& image_dir);
Result<ImageNeeds> needs_in_files_img(const std::string& bytes);

// Files that the image needs and this host does not have as they were: below no storage path (those
// are the drift policy's), no standard stream. CRIU would find out only after the commit.
std::vector<std::string> missing_here(const ImageNeeds& needs, const Manifest& manifest);

// Why a copy of the image must not wait restored: it would take connections that nobody answers.
std::vector<std::string> why_not_parked(const ImageNeeds& needs);
// What a second copy on the same host would clash with. Files count below the image's storage paths.
std::vector<std::string> why_not_twice(const ImageNeeds& needs, const std::vector<ImagePath>& paths);

}  // namespace supervise
