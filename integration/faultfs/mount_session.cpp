#include "integration/faultfs/mount_session.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include <fmt/format.h>

#include "integration/faultfs/control.h"

namespace supervise::faults {
namespace {

int complain(const std::string& what) {
  fmt::print(stderr, "{}: {}\n", what, std::strerror(errno));
  return 1;
}

// -1 with errno set when it can't be opened or entered.
int enter_mount_ns(const std::string& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int result = ::setns(fd, CLONE_NEWNS);
  int saved = errno;
  ::close(fd);
  errno = saved;
  return result;
}

}  // namespace

std::optional<DaemonOptions> parse_daemon_options(const std::vector<std::string>& args,
                                                  std::string_view source_word) {
  DaemonOptions o;
  auto source_option = fmt::format("--{}", source_word);
  for (std::size_t i = 0; i < args.size(); ++i) {
    const auto& word = args[i];
    if (word == "--writeback") {
      o.writeback = true;
      continue;
    }
    if (word == "--direct-io") {
      o.direct_io = true;
      continue;
    }
    if (i + 1 >= args.size()) {
      fmt::print(stderr, "{}: unknown option, or its value is missing\n", word);
      return {};
    }
    const auto& value = args[++i];
    if (word == source_option)
      o.source = value;
    else if (word == "--mount")
      o.mount_point = value;
    else if (word == "--socket")
      o.socket = value;
    else if (word == "--mount-ns")
      o.mount_ns = value;
    else if (word == "--outside-ns")
      o.outside_ns = value;
    else if (word == "--type")
      o.type = value;
    else if (word == "--lifetime")
      o.lifetime = static_cast<unsigned>(std::strtoul(value.c_str(), nullptr, 10));
    else if (word == "--cache")
      o.cache_seconds = std::strtod(value.c_str(), nullptr);
    else {
      fmt::print(stderr, "{}: unknown option\n", word);
      return {};
    }
  }
  if (o.source.empty() || o.mount_point.empty() || o.socket.empty()) {
    fmt::print(stderr,
               "usage: {} PATH --mount DIR --socket PATH [--mount-ns FILE] [--outside-ns FILE]\n"
               "       [--writeback] [--direct-io] [--cache SECONDS] [--lifetime SECONDS] [--type NAME]\n"
               "   or: ctl SOCKET COMMAND [WORD...]\n",
               source_option);
    return {};
  }
  return o;
}

int run_daemon(const DaemonOptions& o, const char* type, const fuse_lowlevel_ops& ops,
               void* user_data, FaultRules& rules, bool default_permissions) {
  std::signal(SIGPIPE, SIG_IGN);
  // A terminal's ^C ends the test first, which then unmounts; the daemon must outlive that.
  std::signal(SIGINT, SIG_IGN);
  // Callers of a daemon that hangs sleep beyond SIGKILL; its end is what frees them.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::alarm(o.lifetime);
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  ::umask(0);

  int outside = -1;
  if (!o.outside_ns.empty()) {
    outside = ::open(o.outside_ns.c_str(), O_RDONLY | O_CLOEXEC);
    if (outside < 0) return complain(o.outside_ns);
  }
  int listener = listen_control(o.socket);
  if (listener < 0) return complain(o.socket);
  if (!o.mount_ns.empty() && enter_mount_ns(o.mount_ns) != 0) return complain(o.mount_ns);

  int device = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (device < 0) return complain("/dev/fuse");
  struct stat root {};
  if (::stat(o.mount_point.c_str(), &root) != 0) return complain(o.mount_point);
  auto data = fmt::format("fd={},rootmode={:o},user_id=0,group_id=0,allow_other{}", device,
                          root.st_mode & S_IFMT, default_permissions ? ",default_permissions" : "");
  auto fs_type = fmt::format("fuse.{}", o.type.empty() ? type : o.type.c_str());
  if (::mount(type, o.mount_point.c_str(), fs_type.c_str(), MS_NOSUID | MS_NODEV, data.c_str()) !=
      0)
    return complain(o.mount_point);
  if (outside >= 0) {
    if (::setns(outside, CLONE_NEWNS) != 0) return complain(o.outside_ns);
    ::close(outside);
  }
  if (::chdir("/") != 0) return complain("/");

  const char* arguments[] = {type, nullptr};
  fuse_args fuse = FUSE_ARGS_INIT(1, const_cast<char**>(arguments));
  fuse_session* session = fuse_session_new(&fuse, &ops, sizeof ops, user_data);
  if (!session) return 1;
  if (fuse_session_mount(session, fmt::format("/dev/fd/{}", device).c_str()) != 0) return 1;
  serve_control(listener, rules);

  // Calls that hang each hold a thread, and the others must still be served.
  fuse_loop_config* config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_max_threads(config, 256);
  fuse_loop_cfg_set_idle_threads(config, 8);
  int result = fuse_session_loop_mt(session, config);
  // The kernel has already let go of the mount; the control threads end with the process.
  std::fflush(nullptr);
  ::_exit(result == 0 ? 0 : 1);
}

}  // namespace supervise::faults
