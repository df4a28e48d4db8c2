// The command line and the configuration file, parsed into immutable values. One set of option
// tables (options.cpp) gives parsing, --help, the manual and the completions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "supervisor/policy.h"
#include "supervisor/warm/reference.h"

namespace supervise {

struct PathSpec {
  std::string name;
  std::vector<std::string> dirs;  // absolute, FIRST first; for standby and restore one directory
  std::string up;                 // --path-up command, empty when none
  std::string down;               // --path-down command
};

enum class JournalMode { Content, Ranges, Off };
enum class StubMode { Auto, On, Off };  // calls made in process; On: warn when they can't be
enum class LogFormat { Text, Json };
enum class LogLevel { Error, Warn, Info, Debug };
enum class TcpPolicy { Keep, Close, Reset };
enum class DriftPolicy { Refuse, Truncate, AcceptAppended };
enum class ReadyLevel { Image, Cached, Parked };

struct LogOptions {
  std::string events_file;  // --events FILE, empty: none
  LogFormat format = LogFormat::Text;
  LogLevel level = LogLevel::Info;
  std::string metrics;
  std::string trace;
};

struct RunOptions {
  std::string name;
  bool name_given = false;  // otherwise the program's base name
  std::vector<PathSpec> paths;
  std::vector<Rule> rules;
  bool observe = false;
  JournalMode journal = JournalMode::Content;
  std::uint64_t journal_limit = 256ull << 20;
  StubMode stub = StubMode::Auto;
  bool outlive = true;  // --supervisor-loss keep
  std::string images_dir;       // --images
  std::string standby;          // dir:PATH or HOST:PORT; empty: none
  std::string tls_dir;          // --tls: ca.pem, cert.pem, key.pem
  TcpPolicy tcp = TcpPolicy::Keep;
  LogOptions log;
  int handover_exit_code = 113;
  Millis path_deadline{30000};  // --path-deadline: path-up/down and the switch of a path
  bool take_over = false;       // --take-over: although another host has the application
  WarmRules warm;
  Millis refresh{0};            // --refresh; 0: never
  std::vector<std::string> app;  // program and arguments
};

struct StandbyOptions {  // standby, restore
  std::string name;
  std::string from;             // dir:PATH; with --listen the local store
  std::string listen;           // --listen HOST:PORT, empty: none
  std::string tls_dir;          // --tls
  std::string image;            // restore IMAGE
  std::vector<PathSpec> paths;  // this host's way to each path of the image
  ReadyLevel ready = ReadyLevel::Image;
  bool activate_on_command = false;
  int instances = 1;            // --instances: activations of one warm image
  std::string on_activate;      // --on-activate, empty: none
  Millis on_activate_deadline{300000};
  int activate_signal = 0;      // --activate-signal, 0: none
  DriftPolicy drift = DriftPolicy::Refuse;
  TcpPolicy tcp = TcpPolicy::Keep;
  LogOptions log;
  int handover_exit_code = 113;
  std::string onward_standby;   // --standby of restore/standby: where this host hands over to
  std::string images_dir;
  Millis path_deadline{30000};  // --path-deadline
};

inline constexpr Millis kControlTime{600000};  // how long an answer may take by default

struct ControlOptions {  // status, checkpoint, handover, adopt, activate
  std::string name;      // empty for status: all that run here
  bool json = false;
  bool stop = false;     // checkpoint --stop
  std::string to;        // handover --to
  Millis timeout{0};     // how long the answer may take
};

struct ImagesOptions {
  std::string action;                 // list, inspect, verify, prune, free, export, import
  std::vector<std::string> operands;
  std::string images_dir;             // absolute; the default when --images is not given
  std::size_t keep = 3;               // prune
  bool force = false;                 // free
  bool json = false;
};

struct DoctorOptions {
  bool json = false;
  std::vector<PathSpec> paths;  // not checked for existence: the probes tell
  std::string images_dir;
  std::string standby, tls_dir;
};

struct KeysOptions {
  std::string dir;
  std::vector<std::string> hosts;
};

enum class CommandId {
  Run, Standby, Restore, Activate, Status, Checkpoint, Handover, Adopt, Images, Doctor, Keys, ListSyscalls,
  Completions, Man, Version, Help,
};

struct Invocation {
  CommandId command = CommandId::Help;
  RunOptions run;
  StandbyOptions standby;  // Standby and Restore
  ControlOptions control;
  ImagesOptions images;
  DoctorOptions doctor;
  KeysOptions keys;
  std::string topic;       // Help: command, or empty; Completions: shell
  bool json = false;       // ListSyscalls, Version
  std::vector<std::string> warnings;  // to be logged before the application starts
};

// `args` without the program's name. Looks at the file system (directories of --path, --standby,
// --from must exist). The error names the option, the place in its text and what was expected.
Result<Invocation> parse_command_line(const std::vector<std::string>& args);

// /var/lib/supervise/images for root, otherwise $XDG_STATE_HOME or ~/.local/state below.
std::string default_images_dir();

}  // namespace supervise
