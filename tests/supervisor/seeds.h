// How many seeds a property test goes through: SUPERVISE_SEEDS, or its own number.
#pragma once

#include <cstdlib>

namespace supervise::test {

inline unsigned seeds(unsigned otherwise) {
  const char* env = getenv("SUPERVISE_SEEDS");
  return env ? static_cast<unsigned>(atoi(env)) : otherwise;
}

}  // namespace supervise::test
