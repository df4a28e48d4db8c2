#include "tracer/stub/code.h"

#include <sys/auxv.h>

extern "C" const std::byte supervise_stub_code[], supervise_stub_code_end[];

namespace supervise::stub {

const CodeHead& code_head() { return *reinterpret_cast<const CodeHead*>(supervise_stub_code); }

std::span<const std::byte> code_bytes() { return {supervise_stub_code, code_head().size}; }

std::span<const std::byte> traced_bytes() { return {supervise_stub_code + kCodeSize, supervise_stub_code_end}; }

bool have_fsgsbase() { return (getauxval(AT_HWCAP2) & 2 /* HWCAP2_FSGSBASE */) != 0; }

}  // namespace supervise::stub
