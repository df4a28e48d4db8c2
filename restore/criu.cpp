#include "restore/criu.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "restore/criu_report.h"
#include "restore/image_layout.h"
#include "supervisor/base/fault_point.h"
#include "supervisor/base/unique_fd.h"

#ifndef SUPERVISE_CRIU_DEFAULT
#define SUPERVISE_CRIU_DEFAULT "/opt/supervise/criu/sbin/criu"
#endif
// CRIU's RUNDIR, chosen when it is built: on a tmpfs it keeps its kernel probes there.
#ifndef SUPERVISE_CRIU_RUNDIR
#define SUPERVISE_CRIU_RUNDIR "/dev/shm/supervise"
#endif

namespace supervise {
namespace {

constexpr int kImageFd = 9;        // their numbers inside CRIU
constexpr int kWorkFd = 8;
constexpr int kFirstInherited = 10;

bool is_program(const std::string& path) {
  struct stat st{};
  return stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) && access(path.c_str(), X_OK) == 0;
}

std::string in_path(const std::string& name) {
  const char* path = getenv("PATH");
  std::string_view rest = path ? path : "";
  while (!rest.empty()) {
    auto colon = rest.find(':');
    std::string dir(rest.substr(0, colon));
    rest = colon == std::string_view::npos ? "" : rest.substr(colon + 1);
    if (dir.starts_with("/") && is_program(dir + "/" + name)) return dir + "/" + name;
  }
  return {};
}

std::vector<std::string> common_options(const char* log, TcpPolicy tcp) {
  return {"-D", fmt::format("/proc/self/fd/{}", kImageFd), "-o", log, "-v4", "--no-default-config",
          "--shell-job", "--manage-cgroups=ignore", "--file-locks",
          // No firewall rules: the original shares its network with the host, which would keep them
          // when it never comes back, and iptables may be missing.
          "--network-lock", "skip",
          // The kernel itself resets what is left when the original ends: Reset needs no more.
          tcp == TcpPolicy::Keep ? "--tcp-established" : "--tcp-close"};
}

std::string read_at(int dir, const char* name) {
  UniqueFd fd(openat(dir, name, O_RDONLY | O_CLOEXEC));
  std::string out;
  char buffer[1 << 16];
  for (;;) {
    ssize_t n = fd ? read(fd.get(), buffer, sizeof buffer) : 0;
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
  }
}

std::string read_from_start(int fd) {
  std::string out;
  char buffer[4096];
  for (ssize_t n; (n = pread(fd, buffer, sizeof buffer, static_cast<off_t>(out.size()))) > 0;) {
    out.append(buffer, static_cast<std::size_t>(n));
  }
  return out;
}

struct Call {
  const char* name;   // "dump", "restore"
  const char* log;
  int log_dir;
};

Status run_criu(ProcessRunner& runner, ProcessSpec spec, const Call& call, Deadline deadline) {
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) return errno_error("open /dev/null");
  // What CRIU says before it has its log.
  UniqueFd said(memfd_create("criu-output", MFD_CLOEXEC));
  if (!said) return errno_error("memfd_create");
  spec.fds.insert(spec.fds.end(), {{null.get(), 0}, {said.get(), 1}, {said.get(), 2}});
  mkdir(SUPERVISE_CRIU_RUNDIR, 0700);  // without it CRIU probes anew each time, which is all
  auto end = runner.run(spec, deadline);
  if (end && end->success()) return {};
  std::string why = criu_telling_lines(read_at(call.log_dir, call.log));
  if (why.empty()) why = criu_telling_lines(read_from_start(said.get()));
  std::string what = fmt::format("criu {}", call.name);
  if (!end) {
    what += fmt::format(": {}", end.error().what);
  } else {
    what += fmt::format(": {}", end->describe());
  }
  what += why.empty() ? fmt::format(" (nothing in {})", call.log) : fmt::format(": {}", why);
  return Error{end ? 0 : end.error().err, what};
}

}  // namespace

