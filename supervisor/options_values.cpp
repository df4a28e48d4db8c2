#include "supervisor/options_values.h"

#include "restore/net_address.h"

#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "seccomp/syscall_table.h"
#include "supervisor/base/worker.h"

namespace supervise {
namespace {

constexpr std::size_t kLongestName = 64;

bool name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

Status check_name_part(const OptionValue& value, std::string_view name) {
  if (name.empty()) return value.bad("expected a name", 0);
  if (name.front() == '.' || name.front() == '-')
    return value.bad("a name begins with a letter, a digit or _", 0);
  for (std::size_t i = 0; i < name.size(); ++i)
    if (!name_character(name[i]))
      return value.bad("a name has letters, digits, . _ and - only", i);
  if (name.size() > kLongestName)
    return value.bad(fmt::format("a name has at most {} characters", kLongestName), kLongestName);
  return ok_status();
}

struct NameAndRest {
  std::string name, rest;
  std::size_t rest_at = 0;
};

Result<NameAndRest> split_name(const OptionValue& value, std::string_view what) {
  const auto equals = value.text.find('=');
  if (equals == std::string::npos)
    return value.bad(fmt::format("expected NAME={}", what), value.text.size());
  NameAndRest out{value.text.substr(0, equals), value.text.substr(equals + 1), equals + 1};
  RETURN_IF_ERROR(check_name_part(value, out.name));
  if (out.rest.empty()) return value.bad(fmt::format("expected {} after =", what), equals + 1);
  return out;
}

Result<PathSpec> read_path(const OptionValue& value, std::size_t most_dirs) {
  ASSIGN_OR_RETURN(const auto split, split_name(value, "DIRECTORY[,DIRECTORY...]"));
  PathSpec path;
  path.name = split.name;
  std::size_t at = split.rest_at;
  while (true) {
    const auto comma = std::min(value.text.find(',', at), value.text.size());
    const auto dir = value.text.substr(at, comma - at);
    if (dir.empty()) return value.bad("expected a directory", at);
    if (path.dirs.size() == most_dirs)
      return value.bad("expected one directory: this host's way to the storage path", at);
    ASSIGN_OR_RETURN(auto absolute, absolute_path(value, dir));
    path.dirs.push_back(std::move(absolute));
    if (comma == value.text.size()) break;
    at = comma + 1;
  }
  return path;
}

Status read_path_commands(const OptionReader& reader, std::string_view option,
                          std::string PathSpec::* member, std::vector<PathSpec>& paths) {
  for (const auto& value : reader.all(option)) {
    ASSIGN_OR_RETURN(const auto split, split_name(value, "COMMAND"));
    auto it = std::find_if(paths.begin(), paths.end(),
                           [&](const PathSpec& p) { return p.name == split.name; });
    if (it == paths.end())
      return value.bad(fmt::format("there is no --path {}=...", split.name), 0);
    if (!((*it).*member).empty())
      return value.bad(fmt::format("path {} has such a command already", split.name), 0);
    (*it).*member = split.rest;
  }
  return ok_status();
}

std::size_t place_of(const OptionValue& value, std::string_view dir) {
  const auto at = value.text.find(dir);
  return at == std::string::npos ? value.text.find('=') + 1 : at;
}

struct DirFacts {
  dev_t dev = 0;
  std::string real;
};

// In a worker: a path whose server is dead may never answer.
Result<DirFacts> look_at_dir(const std::string& dir) {
  auto looked = run_worker("directory " + dir, Deadline::in(Millis(10000)),
                           [&]() -> Result<WorkerOutput> {
    struct stat st {};
    if (::stat(dir.c_str(), &st) != 0) return errno_error("stat");
    if (!S_ISDIR(st.st_mode)) return errno_error(ENOTDIR, "it");
    char* real = ::realpath(dir.c_str(), nullptr);
    if (real == nullptr) return errno_error("realpath");
    return WorkerOutput{fmt::format("{} {}", st.st_dev, real), {}};
  });
  if (!looked) return looked.error();
  const auto space = looked->bytes.find(' ');
  return DirFacts{std::strtoull(looked->bytes.c_str(), nullptr, 10), looked->bytes.substr(space + 1)};
}

bool within(const std::string& inner, const std::string& outer) {
  return inner == outer || outer == "/" || inner.starts_with(outer + "/");
}

}  // namespace

Status check_name(const OptionValue& value) { return check_name_part(value, value.text); }

Result<std::string> absolute_path(const OptionValue& value, std::string_view path) {
  if (path.empty()) return value.bad("expected a path", place_of(value, path));
  std::error_code error;
  auto absolute = std::filesystem::absolute(std::filesystem::path(path), error);
  if (error)
    return value.bad("the working directory is gone, expected an absolute path", place_of(value, path));
  auto text = absolute.lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

Result<std::vector<PathSpec>> read_paths(const OptionReader& reader, std::size_t most_dirs) {
  std::vector<PathSpec> paths;
  for (const auto& value : reader.all("path")) {
    ASSIGN_OR_RETURN(auto path, read_path(value, most_dirs));
    for (const auto& other : paths)
      if (other.name == path.name)
        return value.bad(fmt::format("path {} is declared twice", path.name), 0);
    paths.push_back(std::move(path));
  }
  RETURN_IF_ERROR(read_path_commands(reader, "path-up", &PathSpec::up, paths));
  RETURN_IF_ERROR(read_path_commands(reader, "path-down", &PathSpec::down, paths));
  return paths;
}

Status check_path_dirs(const OptionReader& reader, std::vector<PathSpec>& paths,
                       std::vector<std::string>& warnings) {
  const auto& values = reader.all("path");
  struct Known {
    std::string dir, path;
  };
  std::vector<Known> known;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    auto& path = paths[i];
    std::vector<dev_t> devices;
    for (auto& dir : path.dirs) {
      const auto at = place_of(values[i], dir);
      const auto facts = look_at_dir(dir);
      if (!facts) return values[i].bad(facts.error().message(), at);
      dir = facts.value().real;
      if (dir == "/") return values[i].bad("/ can't be a storage path", at);
      for (const auto& other : known) {
        if (dir == other.dir)
          return values[i].bad(fmt::format("{} is named twice", dir), at);
        if (within(dir, other.dir) || within(other.dir, dir))
          return values[i].bad(fmt::format("{} and {} lie within one another", dir, other.dir), at);
      }
      known.push_back({dir, path.name});
      devices.push_back(facts.value().dev);
    }
    // With --path-up the further directories are mounted later.
    for (std::size_t k = 1; path.up.empty() && k < devices.size(); ++k)
      if (devices[k] == devices[0])
        warnings.push_back(fmt::format(
            "--path {}: {} and {} are one file system: what breaks one breaks the other", path.name,
            path.dirs[0], path.dirs[k]));
  }
  return ok_status();
}

Result<std::string> read_target(const OptionValue& value, bool must_exist) {
  constexpr std::string_view kDir = "dir:";
  if (!value.text.starts_with(kDir)) {
    auto address = parse_net_address(value.text, false);
    if (!address) return value.bad(fmt::format("expected dir:PATH or HOST:PORT ({})", address.error().what), 0);
    return value.text;
  }
  const auto dir = value.text.substr(kDir.size());
  if (dir.empty()) return value.bad("expected a directory after dir:", kDir.size());
  ASSIGN_OR_RETURN(const auto absolute, absolute_path(value, dir));
  if (must_exist) {
    if (const auto facts = look_at_dir(absolute); !facts)
      return value.bad(facts.error().message(), kDir.size());
  }
  return std::string(kDir) + absolute;
}

Result<std::vector<Rule>> read_rules(const OptionReader& reader,
                                     const std::vector<PathSpec>& paths) {
  std::vector<Rule> rules;
  for (const auto& value : reader.all("on")) {
    auto rule = parse_rule(value.text);
    if (!rule) return plain_error(fmt::format("{} '{}': {}", value.where, value.text,
                                              rule.error().message()));
    const bool declared =
        rule->where == "*" || std::any_of(paths.begin(), paths.end(), [&](const PathSpec& p) {
          return p.name == rule->where;
        });
    if (!declared) {
      std::string names;
      for (const auto& path : paths) names += (names.empty() ? "" : ", ") + path.name;
      return value.bad(fmt::format("there is no --path {}=..., expected {}{}*", rule->where, names,
                                   names.empty() ? "" : " or "), 0);
    }
    for (const auto& call : rule->calls) {
      const auto* row = find_syscall(std::string_view(call));
      if (row == nullptr || row->trap != Trap::Always)
        return value.bad(fmt::format("{} is no call on files, see supervise list-syscalls", call),
                         std::min(value.text.find(call, rule->where.size() + 1), value.text.size()));
    }
    rules.push_back(rule.take());
  }
  return rules;
}

Status read_log(const OptionReader& reader, LogOptions& log) {
  if (const auto* value = reader.one("events")) {
    ASSIGN_OR_RETURN(log.events_file, absolute_path(*value, value->text));
  }
  if (const auto* value = reader.one("log-format")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"text", "json"}));
    log.format = static_cast<LogFormat>(i);
  }
  if (const auto* value = reader.one("log-level")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"error", "warn", "info", "debug"}));
    log.level = static_cast<LogLevel>(i);
  }
  return ok_status();
}

