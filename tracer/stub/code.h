// The stub's code as the library carries it (tracer/stub/blob/, linked at its offsets in window 0), to be
// copied to kCode and kTraced of a window.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tracer/stub/layout.h"

namespace supervise::stub {

const CodeHead& code_head();
std::span<const std::byte> code_bytes();    // for kCode
std::span<const std::byte> traced_bytes();  // for kTraced
// Does this processor and kernel let programs read %gs's base (FSGSBASE, Linux 5.9)?
bool have_fsgsbase();

}  // namespace supervise::stub
