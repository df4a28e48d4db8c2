// The application's world: a PID namespace with our own small init as PID 1, a private mount
// namespace with its own /proc and a bind mount for each storage path, and for the application an
// IPC namespace of its own. CRIU runs inside as a child of the init, so that neither namespace is
// part of an image. Without the privileges (CAP_SYS_ADMIN) a world has no namespaces: then the
// application is our direct child, PR_SET_CHILD_SUBREAPER takes orphans, and limits() says what
// can't be done. namespaces(7), pid_namespaces(7), mount_namespaces(7), open_tree(2), move_mount(2).
#pragma once

#include <linux/filter.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "supervisor/base/process_runner.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

class PassedFds;

// A mount for a storage path: `place` is where the application sees it.
struct PlaceSpec {
  std::string name;
  std::string place;   // absolute; made when missing (on the second host)
  std::string source;  // directory on this host whose tree is bound there
};

// One standard stream of the application. kind decides what the image calls it.
struct StdioInfo {
  int fd = 0;
  std::string kind;  // "file" (reopened inside the world), "pipe", "tty" (a pty of ours), "other"
  std::string id;    // "pipe:[INO]", "tty[RDEV:DEV]" (hex, as CRIU writes it), path without slash
};

struct WorldSpec {
  std::vector<PlaceSpec> places;
  bool want_namespaces = true;
};

struct LaunchSpec {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string cwd;
  const sock_fprog* filter = nullptr;  // installed right before exec, after we have seized it
};

class World : public ProcessRunner {
 public:
  ~World() override;  // kills everything in it, restores the terminal
  static Result<std::unique_ptr<World>> create(const WorldSpec& spec);

  bool has_namespaces() const;
  std::vector<std::string> limits() const;  // sentences; empty when nothing is missing
  pid_t init_pid() const;                   // as we see it; 0 without namespaces

  // Starts a process that will exec the application; it waits before the exec until release().
  // Standard streams are set up as the header of world_stdio.h says. Returns the PID as we see it.
  Result<pid_t> prepare_launch(const LaunchSpec& spec);
  Status release_launch();
  // After release: nothing while the exec is under way or done; the errno when it failed. The
  // failing stage (chdir, seccomp, execve) is in the error. The process exits by itself then.
  std::optional<Error> launch_error();

  // Runs a tool as a child of the init (or as ours, without namespaces). Answers signals and the
  // like meanwhile; other descriptors are closed. The tool's own children (a restored tree that
  // became the init's child by --restore-sibling) stay.
  Result<ExitInfo> run(const ProcessSpec& spec, Deadline deadline) override;

  // Standard streams for a restore: which of our descriptors takes the place of which stream of
  // the image; makes relays and ptys as needed.
  struct Inherit {
    std::string id;
    UniqueFd fd;
  };
  Result<std::vector<Inherit>> stdio_for_restore(const std::vector<StdioInfo>& image_stdio);
  std::vector<StdioInfo> stdio() const;
  std::vector<std::string> criu_externals() const;  // values of --external for the dump

  // Mounts inside the world, all by descriptor and with a deadline (a worker does them).
  // rebind: binds host directory `source` at the place `name`, detaching what was there, so that
  // nothing of this world keeps the former file system busy.
  Status rebind(const std::string& name, const std::string& source, Deadline deadline);
  // Mount ids (fdinfo's mnt_id, mountinfo(5)) that make up the place now, submounts included.
  std::set<std::uint64_t> mount_ids(const std::string& name) const;
  // A descriptor on /proc/INIT/root: the world's file names are resolved against it.
  int root_fd() const;
  // PID inside the world <-> as we see it (NSpid in /proc/PID/status).
  Result<pid_t> outer_pid(int inner) const;
  Result<int> inner_pid(pid_t outer) const;

  // What the file kGenerationFile (restore/image_layout.h) of the world says from now on: these numbers and
  // something random, 64 bytes. The first call makes it. EPERM without namespaces. A descriptor or a
  // mapping that an image has of it is one of this world's file after the restore.
  Status tell_generation(std::uint64_t generation, int instance);

  // Ends every process of the world and reaps the init. Deadline for uninterruptible sleepers.
  Status end(Deadline deadline);
  // What a session or a test needs besides:
  // Made by create() because a place was missing.
  std::vector<std::string> made_directories() const;
  // What still keeps a former file system busy inside the world, after a rebind.
  std::vector<std::string> warnings() const;
  // O_PATH descriptor on the root of the place's mount (-1 without namespaces); rebind closes it.
  int place_fd(const std::string& name) const;
  // How the application ended, for whoever does not trace it; nothing while it runs.
  std::optional<ExitInfo> app_exit();
  // A restored tree's root (PID inside) becomes the application.
  Status adopt_app(int inner);
  // Readable when app_exit() may have news; -1 without namespaces.
  int event_fd() const;
  // The PID namespace's cursor: the image carries it, so that PIDs are not given twice after a
  // restore.
  Result<int> last_pid() const;
  Status set_last_pid(int value);
  // Tools get none of these (the PIDs inside that an image needs).
  void keep_tools_off(const std::set<int>& pids);
  // The application has a session (and terminal) of its own: the terminal's signals reach us alone
  // and we pass them on. False without namespaces: it gets them as we do.
  bool own_session() const;
  // Our terminal is raw: lines need a carriage return.
  bool terminal_raw() const;
  // Children of ours that copy standard streams: not the application's.
  std::vector<pid_t> relay_pids() const;

  // For another version of this program, which execve(2) puts in our place: what it must know, and the
  // descriptors that it inherits. take() gives it the same world; an error leaves that as it is.
  nlohmann::json pass(PassedFds& fds);
  static Result<std::unique_ptr<World>> take(const nlohmann::json& passed);

  // After the application's end: gives our own stdio the offsets that it left, ends relays when
  // they have drained.
  void finish_stdio();
  // Called by the session's loop when SIGWINCH, SIGTSTP, SIGCONT came for us.
  void on_terminal_signal(int signo);

 private:
  struct Impl;
  explicit World(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace supervise