Result<Criu> Criu::find(const std::string& binary) {
  Criu criu;
  auto use = [&](const std::string& path) {
    criu.binary_ = path;
    return criu;
  };
  const char* env = getenv("SUPERVISE_CRIU");
  std::string told = !binary.empty() ? binary : env ? env : "";
  if (!told.empty()) {
    if (is_program(told)) return use(told);
    return errno_error(ENOENT, fmt::format("CRIU: {} is not a program{}", told,
                                           binary.empty() ? " (SUPERVISE_CRIU names it)" : ""));
  }
  if (is_program(SUPERVISE_CRIU_DEFAULT)) return use(SUPERVISE_CRIU_DEFAULT);
  if (std::string path = in_path("criu"); !path.empty()) return use(path);
  return errno_error(ENOENT, fmt::format("CRIU is neither {} nor in PATH: run scripts/setup.sh, or let "
                                         "SUPERVISE_CRIU name the program", SUPERVISE_CRIU_DEFAULT));
}

Millis Criu::deadline() {
  const char* env = getenv("SUPERVISE_CRIU_DEADLINE");
  const int seconds = env ? atoi(env) : 0;
  return Millis(seconds > 0 ? seconds * 1000 : 120000);
}

Result<Criu::DumpFigures> Criu::dump(ProcessRunner& runner, const DumpRequest& request,
                                     Deadline deadline) const {
  ProcessSpec spec;
  spec.argv = {binary_, "dump", "-t", std::to_string(request.root_pid)};
  auto options = common_options(kDumpLog, request.tcp);
  spec.argv.insert(spec.argv.end(), options.begin(), options.end());
  spec.argv.insert(spec.argv.end(), {"--link-remap", "--ghost-limit", std::to_string(request.ghost_limit)});
  if (request.leave_stopped) spec.argv.push_back("--leave-stopped");
  for (const auto& id : request.external) spec.argv.insert(spec.argv.end(), {"--external", id});
  spec.fds = {{request.image_dir_fd, kImageFd}};
  unlinkat(request.image_dir_fd, kDumpStats, 0);
  RETURN_IF_ERROR(fault_point("criu.dump"));
  RETURN_IF_ERROR(run_criu(runner, spec, {"dump", kDumpLog, request.image_dir_fd}, deadline));
  RETURN_IF_ERROR(fault_point("criu.dumped"));
  // The figures are for the operator only: a dump without them is as good.
  return criu_dump_figures(read_at(request.image_dir_fd, kDumpStats)).value_or(DumpFigures{});
}

Result<int> Criu::restore(ProcessRunner& runner, const RestoreRequest& request,
                          Deadline deadline) const {
  int work = request.work_dir_fd >= 0 ? request.work_dir_fd : request.image_dir_fd;
  ProcessSpec spec;
  spec.argv = {binary_, "restore"};
  auto options = common_options(kRestoreLog, request.tcp);
  spec.argv.insert(spec.argv.end(), options.begin(), options.end());
  spec.argv.insert(spec.argv.end(), {"-W", fmt::format("/proc/self/fd/{}", kWorkFd), "-d", "--restore-sibling",
                                     "--leave-stopped", "--pidfile", kPidFile});
  spec.fds = {{request.image_dir_fd, kImageFd}, {work, kWorkFd}};
  int number = kFirstInherited;
  for (const auto& file : request.inherit) {
    spec.argv.insert(spec.argv.end(), {"--inherit-fd", fmt::format("fd[{}]:{}", number, file.id)});
    spec.fds.emplace_back(file.fd, number++);
  }
  // CRIU makes it anew or fails.
  if (unlinkat(work, kPidFile, 0) != 0 && errno != ENOENT) {
    return errno_error(fmt::format("remove the former {}", kPidFile));
  }
  RETURN_IF_ERROR(fault_point("criu.restore"));
  RETURN_IF_ERROR(run_criu(runner, spec, {"restore", kRestoreLog, work}, deadline));
  RETURN_IF_ERROR(fault_point("criu.restored"));
  std::string text = read_at(work, kPidFile);
  int pid = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (ec != std::errc() || pid <= 0) {
    return plain_error(fmt::format("criu restore: {} does not hold a PID but \"{}\"", kPidFile, text));
  }
  unlinkat(work, kPidFile, 0);
  return pid;
}

}  // namespace supervise
