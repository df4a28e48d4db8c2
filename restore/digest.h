// SHA-256 (OpenSSL EVP) of bytes and of files, as 64 lower-case hex digits.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "supervisor/base/result.h"

namespace supervise {

std::string sha256_of_bytes(const std::string& bytes);
// Of the first `limit` bytes of a regular file, or of all; does not move the file offset. When the
// file is shorter than a given limit: an error with ENODATA. `size` takes the bytes hashed.
// `progress` is told the bytes of each piece.
Result<std::string> sha256_of_file(int fd, std::uint64_t* size = nullptr,
                                   std::uint64_t limit = UINT64_MAX,
                                   const std::function<void(std::uint64_t)>& progress = {});

}  // namespace supervise
