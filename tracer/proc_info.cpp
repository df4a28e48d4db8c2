#include "tracer/proc_info.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "supervisor/base/unique_fd.h"

namespace supervise {
namespace {

std::vector<long> numeric_entries(const std::string& dir) {
  std::vector<long> out;
  DIR* d = opendir(dir.c_str());
  if (!d) return out;
  while (const dirent* e = readdir(d)) {
    char* end = nullptr;
    const long n = strtol(e->d_name, &end, 10);
    if (end != e->d_name && *end == 0) out.push_back(n);
  }
  closedir(d);
  std::sort(out.begin(), out.end());
  return out;
}

std::string_view next_line(std::string_view& rest) {
  const auto nl = rest.find('\n');
  std::string_view line = rest.substr(0, nl);
  rest = nl == std::string_view::npos ? "" : rest.substr(nl + 1);
  return line;
}

bool value_of(std::string_view line, std::string_view key, std::string_view& value) {
  if (!line.starts_with(key)) return false;
  value = line.substr(key.size());
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  return true;
}

std::uint64_t number(std::string_view text, int base = 10) {
  std::uint64_t n = 0;
  std::from_chars(text.data(), text.data() + text.size(), n, base);
  return n;
}

}  // namespace

Result<std::string> read_proc_file(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error("open " + path);
  std::string text;
  char chunk[8192];
  for (;;) {
    const ssize_t n = read(fd.get(), chunk, sizeof chunk);
    if (n < 0) return errno_error("read " + path);
    if (n == 0) return text;
    text.append(chunk, static_cast<std::size_t>(n));
  }
}

Result<TaskStatus> task_status(pid_t tid) {
  ASSIGN_OR_RETURN(const std::string text, read_proc_file(fmt::format("/proc/{}/status", tid)));
  TaskStatus s;
  std::string_view rest = text, v;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    if (value_of(line, "Name:", v)) s.name = v;
    else if (value_of(line, "State:", v) && !v.empty()) s.state = v[0];
    else if (value_of(line, "Tgid:", v)) s.tgid = static_cast<pid_t>(number(v));
    else if (value_of(line, "PPid:", v)) s.ppid = static_cast<pid_t>(number(v));
    else if (value_of(line, "TracerPid:", v)) s.tracer = static_cast<pid_t>(number(v));
    else if (value_of(line, "SigPnd:", v)) s.pending = number(v, 16);
    else if (value_of(line, "ShdPnd:", v)) s.shared_pending = number(v, 16);
    else if (value_of(line, "SigBlk:", v)) s.blocked = number(v, 16);
    else if (value_of(line, "SigIgn:", v)) s.ignored = number(v, 16);
    else if (value_of(line, "SigCgt:", v)) s.caught = number(v, 16);
    else if (value_of(line, "CapEff:", v)) s.cap_eff = number(v, 16);
    else if (value_of(line, "Seccomp:", v)) s.seccomp_mode = static_cast<int>(number(v));
    else if (value_of(line, "Uid:", v)) {
      unsigned r = 0, e = 0;
      sscanf(std::string(v).c_str(), "%u %u", &r, &e);
      s.uid = r;
      s.euid = e;
    } else if (value_of(line, "NSpid:", v)) {
      while (!v.empty()) {
        s.ns_pid.push_back(static_cast<pid_t>(number(v)));
        const auto tab = v.find('\t');
        v = tab == std::string_view::npos ? "" : v.substr(tab + 1);
      }
    }
  }
  return s;
}

char task_state(pid_t tid) {
  auto text = read_proc_file(fmt::format("/proc/{}/stat", tid));
  if (!text) return '?';
  const auto paren = text->rfind(')');
  if (paren == std::string::npos || paren + 2 >= text->size()) return '?';
  return (*text)[paren + 2];
}

std::string task_name(pid_t tid) {
  auto text = read_proc_file(fmt::format("/proc/{}/comm", tid));
  if (!text) return "?";
  std::string name = text.take();
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return name;
}

std::vector<pid_t> threads_of(pid_t pid) {
  std::vector<pid_t> out;
  for (long n : numeric_entries(fmt::format("/proc/{}/task", pid)))
    out.push_back(static_cast<pid_t>(n));
  return out;
}

std::vector<pid_t> process_tree_of(pid_t root) {
  std::vector<pid_t> out{root};
  for (std::size_t i = 0; i < out.size(); ++i) {
    for (pid_t tid : threads_of(out[i])) {
      auto text = read_proc_file(fmt::format("/proc/{}/task/{}/children", out[i], tid));
      if (!text) continue;
      const char* p = text->c_str();
      char* end = nullptr;
      for (long n = strtol(p, &end, 10); end != p; n = strtol(p, &end, 10)) {
        out.push_back(static_cast<pid_t>(n));
        p = end;
      }
    }
  }
  return out;
}

