#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <fstream>

#include "supervisor/base/scope_exit.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/doctor.h"
#include "supervisor/doctor_child.h"

namespace supervise {
namespace {

constexpr Millis kLimit{5000};

int private_mounts() {
  if (::unshare(CLONE_NEWNS) != 0) return errno;
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 ? 0 : errno;
}

int write_text(const char* path, const std::string& text) {
  const UniqueFd fd(::open(path, O_WRONLY | O_CLOEXEC));
  if (!fd) return errno;
  return ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : errno;
}

// As PID 1 of a new PID namespace.
Result<std::string> in_pid_namespace(const std::string& what, const std::function<int()>& body) {
  ProbeChild outer([&] {
    if (::unshare(CLONE_NEWPID) != 0) return errno;
    ProbeChild first(body);
    if (first.pid() < 0) return errno;
    const auto status = first.finish("");
    return status ? 0 : status.error().err == 0 ? ECHILD : status.error().err;
  });
  RETURN_IF_ERROR(outer.finish(what));
  return what;
}

Result<std::string> try_unshare(const char* name, const std::function<int()>& body) {
  ProbeChild child(body);
  RETURN_IF_ERROR(child.finish(std::string("unshare ") + name));
  return std::string("was made and entered");
}

Result<std::string> try_move_mount() {
  std::string base = "/tmp/supervise-doctor-XXXXXX";
  if (::mkdtemp(base.data()) == nullptr) return errno_error("mkdtemp " + base);
  const auto from = base + "/from", to = base + "/to", mark = from + "/mark";
  const ScopeExit remove([&] {
    ::unlink(mark.c_str());
    ::rmdir(from.c_str());
    ::rmdir(to.c_str());
    ::rmdir(base.c_str());
  });
  if (::mkdir(from.c_str(), 0700) != 0 || ::mkdir(to.c_str(), 0700) != 0)
    return errno_error("mkdir in " + base);
  if (!UniqueFd(::open(mark.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)))
    return errno_error("create " + mark);
  ProbeChild child([&] {
    if (const int err = private_mounts(); err != 0) return err;
    const UniqueFd tree(::open_tree(AT_FDCWD, from.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    if (!tree) return errno;
    if (::move_mount(tree.get(), "", AT_FDCWD, to.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) return errno;
    if (::access((to + "/mark").c_str(), F_OK) != 0) return errno;
    return ::umount2(to.c_str(), MNT_DETACH) == 0 ? 0 : errno;
  });
  RETURN_IF_ERROR(child.finish("open_tree and move_mount in a private mount namespace"));
  return std::string("a directory was bound elsewhere by descriptor, and detached");
}

int own_proc() {
  if (const int err = private_mounts(); err != 0) return err;
  return ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0 ? 0 : errno;
}

Result<std::string> try_own_proc() {
  return in_pid_namespace("mount of its own /proc", [] {
    if (const int err = own_proc(); err != 0) return err;
    char text[16];
    const ssize_t n = ::readlink("/proc/self", text, sizeof text);
    return n == 1 && text[0] == '1' ? 0 : ESRCH;
  });
}

Result<std::string> try_last_pid() {
  return in_pid_namespace("choice of the next PID (kernel.ns_last_pid)", [] {
    // As the application's world has it: a container's own /proc/sys is read-only.
    if (const int err = own_proc(); err != 0) return err;
    if (const int err = write_text("/proc/sys/kernel/ns_last_pid", "4000"); err != 0) return err;
    ProbeChild next([] { return 0; });
    const bool chosen = next.pid() == 4001;
    next.finish("").ignore();
    return chosen ? 0 : EINVAL;
  });
}

Result<std::string> try_clock() {
  ProbeChild child([] {
    if (::unshare(0x80 /* CLONE_NEWTIME */) != 0) return errno;
    if (const int err = write_text("/proc/self/timens_offsets", "monotonic 1000 0\n"); err != 0)
      return err;
    timespec before{};
    ::clock_gettime(CLOCK_MONOTONIC, &before);
    ProbeChild inside([&] {
      timespec now{};
      ::clock_gettime(CLOCK_MONOTONIC, &now);
      return now.tv_sec - before.tv_sec >= 999 ? 0 : ERANGE;
    });
    const auto status = inside.finish("");
    return status ? 0 : status.error().err;
  });
  RETURN_IF_ERROR(child.finish("clock namespace with an offset"));
  return std::string("CLOCK_MONOTONIC was set forward for a child");
}

}  // namespace

void probe_namespaces(const ProbeSink& sink) {
  const std::string admin =
      "grant CAP_SYS_ADMIN (run as root; container: --cap-add SYS_ADMIN --security-opt "
      "seccomp=unconfined --security-opt apparmor=unconfined)";
  const auto limit_of = [&](const char* kind) {
    return fmt::format("{}; user.max_{}_namespaces must not be 0", admin, kind);
  };
  sink(run_probe("namespace.mount", Need::Paths, limit_of("mnt"), kLimit,
                 [] { return try_unshare("mount namespace", private_mounts); }));
  sink(run_probe("namespace.pid", Need::Handover, limit_of("pid"), kLimit, [] {
    return in_pid_namespace("PID namespace",
                            [] { return ::getpid() == 1 ? 0 : ESRCH; });
  }));
  sink(run_probe("namespace.ipc", Need::Handover, limit_of("ipc"), kLimit, [] {
    return try_unshare("IPC namespace", [] { return ::unshare(CLONE_NEWIPC) == 0 ? 0 : errno; });
  }));
  sink(run_probe("namespace.network", Need::Extra, limit_of("net"), kLimit, [] {
    return try_unshare("network namespace", [] { return ::unshare(CLONE_NEWNET) == 0 ? 0 : errno; });
  }));
  sink(run_probe("namespace.time", Need::Handover,
                 "the kernel needs CONFIG_TIME_NS; grant CAP_SYS_TIME and CAP_SYS_ADMIN (container: "
                 "--cap-add SYS_TIME --cap-add SYS_ADMIN)",
                 kLimit, try_clock));
  sink(run_probe("mount.proc", Need::Handover,
                 admin + "; a container that masks parts of /proc forbids a new one: --security-opt "
                         "systempaths=unconfined",
                 kLimit, try_own_proc));
  sink(run_probe("mount.move", Need::Paths, admin, kLimit, try_move_mount));
  sink(run_probe("pid.choose", Need::Handover,
                 "grant CAP_SYS_ADMIN, with which it mounts a /proc of its own (container: --cap-add "
                 "SYS_ADMIN --security-opt seccomp=unconfined)",
                 kLimit, try_last_pid));
}

void probe_capabilities(const ProbeSink& sink) {
  struct Wanted {
    int bit;
    const char* name;
    Need need;
    const char* what_for;
  };
  static constexpr Wanted kWanted[] = {
      {21, "SYS_ADMIN", Need::Paths, "namespaces, mounts, CRIU"},
      {19, "SYS_PTRACE", Need::Handover, "CRIU, and tracing programs that change their user"},
      {1, "DAC_OVERRIDE", Need::Handover, "files of other users in an image"},
      {5, "KILL", Need::Handover, "processes of other users"},
      {6, "SETGID", Need::Handover, "restored processes get their groups back"},
      {7, "SETUID", Need::Handover, "restored processes get their users back"},
      {12, "NET_ADMIN", Need::Handover, "CRIU reads and restores sockets by netlink"},
      {25, "SYS_TIME", Need::Handover, "restored clocks go on"},
      {40, "CHECKPOINT_RESTORE", Need::Extra, "PIDs are chosen (SYS_ADMIN does it too)"},
      {24, "SYS_RESOURCE", Need::Extra, "limits above the hard limit; with another CRIU than setup.sh builds, images of other users' processes"},
  };
  std::uint64_t effective = 0;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("CapEff:")) effective = std::strtoull(line.c_str() + 7, nullptr, 16);
  for (const auto& cap : kWanted) {
    const bool there = (effective >> cap.bit & 1) != 0;
    sink({fmt::format("capability.{}", cap.name), cap.need, there ? Verdict::Ok : Verdict::Failed,
          fmt::format("{}: {}", there ? "held" : "missing", cap.what_for),
          there ? "" : fmt::format("run as root, or grant CAP_{0} (container: --cap-add {0}; systemd: "
                                   "AmbientCapabilities=CAP_{0})", cap.name),
          0});
  }
}

}  // namespace supervise
