// What an image is and what it needs: written last, as JSON, beside CRIU's files. Pure.
// A host refuses an image whose manifest is missing, of an unknown major version, or does not
// match the files by SHA-256.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise {

struct ImagePart {
  std::string name;
  std::uint64_t size = 0;
  std::string sha256;
};

struct ImagePath {
  std::string name;   // of the storage path
  std::string place;  // directory at which the application sees it
};

struct ImageThread {
  int pid = 0, tid = 0;  // inside the world
  std::string comm;
  std::string where;     // the call it is in, or "user code"
  std::string reason;    // why it was there, in words: "stopped before connect: tcp 10.0.0.1:5432"
  std::string ref_class; // of the external reference before which it stopped; empty: none
  std::string peer;
  std::vector<std::string> stack;  // where it stopped, innermost first; empty when not known
};

// What the image has taken from its host before it was made: advice for who wakes copies of it.
struct ImageFact {
  std::string what, severity, text;
};

// A regular file that the image has open or mapped below a storage path, and what it was then.
struct ImageFile {
  std::string path;      // as the application sees it
  std::uint64_t size = 0;
  std::string sha256;    // of the content at the dump; empty when not taken (too large)
};

struct ImageStdio {
  int fd = 0;            // 0, 1 or 2
  std::string kind;      // "pipe", "file", "tty", "other"
  std::string id;        // as in ExternalFile::id
};

struct Manifest {
  static constexpr int kVersion = 1;
  int version = kVersion;
  std::string supervise_version, criu_version, kernel, machine;
  std::string app_name;
  std::vector<std::string> command;
  std::uint64_t generation = 0;
  std::uint64_t epoch = 0;
  std::string origin_host;
  std::string reason;                  // "handover", "checkpoint", "warm"
  std::int64_t created_unix_ns = 0;
  std::int64_t error_unix_ns = 0;      // when the first error was intercepted; 0: none
  int root_pid = 0;
  std::vector<ImagePath> paths;
  std::vector<ImageThread> threads;
  std::vector<ImageFile> files;
  std::vector<ImageStdio> stdio;
  std::vector<ImageFact> portability;
  std::vector<ImagePart> parts;
  std::vector<std::string> cpu_flags;
  std::string run_options;             // JSON of what `run` was told (rules, journal...), opaque here
  std::string state;                   // JSON of the supervisor's carried state, opaque here
  double freeze_ms = 0, dump_ms = 0;

  std::string to_json() const;
  // Errors name the missing or wrong member.
  static Result<Manifest> from_json(const std::string& text);
};

}  // namespace supervise
