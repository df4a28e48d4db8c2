// Where the stub's own code lies (tracer/stub/layout.h): in one of the low windows of 256 MiB, always at
// the same offset, so that one masked comparison finds it. Calls made from there are not traced.
#pragma once

#include <stdint.h>

namespace supervise::stub {

inline constexpr uint64_t kCode = 0x0bad0000, kCodeSize = 0x4000;
// instruction_pointer < 4 GiB && (instruction_pointer & kCodeMask) == kCode
inline constexpr uint32_t kCodeMask = 0x0fffc000;

}  // namespace supervise::stub
