#include <fmt/format.h>

#include <string>
#include <vector>

#include "supervisor/options_table.h"

namespace supervise {
namespace {

constexpr std::size_t kWidth = 96;

constexpr std::string_view kExitStatus =
    "The application's own; 128+N when signal N ended it; 125 when the supervisor itself failed, "
    "126 when the program can't be executed, 127 when it is not found; 113 when the application "
    "was handed over.";

struct EnvironmentRow {
  std::string_view name, text;
};
constexpr EnvironmentRow kEnvironment[] = {
    {"SUPERVISE_CRIU", "the CRIU program; default: the one that setup installs, then PATH"},
    {"SUPERVISE_CRIU_DEADLINE", "seconds that one dump or restore may take, then CRIU is ended and the application goes "
                                "on where it was (120)"},
    {"SUPERVISE_RUNDIR", "directory of the control sockets; default: /run/supervise, or $XDG_RUNTIME_DIR/supervise"},
    {"SUPERVISE_HOST_ID", "names this host to others that see the same images; default: its host name"},
    {"SUPERVISE_GENERATION_FILE", "given to the application: a file that says which instance of itself it is, "
                                  "\"GENERATION INSTANCE RANDOM\"; another one after each resume of an image"},
    {"SUPERVISE_FAULT_POINTS", "for tests: NAME=kill|fail|hang[,...] makes steps of the supervisor fail"},
};

std::string wrapped(std::string_view text, std::size_t indent, std::size_t first_column) {
  std::string out;
  std::size_t column = first_column;
  bool line_start = true;
  while (!text.empty()) {
    const auto end = text.find(' ');
    const auto word = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (word.empty()) continue;
    if (!line_start && column + 1 + word.size() > kWidth) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
      line_start = true;
    }
    if (!line_start) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    line_start = false;
  }
  return out;
}

std::string option_synopsis(const OptionRow& row) {
  return row.value.empty() ? fmt::format("--{}", row.name)
                           : fmt::format("--{} {}", row.name, row.value);
}

std::vector<const OptionRow*> options_of(CommandId id) {
  std::vector<const OptionRow*> rows;
  for (const auto& row : option_table())
    if ((row.commands & command_bit(id)) != 0) rows.push_back(&row);
  return rows;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const auto end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

std::string overview() {
  std::string out =
      "supervise keeps an application running when its storage path fails: over another path, or "
      "on\nanother host.\n\n"
      "Usage: supervise [run] [OPTIONS] -- APP [ARGS...]\n"
      "       supervise COMMAND [OPTIONS]\n\nCommands:\n";
  for (const auto& row : command_table())
    out += fmt::format("  {:<14} {}\n", row.name, row.summary);
  out += "\nHelp about one of them: supervise help COMMAND\n\nExamples:\n";
  for (const auto* name : {"run", "standby", "status", "doctor"})
    out += fmt::format("  {}\n", lines_of(find_command(name)->examples).front());
  out += fmt::format("\nExit status:\n  {}\n", wrapped(kExitStatus, 2, 2));
  out += "\nEnvironment:\n";
  for (const auto& row : kEnvironment)
    out += fmt::format("  {}\n      {}\n", row.name, wrapped(row.text, 6, 6));
  return out;
}

std::string troff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) {
      out += "\\&";
      out += c;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string help_text(std::string_view topic) {
  if (topic.empty()) return overview();
  const auto* command = find_command(topic);
  if (command == nullptr) return {};
  std::string out = fmt::format("Usage: supervise {} {}\n\n", command->name, command->synopsis);
  out += fmt::format("{}{}.\n", static_cast<char>(std::toupper(command->summary[0])),
                     command->summary.substr(1));
  if (!command->text.empty()) out += "\n" + wrapped(command->text, 0, 0) + "\n";
  if (const auto rows = options_of(command->id); !rows.empty()) {
    out += "\nOptions:\n";
    for (const auto* row : rows)
      out += fmt::format("  {}\n      {}\n", option_synopsis(*row), wrapped(row->help, 6, 6));
  }
  out += "\nExamples:\n";
  for (const auto line : lines_of(command->examples)) out += fmt::format("  {}\n", line);
  if (command->id == CommandId::Run || command->id == CommandId::Standby ||
      command->id == CommandId::Restore)
    out += fmt::format("\nExit status:\n  {}\n", wrapped(kExitStatus, 2, 2));
  return out;
}

std::string manual_page() {
  std::string out = fmt::format(
      ".TH SUPERVISE 1 \"\" \"supervise {}\"\n.SH NAME\nsupervise \\- keep an application running "
      "when its storage path fails\n.SH SYNOPSIS\n",
      SUPERVISE_VERSION);
  for (const auto& row : command_table())
    out += fmt::format(".B supervise {}\n{}\n.br\n", row.name, troff(row.synopsis));
  out += ".SH COMMANDS\n";
  for (const auto& row : command_table()) {
    out += fmt::format(".SS {}\n{}.\n", row.name, troff(row.summary));
    if (!row.text.empty()) out += fmt::format(".PP\n{}\n", troff(row.text));
    for (const auto line : lines_of(row.examples))
      out += fmt::format(".PP\n.EX\n    {}\n.EE\n", troff(line));
  }
  out += ".SH OPTIONS\n";
  for (const auto& row : option_table()) {
    std::string commands;
    for (const auto& command : command_table())
      if ((row.commands & command_bit(command.id)) != 0)
        commands += fmt::format("{}{}", commands.empty() ? "" : ", ", command.name);
    out += fmt::format(".TP\n.B {}\n({}) {}.\n", troff(option_synopsis(row)), troff(commands),
                       troff(row.help));
  }
  out += fmt::format(".SH EXIT STATUS\n{}\n.SH ENVIRONMENT\n", troff(kExitStatus));
  for (const auto& row : kEnvironment)
    out += fmt::format(".TP\n.B {}\n{}\n", troff(row.name), troff(row.text));
  return out;
}

std::string completion_script(std::string_view shell) {
  if (shell != "bash") return {};
  std::string commands, option_cases, value_cases;
  for (const auto& command : command_table()) {
    commands += fmt::format("{}{}", commands.empty() ? "" : " ", command.name);
    std::string names;
    for (const auto* row : options_of(command.id)) names += fmt::format("--{} ", row->name);
    option_cases += fmt::format("    {}) words=\"{}--help\" ;;\n", command.name, names);
  }
  for (const auto& row : option_table()) {
    std::string reply;
    if (row.completion == Completion::Words)
      reply = fmt::format("COMPREPLY=($(compgen -W \"{}\" -- \"$cur\"))", row.words);
    else if (row.completion == Completion::Dir)
      reply = "compopt -o nospace; COMPREPLY=($(compgen -d -- \"${cur##*[=,:]}\"))";
    else if (row.completion == Completion::File)
      reply = "COMPREPLY=($(compgen -f -- \"$cur\"))";
    else if (!row.value.empty())
      reply = "COMPREPLY=()";
    if (!reply.empty()) value_cases += fmt::format("    --{}) {}; return ;;\n", row.name, reply);
  }
  return fmt::format(
      R"(_supervise() {{
  local cur prev command=run words i
  cur=${{COMP_WORDS[COMP_CWORD]}}
  prev=${{COMP_WORDS[COMP_CWORD-1]}}
  [ "$prev" = "=" ] && prev=${{COMP_WORDS[COMP_CWORD-2]}}
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [ "${{COMP_WORDS[i]}}" = "--" ]; then
      if ((i + 1 == COMP_CWORD)); then COMPREPLY=($(compgen -c -- "$cur"))
      else COMPREPLY=($(compgen -f -- "$cur")); fi
      return
    fi
  done
  ((COMP_CWORD > 1)) && [[ " {0} " == *" ${{COMP_WORDS[1]}} "* ]] && command=${{COMP_WORDS[1]}}
  case $prev in
{1}  esac
  case $command in
{2}  esac
  ((COMP_CWORD == 1)) && words="{0} $words"
  [ "$command" = help ] && words="{0}"
  [ "$command" = images ] && words="list inspect verify prune export import $words"
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _supervise supervise
)",
      commands, value_cases, option_cases);
}

}  // namespace supervise
