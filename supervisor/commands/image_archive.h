// An image as one tar file (POSIX ustar, sizes over 8 GiB in GNU's base-256 form): regular files
// GENERATION/PART, the manifest last. Made as a temporary file beside its name, fsynced, renamed.
// Reading refuses anything but such files; nothing outside `dir` is written.
#pragma once

#include <string>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise {

Status write_archive(const std::string& file, const std::string& image_dir,
                     const std::vector<std::string>& names);
// Puts the files into `dir`, which exists; their names.
Result<std::vector<std::string>> read_archive(const std::string& file, const std::string& dir);

}  // namespace supervise
