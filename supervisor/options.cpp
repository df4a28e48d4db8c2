#include "supervisor/options.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "restore/tls.h"
#include "supervisor/options_values.h"

namespace supervise {
namespace {

using Args = std::vector<std::string>;

std::string base_name(const std::string& program) {
  std::string name = program.substr(program.rfind('/') + 1);
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') c = '-';
  name.erase(0, std::min(name.find_first_not_of(".-"), name.size()));
  return name.empty() ? "app" : name.substr(0, 64);
}

Status read_tls(const OptionReader& reader, const std::string& target, std::string& dir) {
  const bool over_network = !target.empty() && !target.starts_with("dir:");
  dir = kDefaultTlsDir;
  const auto* value = reader.one("tls");
  if (value) {
    ASSIGN_OR_RETURN(dir, absolute_path(*value, value->text));
    if (!over_network) return value->bad("means something with HOST:PORT only");
  }
  return ok_status();
}

Status read_common(const OptionReader& reader, TcpPolicy& tcp, int& exit_code, Millis& deadline,
                   std::string& images, std::string& standby) {
  if (const auto* value = reader.one("tcp")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"keep", "close", "reset"}));
    tcp = static_cast<TcpPolicy>(i);
  }
  if (const auto* value = reader.one("handover-exit-code")) {
    ASSIGN_OR_RETURN(const long code, read_number(*value, 1, 255));
    if (code >= 125 && code <= 127)
      return value->bad("125, 126 and 127 mean failures, expected another number", 0);
    exit_code = static_cast<int>(code);
  }
  if (const auto* value = reader.one("path-deadline")) {
    ASSIGN_OR_RETURN(deadline, read_duration(*value));
  }
  if (const auto* value = reader.one("images")) {
    ASSIGN_OR_RETURN(images, absolute_path(*value, value->text));
  }
  if (const auto* value = reader.one("standby")) {
    ASSIGN_OR_RETURN(standby, read_target(*value, true));
  }
  return ok_status();
}

std::vector<std::string> split(std::string_view text, char by) {
  std::vector<std::string> parts;
  while (true) {
    const auto at = text.find(by);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

Status read_warm(const OptionReader& reader, RunOptions& run) {
  WarmRules& warm = run.warm;
  if (const auto* value = reader.one("warm-point")) {
    if (auto s = parse_warm_point(value->text, warm); !s) return value->bad(s.error().message());
  }
  for (const char* needs : {"external", "internal", "warm-deadline", "warm-settle", "refresh"})
    if (const auto* value = reader.one(needs); value && warm.mode == WarmRules::Off)
      return value->bad("means something with --warm-point only");
  for (const OptionValue& value : reader.all("external")) {
    for (const std::string& name : split(value.text, ',')) {
      const auto cls = ref_class_from(name);
      if (!cls) return value.bad(fmt::format("`{}` is none of {}", name, ref_class_names()));
      warm.classes.insert(*cls);
    }
  }
  for (const OptionValue& value : reader.all("internal")) {
    if (value.text.empty()) return value.bad("expected a pattern");
    warm.internal.push_back(value.text);
  }
  if (const auto* value = reader.one("warm-deadline")) {
    ASSIGN_OR_RETURN(warm.deadline, read_duration(*value));
  }
  if (const auto* value = reader.one("warm-settle")) {
    ASSIGN_OR_RETURN(warm.settle, read_duration(*value));
  }
  if (const auto* value = reader.one("refresh")) {
    ASSIGN_OR_RETURN(run.refresh, read_duration(*value));
    if (run.refresh < Millis(1000)) return value->bad("expected at least 1s", 0);
  }
  return ok_status();
}

Status read_run(const OptionReader& reader, const Args& app, Invocation& out) {
  RunOptions& run = out.run;
  if (app.empty())
    return plain_error("no program: expected `-- APP [ARGS...]` after the options");
  if (app.front().empty()) return plain_error("APP '': expected the name of a program after --");
  run.app = app;
  run.name = base_name(app.front());
  if (const auto* value = reader.one("name")) {
    RETURN_IF_ERROR(check_name(*value));
    run.name = value->text;
    run.name_given = true;
  }
  ASSIGN_OR_RETURN(run.paths, read_paths(reader, 16));
  RETURN_IF_ERROR(check_path_dirs(reader, run.paths, out.warnings));
  for (const auto& path : run.paths)
    if (!path.up.empty() && path.dirs.size() == 1)
      out.warnings.push_back(fmt::format(
          "--path-up {}: is never run, the path has no further directory", path.name));
  ASSIGN_OR_RETURN(run.rules, read_rules(reader, run.paths));
  run.observe = reader.has("observe");
  run.take_over = reader.has("take-over");
  if (const auto* value = reader.one("journal")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"content", "ranges", "off"}));
    run.journal = static_cast<JournalMode>(i);
  }
  if (const auto* value = reader.one("journal-limit")) {
    ASSIGN_OR_RETURN(run.journal_limit, read_size(*value));
    if (run.journal_limit < 4096) return value->bad("expected at least 4096 bytes", 0);
  }
  if (const auto* value = reader.one("stub")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"auto", "on", "off"}));
    run.stub = static_cast<StubMode>(i);
  }
  if (const auto* value = reader.one("supervisor-loss")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"keep", "kill"}));
    run.outlive = i == 0;
  }
  RETURN_IF_ERROR(read_warm(reader, run));
  RETURN_IF_ERROR(read_common(reader, run.tcp, run.handover_exit_code, run.path_deadline,
                              run.images_dir, run.standby));
  RETURN_IF_ERROR(read_tls(reader, run.standby, run.tls_dir));
  return read_log(reader, run.log);
}

