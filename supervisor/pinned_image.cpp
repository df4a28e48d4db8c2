#include "supervisor/pinned_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "supervisor/base/unique_fd.h"

namespace supervise {
namespace {

std::uint64_t memory_available() {
  std::ifstream info("/proc/meminfo");
  std::string key, unit;
  for (std::uint64_t kib; info >> key >> kib;) {
    if (key == "MemAvailable:") return kib << 10;
    std::getline(info, unit);
  }
  return UINT64_MAX;
}

}  // namespace

std::uint64_t PinnedImage::pin(const std::string& image_dir, const Manifest& manifest, std::string& why) {
  std::uint64_t total = 0, locked = 0;
  for (const auto& part : manifest.parts) total += part.size;
  std::string problem;
  // Locked pages can't be given back under pressure: some of the memory stays free.
  if (const auto available = memory_available(); total > available / 10 * 8)
    problem = fmt::format("{} MiB of memory are available", available >> 20);
  for (const auto& part : manifest.parts) {
    const UniqueFd fd(open((image_dir + "/" + part.name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd || part.size == 0) continue;
    if (problem.empty()) {
      void* at = mmap(nullptr, part.size, PROT_READ, MAP_SHARED, fd.get(), 0);
      if (at != MAP_FAILED && mlock(at, part.size) == 0) {
        mappings_.push_back({at, part.size});
        locked += part.size;
        continue;
      }
      const int err = errno;
      if (at != MAP_FAILED) munmap(at, part.size);
      rlimit limit{};
      getrlimit(RLIMIT_MEMLOCK, &limit);
      problem = fmt::format("mlock: {} (RLIMIT_MEMLOCK is {} KiB)", strerror(err), limit.rlim_cur >> 10);
    }
    (void)readahead(fd.get(), 0, part.size);
  }
  if (!problem.empty())
    why += fmt::format("{}not all of its {} MiB are locked in memory, the rest is read ahead only: {}",
                       why.empty() ? "" : "; ", total >> 20, problem);
  return locked;
}

void PinnedImage::unpin() {
  for (const Mapping& m : mappings_) munmap(m.at, m.size);
  mappings_.clear();
}

}  // namespace supervise
