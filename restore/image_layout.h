// Names inside a store and an image. Logs of CRIU, its figures and what hosts write to each other
// lie in the image's directory but are not parts of it.
#pragma once

#include <string>
#include <vector>

#include "supervisor/base/result.h"

namespace supervise {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kCommitName = "commit.json";
inline constexpr const char* kClaimName = "claim.json";
inline constexpr const char* kClaimPrefix = "claim-";  // of further instances: claim-2.json...
inline constexpr const char* kDumpLog = "dump.log";
inline constexpr const char* kRestoreLog = "restore.log";
inline constexpr const char* kDumpStats = "stats-dump";
inline constexpr const char* kRestoreStats = "stats-restore";
inline constexpr const char* kPidFile = "restore.pid";

// As an application sees it, in every world (supervisor/world.h); never a file of a host.
inline constexpr const char* kGenerationDir = "/run/supervise.app";
inline constexpr const char* kGenerationFile = "/run/supervise.app/generation";

// Whether the manifest must list a file of this name. Hidden names never are parts: CRIU reads none.
bool is_part_name(const std::string& name);

// Sorted, without "." and "..".
Result<std::vector<std::string>> names_in(const std::string& dir);

// A hidden name beside `path` that no other process of any host makes.
std::string temp_name_for(const std::string& path);

}  // namespace supervise