Status read_second_host(const OptionReader& reader, CommandId id, Invocation& out) {
  StandbyOptions& standby = out.standby;
  if (id == CommandId::Restore) {
    if (reader.operands().empty())
      return plain_error("no image: expected `supervise restore IMAGE`, a directory");
    const OptionValue image{reader.operands().front(), "IMAGE"};
    ASSIGN_OR_RETURN(standby.image, absolute_path(image, image.text));
    struct stat st {};
    if (::stat(standby.image.c_str(), &st) != 0)
      return image.bad(errno_error("directory " + standby.image).message());
    if (!S_ISDIR(st.st_mode)) return image.bad("expected the directory of an image");
  }
  if (const auto* value = reader.one("name")) {
    RETURN_IF_ERROR(check_name(*value));
    standby.name = value->text;
  } else if (id == CommandId::Standby) {
    return plain_error("--name: expected, the application's name as its `run` has it");
  }
  if (const auto* value = reader.one("from")) {
    ASSIGN_OR_RETURN(standby.from, read_target(*value, true));
  } else if (id == CommandId::Standby) {
    if (!reader.one("listen"))
      return plain_error("--from dir:PATH or --listen HOST:PORT: expected one, as --standby of the application's `run` has it");
  }
  if (const auto* value = reader.one("listen")) {
    if (!standby.from.empty()) return value->bad("expected --from or --listen, not both", 0);
    if (auto where = parse_net_address(value->text, true); !where) return value->bad(where.error().what);
    standby.listen = value->text;
  }
  ASSIGN_OR_RETURN(standby.paths, read_paths(reader, 1));
  RETURN_IF_ERROR(check_path_dirs(reader, standby.paths, out.warnings));
  if (const auto* value = reader.one("ready")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"image", "cached", "parked"}));
    standby.ready = static_cast<ReadyLevel>(i);
  }
  if (const auto* value = reader.one("instances")) {
    ASSIGN_OR_RETURN(const long n, read_number(*value, 1, 1000));
    standby.instances = static_cast<int>(n);
  }
  if (const auto* value = reader.one("on-activate")) {
    if (value->text.empty()) return value->bad("expected a shell command", 0);
    standby.on_activate = value->text;
  }
  if (const auto* value = reader.one("on-activate-deadline")) {
    ASSIGN_OR_RETURN(standby.on_activate_deadline, read_duration(*value));
  }
  if (const auto* value = reader.one("activate-signal")) {
    ASSIGN_OR_RETURN(standby.activate_signal, read_signal(*value));
  }
  if (const auto* value = reader.one("activate")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"handover", "command"}));
    standby.activate_on_command = i == 1;
  }
  if (const auto* value = reader.one("drift")) {
    ASSIGN_OR_RETURN(const int i, read_word(*value, {"refuse", "truncate", "accept-appended"}));
    standby.drift = static_cast<DriftPolicy>(i);
  }
  RETURN_IF_ERROR(read_common(reader, standby.tcp, standby.handover_exit_code,
                              standby.path_deadline, standby.images_dir, standby.onward_standby));
  RETURN_IF_ERROR(read_tls(reader, standby.listen.empty() ? standby.onward_standby : standby.listen, standby.tls_dir));
  return read_log(reader, standby.log);
}

