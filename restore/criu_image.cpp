#include "restore/criu_image.h"

#include <fmt/format.h>

#include <cstring>

namespace supervise {
namespace {

constexpr std::uint32_t kCommonMagic = 0x54564319;

std::uint32_t word_at(std::string_view bytes, std::size_t at) {
  std::uint32_t w = 0;
  memcpy(&w, bytes.data() + at, sizeof w);
  return w;
}

}  // namespace

Status for_each_entry(const std::string& file, std::string_view bytes, std::uint32_t magic,
                      const std::function<bool(std::string_view)>& entry) {
  const auto malformed = [&](std::size_t at) {
    return plain_error(fmt::format("{}: not what CRIU writes, at byte {}", file, at));
  };
  if (bytes.size() < kImageHead || word_at(bytes, 0) != kCommonMagic || word_at(bytes, 4) != magic) return malformed(0);
  for (std::size_t at = kImageHead; at < bytes.size();) {
    if (bytes.size() - at < 4) return malformed(at);
    const std::uint32_t size = word_at(bytes, at);
    if (size > bytes.size() - at - 4 || !entry(bytes.substr(at + 4, size))) return malformed(at);
    at += 4 + size;
  }
  return {};
}

}  // namespace supervise
