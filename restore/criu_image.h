// The frame of CRIU's image files: two words of magic, then entries, each with its length (32 bits,
// little endian) in front of a protobuf message (CRIU's criu/include/magic.h, lib/pycriu/images).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "supervisor/base/result.h"

namespace supervise {

inline constexpr std::uint32_t kFilesMagic = 0x56303138;        // files.img
inline constexpr std::size_t kImageHead = 8;

// `entry` returns false for what it can't read. Errors name `file` and the byte.
Status for_each_entry(const std::string& file, std::string_view bytes, std::uint32_t magic,
                      const std::function<bool(std::string_view entry)>& entry);

}  // namespace supervise