Status read_control(const OptionReader& reader, CommandId id, ControlOptions& control) {
  control.timeout = id == CommandId::Status ? Millis(5000) : kControlTime;
  if (!reader.operands().empty()) {
    const OptionValue name{reader.operands().front(), "NAME"};
    RETURN_IF_ERROR(check_name(name));
    control.name = name.text;
  } else if (id != CommandId::Status) {
    return plain_error(fmt::format("no name: expected `supervise {} {}`", command_row(id).name,
                                   command_row(id).synopsis));
  }
  control.json = reader.has("json");
  control.stop = reader.has("stop");
  if (const auto* value = reader.one("to")) {
    ASSIGN_OR_RETURN(control.to, read_target(*value, false));
  }
  if (const auto* value = reader.one("timeout")) {
    ASSIGN_OR_RETURN(control.timeout, read_duration(*value));
  }
  return ok_status();
}

Status read_images(const OptionReader& reader, ImagesOptions& images) {
  struct Action {
    std::string_view name;
    std::size_t least, most;
    std::string_view operands;
  };
  static constexpr Action kActions[] = {
      {"list", 0, 1, "[NAME]"},     {"inspect", 1, 1, "IMAGE"},     {"verify", 1, 1000, "IMAGE..."},
      {"prune", 1, 1, "NAME"},      {"free", 1, 1, "IMAGE"},        {"export", 2, 2, "IMAGE FILE"},
      {"import", 1, 1, "FILE"},
  };
  const auto& words = reader.operands();
  const Action* action = nullptr;
  for (const auto& candidate : kActions)
    if (!words.empty() && words.front() == candidate.name) action = &candidate;
  if (action == nullptr)
    return plain_error(fmt::format("images{}: expected list, inspect, verify, prune, free, export or import",
                                   words.empty() ? "" : " '" + words.front() + "'"));
  images.action = words.front();
  images.operands.assign(words.begin() + 1, words.end());
  if (images.operands.size() < action->least || images.operands.size() > action->most)
    return plain_error(fmt::format("images {}: expected `supervise images {} {}`", action->name,
                                   action->name, action->operands));
  images.json = reader.has("json");
  images.force = reader.has("force");
  images.images_dir = default_images_dir();
  if (const auto* value = reader.one("images")) {
    ASSIGN_OR_RETURN(images.images_dir, absolute_path(*value, value->text));
  }
  if (const auto* value = reader.one("keep")) {
    ASSIGN_OR_RETURN(const long keep, read_number(*value, 1, 1000000));
    images.keep = static_cast<std::size_t>(keep);
  }
  return ok_status();
}

Status read_doctor(const OptionReader& reader, DoctorOptions& doctor) {
  doctor.json = reader.has("json");
  ASSIGN_OR_RETURN(doctor.paths, read_paths(reader, 16));
  if (const auto* value = reader.one("images")) {
    ASSIGN_OR_RETURN(doctor.images_dir, absolute_path(*value, value->text));
  }
  if (const auto* value = reader.one("standby")) {
    ASSIGN_OR_RETURN(doctor.standby, read_target(*value, false));
  }
  doctor.tls_dir = kDefaultTlsDir;
  if (const auto* value = reader.one("tls")) {
    ASSIGN_OR_RETURN(doctor.tls_dir, absolute_path(*value, value->text));
  }
  return ok_status();
}

