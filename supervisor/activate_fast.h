// `supervise activate NAME` in its plain form. The waking itself takes less than starting a program does, so
// this goes from main() to the socket and back touching as few pages as it can: no option table, no JSON
// library, no streams. It is called before the C library has set up `environ`.
#pragma once

#include <optional>

namespace supervise {

// The exit status; nothing when this is not for it (nothing was asked of anybody then): the ordinary way
// tells what is wrong, or waits for a socket that is being handed on.
std::optional<int> activate_fast(int argc, char** argv, char** environment);

}  // namespace supervise
