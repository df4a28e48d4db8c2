// What a manifest records of the host that made an image: uname(2), the CPU's flags as
// /proc/cpuinfo lists them, and the version that CRIU itself prints.
#pragma once

#include <string>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"

namespace supervise {

struct HostFacts {
  std::string kernel;     // release, "6.18.44"
  std::string machine;    // "x86_64"
  std::string host;
  std::vector<std::string> cpu_flags;  // sorted, of the first processor; empty when unknown
};

HostFacts host_facts();
// The flags in a text in the form of /proc/cpuinfo.
std::vector<std::string> cpu_flags_in(const std::string& cpuinfo);
// Those that the image's host had and this one lacks: an image may use any of them.
std::vector<std::string> missing_flags(const std::vector<std::string>& image,
                                       const std::vector<std::string>& here);

// Runs `binary --version`: "4.2.1". Errors name the program and what it said or how it ended.
Result<std::string> criu_version(const std::string& binary, Deadline deadline);

}  // namespace supervise
