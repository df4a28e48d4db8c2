// The parts of an image held in memory, so that a restore reads no disk: mapped and locked (mlock(2)).
// Where the limit RLIMIT_MEMLOCK or the memory does not suffice they are only read ahead, and may be
// evicted again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "restore/manifest.h"

namespace supervise {

class PinnedImage {
 public:
  PinnedImage() = default;
  ~PinnedImage() { unpin(); }
  PinnedImage(const PinnedImage&) = delete;
  PinnedImage& operator=(const PinnedImage&) = delete;

  // Returns the bytes that are locked; `why` gets a sentence when not all are.
  std::uint64_t pin(const std::string& image_dir, const Manifest& manifest, std::string& why);
  void unpin();

 private:
  struct Mapping {
    void* at;
    std::size_t size;
  };
  std::vector<Mapping> mappings_;
};

}  // namespace supervise
