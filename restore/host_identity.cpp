#include "restore/host_identity.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

#include "restore/identity_members.h"
#include "restore/image_store.h"

namespace supervise {
namespace {

std::string this_host() {
  if (const char* id = getenv("SUPERVISE_HOST_ID"); id && *id) return id;
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0 || !*name) return "localhost";
  return name;
}

std::string this_boot() {
  std::string id = read_small_file("/proc/sys/kernel/random/boot_id").value_or("");
  while (!id.empty() && (id.back() == '\n' || id.back() == ' ')) id.pop_back();
  return id;
}

std::uint64_t this_pid_namespace() {
  struct stat st{};
  return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

}  // namespace

std::optional<std::uint64_t> start_time_of(int pid) {
  auto text = read_small_file(fmt::format("/proc/{}/stat", pid));
  if (!text) return std::nullopt;
  // "pid (comm) state ...": comm may hold spaces and parentheses.
  auto close = text->rfind(')');
  if (close == std::string::npos || close + 2 >= text->size()) return std::nullopt;
  char state = (*text)[close + 2];
  if (state == 'Z' || state == 'X') return std::nullopt;
  const char* p = text->c_str() + close + 2;
  for (int field = 3; field < 22; ++field) {
    while (*p && *p != ' ') ++p;
    while (*p == ' ') ++p;
  }
  char* end = nullptr;
  auto value = strtoull(p, &end, 10);
  if (end == p) return std::nullopt;
  return value;
}

HostIdentity HostIdentity::self() {
  HostIdentity id;
  id.host = this_host();
  id.boot_id = this_boot();
  id.pid = getpid();
  id.start_time = start_time_of(id.pid).value_or(0);
  id.pid_namespace = this_pid_namespace();
  return id;
}

Liveness liveness_of(const HostIdentity& who) {
  if (who.host != this_host()) return Liveness::Unknown;
  // Two machines may bear one name: another boot id proves nothing.
  if (who.boot_id.empty() || who.boot_id != this_boot()) return Liveness::Unknown;
  if (who.pid_namespace != this_pid_namespace()) return Liveness::Unknown;
  auto now = start_time_of(who.pid);
  return now && *now == who.start_time ? Liveness::Alive : Liveness::Gone;
}

bool same_process(const HostIdentity& a, const HostIdentity& b) {
  return a.host == b.host && a.boot_id == b.boot_id && a.pid == b.pid &&
         a.start_time == b.start_time && a.pid_namespace == b.pid_namespace;
}

std::string describe(const HostIdentity& who) {
  return fmt::format("host {}, pid {}", who.host, who.pid);
}

std::string identity_to_json(const HostIdentity& who) { return json_io::write_object(who); }

Result<HostIdentity> identity_from_json(const std::string& what, const std::string& text) {
  return json_io::read_object<HostIdentity>(what, text);
}

std::int64_t unix_now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_REALTIME, &ts);
  return ts.tv_sec * 1'000'000'000ll + ts.tv_nsec;
}

}  // namespace supervise
