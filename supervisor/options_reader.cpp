#include "supervisor/options_reader.h"

#include <fmt/format.h>

#include <boost/program_options.hpp>
#include <fstream>
#include <sstream>

namespace supervise {
namespace {

namespace po = boost::program_options;

po::options_description description(CommandId id) {
  po::options_description all;
  for (const auto& row : option_table()) {
    if ((row.commands & command_bit(id)) == 0) continue;
    const std::string name(row.name);
    if (row.value.empty())
      all.add_options()(name.c_str(), po::value<bool>()->implicit_value(true)->zero_tokens(), "");
    else
      all.add_options()(name.c_str(), po::value<std::vector<std::string>>(), "");
  }
  return all;
}

std::string argument_place(const std::vector<std::string>& args, std::string_view option) {
  for (std::size_t i = 0; i < args.size(); ++i)
    if (args[i] == option || args[i].starts_with(std::string(option) + "="))
      return fmt::format(" (argument {})", i + 1);
  return {};
}

std::string without_dashes(std::string name) {
  name.erase(0, name.find_first_not_of('-'));
  return name.substr(0, name.find('='));
}

std::string unknown_option(CommandId id, const std::string& name, const std::string& place) {
  const auto& command = command_row(id).name;
  if (is_planned_option(name))
    return fmt::format("--{}{}: not available in this version", name, place);
  std::string text = fmt::format("--{}{}: `supervise {}` has no such option", name, place, command);
  if (const auto near = nearest_option(name, id); !near.empty())
    text += fmt::format("; did you mean --{}?", near);
  return text + fmt::format(" (supervise help {})", command);
}

std::string missing_value(CommandId id, const std::string& name) {
  const auto* row = find_option(name, id);
  return fmt::format("--{}: expected a value {}", name, row ? row->value : "");
}

Error described(CommandId id, const std::vector<std::string>& args, const po::error& e) {
  if (const auto* unknown = dynamic_cast<const po::unknown_option*>(&e)) {
    const auto typed = unknown->get_option_name();
    if (!typed.starts_with("--") && typed.starts_with("-"))
      return plain_error(fmt::format("{}{}: `supervise {}` has no such option (supervise help {})",
                                     typed, argument_place(args, typed), command_row(id).name,
                                     command_row(id).name));
    const auto name = without_dashes(typed);
    return plain_error(unknown_option(id, name, argument_place(args, "--" + name)));
  }
  if (const auto* syntax = dynamic_cast<const po::invalid_command_line_syntax*>(&e)) {
    const auto name = without_dashes(syntax->get_option_name());
    const auto* row = find_option(name, id);
    if (row != nullptr && row->value.empty())
      return plain_error(fmt::format("--{}: takes no value", name));
    return plain_error(missing_value(id, name));
  }
  if (const auto* named = dynamic_cast<const po::error_with_option_name*>(&e))
    return plain_error(
        fmt::format("--{}: {}", without_dashes(named->get_option_name()), named->what()));
  return plain_error(e.what());
}

Result<bool> flag_value(const OptionValue& value) {
  if (value.text == "true" || value.text == "yes" || value.text == "on" || value.text == "1")
    return true;
  if (value.text == "false" || value.text == "no" || value.text == "off" || value.text == "0")
    return false;
  return value.bad("expected yes or no");
}

std::string trimmed(std::string_view text) {
  const auto from = text.find_first_not_of(" \t\r");
  if (from == std::string_view::npos) return {};
  return std::string(text.substr(from, text.find_last_not_of(" \t\r") - from + 1));
}

}  // namespace

Error OptionValue::bad(std::string_view expected, std::size_t offset) const {
  if (offset == std::string::npos)
    return plain_error(fmt::format("{} '{}': {}", where, text, expected));
  return plain_error(fmt::format("{} '{}': character {}: {}", where, text, offset + 1, expected));
}

const OptionValue* OptionReader::one(std::string_view name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? nullptr : &it->second.front();
}

const std::vector<OptionValue>& OptionReader::all(std::string_view name) const {
  static const std::vector<OptionValue> none;
  const auto it = values_.find(name);
  return it == values_.end() ? none : it->second;
}

Result<OptionReader> OptionReader::read(CommandId id, const std::vector<std::string>& args) {
  OptionReader reader;
  try {
    auto all = description(id);
    all.add_options()("help,h", "")("operand", po::value<std::vector<std::string>>(), "");
    po::positional_options_description positional;
    positional.add("operand", -1);
    const auto style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    const auto parsed = po::command_line_parser(args).options(all).positional(positional)
                            .style(style).run();
    for (const auto& option : parsed.options) {
      if (option.string_key == "help") {
        reader.help_ = true;
      } else if (option.position_key >= 0 || option.string_key == "operand") {
        if (option.position_key < 0)
          return plain_error(unknown_option(id, "operand", argument_place(args, "--operand")));
        reader.operands_.insert(reader.operands_.end(), option.value.begin(), option.value.end());
      } else {
        const auto* row = find_option(option.string_key, id);
        auto& values = reader.values_[option.string_key];
        if (!values.empty() && !row->repeatable && !row->value.empty())
          return plain_error(fmt::format("--{}: given twice ('{}' and '{}')", row->name,
                                         values.front().text, option.value.front()));
        values.push_back({option.value.empty() ? "" : option.value.front(), "--" + option.string_key});
      }
    }
  } catch (const po::error& e) {
    return described(id, args, e);
  } catch (const std::exception& e) {
    return plain_error(std::string("command line: ") + e.what());
  }
  if (const auto* file = reader.one("config"); file != nullptr && !reader.help_)
    RETURN_IF_ERROR(reader.read_config(id, OptionValue(*file)));
  return reader;
}

Status OptionReader::read_config(CommandId id, const OptionValue& file) {
  std::ifstream stream(file.text);
  if (!stream) return errno_error(fmt::format("--config: open {}", file.text));
  std::stringstream text;
  text << stream.rdbuf();
  if (!stream.good() && !stream.eof()) return errno_error(fmt::format("--config: read {}", file.text));

  // Line by line through Boost's parser, so that each value knows its line.
  std::map<std::string, std::vector<OptionValue>, std::less<>> found;
  std::string line;
  for (int number = 1; std::getline(text, line); ++number) {
    const auto place = fmt::format("{}:{}", file.text, number);
    try {
      std::istringstream one(line);
      const auto parsed = po::parse_config_file(one, description(id), true);
      for (const auto& option : parsed.options) {
        const auto* row = find_option(option.string_key, id);
        if (row == nullptr) {
          if (option.string_key == "name" || find_option(option.string_key, CommandId::Run) != nullptr)
            continue;  // one file may serve both hosts
          return plain_error(place + ": " + unknown_option(id, option.string_key, "").substr(2));
        }
        if (row->name == "config") return plain_error(place + ": config: a file can't name another");
        auto& values = found[option.string_key];
        OptionValue value{option.value.empty() ? "" : trimmed(option.value.front()),
                          fmt::format("{}: {}", place, option.string_key)};
        if (!values.empty() && !row->repeatable) return value.bad("given twice");
        if (row->value.empty()) {
          ASSIGN_OR_RETURN(const bool on, flag_value(value));
          if (!on) continue;
        }
        values.push_back(std::move(value));
      }
    } catch (const po::error& e) {
      return plain_error(fmt::format("{}: '{}': expected `option = value`", place, trimmed(line)));
    }
  }
  for (auto& [name, values] : found)
    if (!values.empty() && !values_.contains(name)) values_.emplace(name, std::move(values));
  return ok_status();
}

}  // namespace supervise
