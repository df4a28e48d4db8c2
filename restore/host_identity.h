// Who a process is, across hosts and boots, and whether it still lives. A verdict is only possible
// for a process of this host, this boot and this PID namespace (proc_pid_stat(5), field 22).
#pragma once

#include <optional>

#include "restore/ownership.h"

namespace supervise {

// Field 22 of /proc/PID/stat; nothing when the process is gone or a zombie.
std::optional<std::uint64_t> start_time_of(int pid);

enum class Liveness { Alive, Gone, Unknown };  // Unknown: other host, boot or PID namespace
Liveness liveness_of(const HostIdentity& who);

bool same_process(const HostIdentity& a, const HostIdentity& b);
std::string describe(const HostIdentity& who);  // "host b, pid 42"

// As it is written into the small files.
std::string identity_to_json(const HostIdentity& who);
Result<HostIdentity> identity_from_json(const std::string& what, const std::string& text);

std::int64_t unix_now_ns();

}  // namespace supervise
