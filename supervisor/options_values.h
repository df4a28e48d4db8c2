// From option texts to typed values, with errors that name option, place and expectation; and the
// checks that need the file system.
#pragma once

#include <string>
#include <vector>

#include "supervisor/options_reader.h"

namespace supervise {

Status check_name(const OptionValue& value);  // fit to be a file name
Result<std::string> absolute_path(const OptionValue& value, std::string_view path);

// --path, --path-up, --path-down. most_dirs: 1 on the second host.
Result<std::vector<PathSpec>> read_paths(const OptionReader& reader, std::size_t most_dirs);
// Directories exist, are directories, lie not in one another; made absolute and free of symbolic
// links. Adds a warning for directories of one path that are one file system.
Status check_path_dirs(const OptionReader& reader, std::vector<PathSpec>& paths,
                       std::vector<std::string>& warnings);

// "dir:PATH" -> the same with an absolute path; the directory must exist when `must_exist`.
Result<std::string> read_target(const OptionValue& value, bool must_exist);
Result<std::vector<Rule>> read_rules(const OptionReader& reader,
                                     const std::vector<PathSpec>& paths);
Status read_log(const OptionReader& reader, LogOptions& log);
Result<long> read_number(const OptionValue& value, long least, long most);
// A number, USR1 or SIGUSR1.
Result<int> read_signal(const OptionValue& value);
Result<Millis> read_duration(const OptionValue& value);
Result<std::uint64_t> read_size(const OptionValue& value);

// One of `words`, as its index.
Result<int> read_word(const OptionValue& value, std::initializer_list<std::string_view> words);

}  // namespace supervise
