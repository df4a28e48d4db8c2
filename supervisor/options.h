// The command line and the configuration file, parsed into immutable values. One set of option
// tables (options.cpp) gives parsing, --help, the manual and the completions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "supervisor/policy.h"

namespace supervise {

struct PathSpec {
  std::string name;
  std::vector<std::string> dirs;  // absolute, FIRST first; for standby and restore one directory
  std::string up;                 // --path-up command, empty when none
  std::string down;               // --path-down command
};

enum class JournalMode { Content, Ranges, Off };
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
  std::vector<PathSpec> paths;
  std::vector<Rule> rules;
  bool observe = false;
  JournalMode journal = JournalMode::Content;
  std::uint64_t journal_limit = 256ull << 20;
  std::string images_dir;       // --images
  std::string standby;          // dir:PATH or HOST:PORT; empty: none
  TcpPolicy tcp = TcpPolicy::Keep;
  LogOptions log;
  int handover_exit_code = 113;
  Millis path_deadline{30000};  // --path-deadline: path-up/down and the switch of a path
  std::vector<std::string> app;  // program and arguments
};

struct StandbyOptions {  // standby, restore
  std::string name;
  std::string from;             // dir:PATH
  std::string image;            // restore IMAGE
  std::vector<PathSpec> paths;  // this host's way to each path of the image
  ReadyLevel ready = ReadyLevel::Image;
  bool activate_on_command = false;
  DriftPolicy drift = DriftPolicy::Refuse;
  TcpPolicy tcp = TcpPolicy::Keep;
  LogOptions log;
  int handover_exit_code = 113;
  std::string onward_standby;   // --standby of restore/standby: where this host hands over to
  std::string images_dir;
};

}  // namespace supervise
