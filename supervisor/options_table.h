// The option and command tables from which the parser, --help, the manual page and the shell
// completions derive. Texts are for users.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "supervisor/options.h"

namespace supervise {

struct CommandRow {
  CommandId id;
  std::string_view name;
  std::string_view synopsis;  // what follows the name
  std::string_view summary;   // one line
  std::string_view text;      // paragraphs
  std::string_view examples;  // lines, as typed
  int operands = 0;           // most positional arguments; -1: any number
};

enum class Completion : std::uint8_t { None, File, Dir, Words, App };

struct OptionRow {
  std::string_view name;
  std::string_view value;     // placeholder; empty: a flag
  bool repeatable;
  std::uint32_t commands;     // set of bits of CommandId
  std::string_view help;
  Completion completion = Completion::None;
  std::string_view words = {};
};

constexpr std::uint32_t command_bit(CommandId id) { return 1u << static_cast<unsigned>(id); }

std::span<const CommandRow> command_table();
std::span<const OptionRow> option_table();
const CommandRow* find_command(std::string_view name);
const CommandRow& command_row(CommandId id);
const OptionRow* find_option(std::string_view name, CommandId id);
// Not in this version, but part of the documented contract: gets an error of its own.
bool is_planned_option(std::string_view name);

// Nearest of the names that `id` knows, empty when none is near.
std::string_view nearest_option(std::string_view typed, CommandId id);
std::string_view nearest_command(std::string_view typed);

// `topic` empty: overview. Nothing for an unknown topic.
std::string help_text(std::string_view topic);
std::string manual_page();                              // troff
std::string completion_script(std::string_view shell);  // "bash"; empty for others

}  // namespace supervise
