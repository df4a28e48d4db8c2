// Reads one command's options from the command line and, with --config, from a file, by way of
// Boost.Program_options. Every value knows where it came from, so that errors can say it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/options_table.h"

namespace supervise {

struct OptionValue {
  std::string text;
  std::string where;  // "--path", or "FILE:LINE: path"
  // "--path 'data=': character 6: expected a directory"; offset npos: no place in the text.
  Error bad(std::string_view expected, std::size_t offset = std::string::npos) const;
};

class OptionReader {
 public:
  static Result<OptionReader> read(CommandId id, const std::vector<std::string>& args);

  bool has(std::string_view name) const { return values_.contains(name); }
  // Of an option that is not repeatable; nothing when it was not given.
  const OptionValue* one(std::string_view name) const;
  const std::vector<OptionValue>& all(std::string_view name) const;
  const std::vector<std::string>& operands() const { return operands_; }
  bool help() const { return help_; }

 private:
  Status read_config(CommandId id, const OptionValue& file);
  std::map<std::string, std::vector<OptionValue>, std::less<>> values_;
  std::vector<std::string> operands_;
  bool help_ = false;
};

}  // namespace supervise
