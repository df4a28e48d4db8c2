// Small files in a shared directory, and the lock on one. Everything is seen whole or not at all:
// written under a hidden temporary name, then renamed or linked. Errors name the file.
#pragma once

#include <optional>
#include <string>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

std::string parent_of(const std::string& path);
std::string name_of(const std::string& path);

// A file beside `path`, complete and (durable) fsynced; the caller renames, links or unlinks it.
Result<std::string> write_temp_file(const std::string& path, const std::string& content, bool durable);
// As write_file_durably() without the fsyncs: for what is of no use after a crash.
Status replace_file(const std::string& path, const std::string& content);
Status sync_dir(const std::string& dir);
// Nothing when there is no such file.
Result<std::optional<std::string>> read_file_if_there(const std::string& path);

// An exclusive open file description lock (fcntl(2), F_OFD_SETLK) on `path`, which is made when
// missing and never removed. Held until the descriptor is closed; gone with its process. ETIMEDOUT
// names the file.
Result<UniqueFd> lock_file(const std::string& path, Deadline deadline);

// Removes a directory and the files in it (one level of directories inside is removed too).
void remove_tree(const std::string& dir);

}  // namespace supervise