Status read_keys(const OptionReader& reader, KeysOptions& keys) {
  const auto& words = reader.operands();
  if (words.size() < 2)
    return plain_error("keys: expected `supervise keys DIR HOST...`: a directory for the authority, and the name or "
                       "address of each host as --standby has it");
  keys.dir = words.front();
  keys.hosts.assign(words.begin() + 1, words.end());
  return ok_status();
}

Status read_command(const OptionReader& reader, const Args& app, Invocation& out) {
  switch (out.command) {
    case CommandId::Run: return read_run(reader, app, out);
    case CommandId::Standby:
    case CommandId::Restore: return read_second_host(reader, out.command, out);
    case CommandId::Status:
    case CommandId::Checkpoint:
    case CommandId::Handover:
    case CommandId::Adopt:
    case CommandId::Activate: return read_control(reader, out.command, out.control);
    case CommandId::Images: return read_images(reader, out.images);
    case CommandId::Doctor: return read_doctor(reader, out.doctor);
    case CommandId::Keys: return read_keys(reader, out.keys);
    case CommandId::ListSyscalls:
    case CommandId::Version: out.json = reader.has("json"); return ok_status();
    case CommandId::Completions:
      if (reader.operands() != Args{"bash"}) return plain_error("completions: expected bash");
      return ok_status();
    case CommandId::Help:
      if (reader.operands().empty()) return ok_status();
      out.topic = reader.operands().front();
      if (find_command(out.topic) == nullptr)
        return plain_error(fmt::format("help '{}': no such command", out.topic));
      return ok_status();
    case CommandId::Man: return ok_status();
  }
  return ok_status();
}

Result<CommandId> command_of(const std::string& word) {
  if (word == "--help" || word == "-h") return CommandId::Help;
  if (word == "--version" || word == "-V") return CommandId::Version;
  if (word.starts_with("-")) return CommandId::Run;
  if (const auto* row = find_command(word)) return row->id;
  std::string text = fmt::format("'{}': no such command", word);
  if (const auto near = nearest_command(word); !near.empty())
    text += fmt::format("; did you mean {}?", near);
  return plain_error(text + fmt::format(" To run a program: supervise -- {}", word));
}

}  // namespace

Result<Invocation> parse_command_line(const Args& args) {
  if (args.empty())
    return plain_error("nothing to do: expected `supervise [OPTIONS] -- APP [ARGS...]` or a command "
                       "(supervise --help)");
  Invocation out;
  ASSIGN_OR_RETURN(out.command, command_of(args.front()));
  const bool named = !args.front().starts_with("-") || out.command != CommandId::Run;
  const auto begin = args.begin() + (named ? 1 : 0);
  const auto end = out.command == CommandId::Run ? std::find(begin, args.end(), "--") : args.end();

  ASSIGN_OR_RETURN(const auto reader, OptionReader::read(out.command, Args(begin, end)));
  const auto& row = command_row(out.command);
  if (reader.help()) {
    out.command = CommandId::Help;
    out.topic = row.name;
    return out;
  }
  const auto& operands = reader.operands();
  if (row.operands >= 0 && operands.size() > static_cast<std::size_t>(row.operands)) {
    const auto& extra = operands[static_cast<std::size_t>(row.operands)];
    if (out.command == CommandId::Run)
      return plain_error(fmt::format("'{}': expected an option; the program comes after `--`: "
                                     "supervise [OPTIONS] -- {}", extra, extra));
    return plain_error(fmt::format("'{}': one argument too many, expected `supervise {} {}`", extra,
                                   row.name, row.synopsis));
  }
  RETURN_IF_ERROR(read_command(reader, end == args.end() ? Args{} : Args(end + 1, args.end()), out));
  return out;
}

std::string default_images_dir() {
  if (::geteuid() == 0) return "/var/lib/supervise/images";
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/')
    return std::string(state) + "/supervise/images";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr && home[0] == '/' ? home : "/tmp") +
         "/.local/state/supervise/images";
}

}  // namespace supervise
