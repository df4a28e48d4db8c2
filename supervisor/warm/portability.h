// What an image has already taken from its host before the warm point, as advice: a copy that wakes
// elsewhere, or many copies of one image, go on with it. Seen at calls that are trapped anyway,
// and in /proc when the image is made. What can't be seen: clocks (vDSO), CPUID, getauxval(3).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace supervise {

// Severity "warning": copies may be insecure or wrong; "advice": worth a look; "info": to know.
struct PortabilityFact {
  std::string what;      // "randomness", "host-name", "machine-id", "file"...
  std::string severity;
  std::string text;      // what was taken, and what to do about it
};

class PortabilityLog {
 public:
  void saw_random(std::uint64_t bytes);
  void saw_uname();
  void saw_interfaces();
  void saw_open(const std::string& name, int flags);

  // With what /proc tells of these processes now. `declared`: directories of storage paths.
  std::vector<PortabilityFact> report(const std::vector<pid_t>& processes,
                                      const std::vector<std::string>& declared) const;

 private:
  std::uint64_t random_bytes_ = 0;
  bool uname_ = false, interfaces_ = false;
  std::set<std::string> host_files_;  // of those that describe the host
  std::set<std::string> pid_files_;
};

// The host's identity that reading this file takes: "machine-id", "time zone"...; "" for others.
std::string_view host_fact_of_file(std::string_view name);
// GNU build id of an ELF file as hexadecimal digits; "" when it has none.
std::string build_id_of(const std::string& file);

}  // namespace supervise