Result<long> read_number(const OptionValue& value, long least, long most) {
  long number = 0;
  const char* end = value.text.data() + value.text.size();
  const auto [stop, error] = std::from_chars(value.text.data(), end, number);
  if (error == std::errc::invalid_argument || stop != end)
    return value.bad("expected a number", static_cast<std::size_t>(stop - value.text.data()));
  if (error != std::errc() || number < least || number > most)
    return value.bad(fmt::format("expected a number from {} to {}", least, most), 0);
  return number;
}

Result<int> read_signal(const OptionValue& value) {
  std::string_view word = value.text;
  if (word.starts_with("SIG")) word.remove_prefix(3);
  for (int sig = 1; sig <= SIGRTMAX; ++sig) {
    const char* name = sigabbrev_np(sig);
    if ((name != nullptr && word == name) || word == std::to_string(sig)) {
      if (sig == SIGKILL || sig == SIGSTOP) break;
      return sig;
    }
  }
  return value.bad("expected the name or number of a signal that can be caught, for example USR1", 0);
}

Result<Millis> read_duration(const OptionValue& value) {
  auto parsed = parse_duration(value.text);
  if (!parsed)
    return plain_error(fmt::format("{} '{}': {}", value.where, value.text, parsed.error().message()));
  if (parsed->count() <= 0) return value.bad("expected more than nothing", 0);
  return parsed;
}

Result<std::uint64_t> read_size(const OptionValue& value) {
  auto parsed = parse_size(value.text);
  if (!parsed)
    return plain_error(fmt::format("{} '{}': {}", value.where, value.text, parsed.error().message()));
  return parsed;
}

Result<int> read_word(const OptionValue& value, std::initializer_list<std::string_view> words) {
  std::string expected;
  int i = 0;
  for (const auto word : words) {
    if (value.text == word) return i;
    ++i;
    expected += fmt::format("{}{}", expected.empty() ? "" : ", ", word);
  }
  return value.bad("expected one of: " + expected, 0);
}

}  // namespace supervise