std::vector<pid_t> roots_among(const std::set<pid_t>& processes) {
  std::vector<pid_t> roots;
  for (pid_t pid : processes) {
    auto status = task_status(pid);
    if (status && status->state != 'Z' && !processes.contains(status->ppid)) roots.push_back(pid);
  }
  return roots;
}

FdInfo parse_fdinfo(std::string_view text) {
  FdInfo info;
  std::string_view rest = text, v;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    if (value_of(line, "pos:", v)) info.pos = number(v);
    else if (value_of(line, "flags:", v)) info.flags = static_cast<int>(number(v, 8));
    else if (value_of(line, "mnt_id:", v)) info.mnt_id = number(v);
    else if (value_of(line, "ino:", v)) info.ino = number(v);
    else if (value_of(line, "lock:", v)) {
      char id[32], kind[16], how[16], mode[16], file[64], end[32];
      int pid = 0;
      unsigned long long start = 0;
      if (sscanf(std::string(v).c_str(), "%31s %15s %15s %15s %d %63s %llu %31s", id, kind, how,
                 mode, &pid, file, &start, end) != 8)
        continue;
      LockInfo lock;
      if (!strcmp(kind, "POSIX")) lock.kind = LockInfo::Posix;
      else if (!strcmp(kind, "FLOCK")) lock.kind = LockInfo::Flock;
      else if (!strcmp(kind, "OFDLCK")) lock.kind = LockInfo::Ofd;
      else lock.kind = LockInfo::Lease;
      lock.write = !strcmp(mode, "WRITE");
      lock.pid = pid;
      lock.start = start;
      if (strcmp(end, "EOF") != 0) lock.end = number(end);
      info.locks.push_back(lock);
    }
  }
  return info;
}

Result<FdInfo> fd_info(pid_t tid, int fd) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", tid, fd);
  ASSIGN_OR_RETURN(const std::string text, read_proc_file(path));
  return parse_fdinfo(text);
}

std::vector<int> fds_of(pid_t tid) {
  std::vector<int> out;
  for (long n : numeric_entries(fmt::format("/proc/{}/fd", tid))) out.push_back(static_cast<int>(n));
  return out;
}

namespace {
Result<std::string> read_link(const char* path) {
  std::string target(256, 0);
  for (;;) {
    const ssize_t n = readlink(path, target.data(), target.size());
    if (n < 0) return errno_error(std::string("readlink ") + path);
    if (static_cast<std::size_t>(n) < target.size()) {
      target.resize(static_cast<std::size_t>(n));
      return target;
    }
    target.resize(target.size() * 4);
  }
}
}  // namespace

Result<std::string> fd_link(pid_t tid, int fd) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", tid, fd);
  return read_link(path);
}

Result<std::string> proc_link(pid_t tid, const char* what) {
  return read_link(fmt::format("/proc/{}/{}", tid, what).c_str());
}

bool strip_deleted(std::string& path) {
  constexpr std::string_view mark = " (deleted)";
  if (!path.ends_with(mark)) return false;
  path.resize(path.size() - mark.size());
  return true;
}

std::optional<Vma> parse_maps_line(std::string_view line) {
  Vma v;
  char perms[5] = {};
  unsigned long long start = 0, end = 0, offset = 0, ino = 0;
  int used = 0;
  const std::string text(line);
  if (sscanf(text.c_str(), "%llx-%llx %4s %llx %x:%x %llu%n", &start, &end, perms, &offset,
             &v.dev_major, &v.dev_minor, &ino, &used) < 7)
    return std::nullopt;
  v.start = start;
  v.end = end;
  v.offset = offset;
  v.ino = ino;
  v.read = perms[0] == 'r';
  v.write = perms[1] == 'w';
  v.exec = perms[2] == 'x';
  v.shared = perms[3] == 's';
  std::size_t at = static_cast<std::size_t>(used);
  while (at < text.size() && text[at] == ' ') ++at;
  v.path = text.substr(at);
  // maps escapes newlines in names as \012 (seq_file).
  for (std::size_t p = 0; (p = v.path.find("\\012", p)) != std::string::npos; ++p)
    v.path.replace(p, 4, "\n");
  v.deleted = v.ino != 0 && strip_deleted(v.path);
  return v;
}

Result<std::vector<Vma>> maps_of(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string text, read_proc_file(fmt::format("/proc/{}/maps", pid)));
  std::vector<Vma> out;
  std::string_view rest = text;
  while (!rest.empty()) {
    if (auto v = parse_maps_line(next_line(rest))) out.push_back(std::move(*v));
  }
  return out;
}

}  // namespace supervise
