// The world's init: PID 1 of the application's PID namespace, in a mount namespace of its own. It
// serves one socket (world_wire.h), forks what it is told to, reaps every orphan and never looks at
// a file by itself. When nobody has the other end of its socket any more, neither the supervisor nor its
// keeper, it ends, and all of its namespace with it. Single-threaded; all signals blocked, SIGCHLD by signalfd. InitLink is the supervisor's
// end. pid_namespaces(7), ns_last_pid in proc(5).
#pragma once

#include <sys/types.h>

#include <deque>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/world_spawn.h"
#include "supervisor/world_wire.h"

namespace supervise {

class PassedFds;

// The body of the init process. `socket` is kept, every other descriptor closed.
[[noreturn]] void init_main(int socket);

class InitLink {
 public:
  // Clones the init and waits until its namespaces are ready. The error names the missing
  // privilege (EPERM) or the step that failed.
  static Result<std::unique_ptr<InitLink>> start(Deadline deadline);

  pid_t pid() const { return pid_; }
  int socket() const { return socket_.get(); }

  struct Spawned {
    pid_t inner = 0;
    pid_t outer = 0;
  };
  Result<Spawned> spawn(const SpawnPlan& plan, const std::vector<int>& fds, Deadline deadline);
  Result<UniqueFd> open(const OpenSpec& spec, Deadline deadline);
  Result<pid_t> outer_pid(pid_t inner, Deadline deadline);
  Status signal(pid_t inner, int signo, Deadline deadline);
  Status watch(pid_t inner, Deadline deadline);
  Result<int> last_pid(Deadline deadline);
  Status set_last_pid(int value, Deadline deadline);

  nlohmann::json pass(PassedFds& fds);  // World::pass
  static Result<std::unique_ptr<InitLink>> take(const nlohmann::json& passed);

  // The wait status of a watched process, once; nothing while it runs.
  std::optional<int> take_exit(pid_t inner);
  // Waits for it; ETIMEDOUT at the deadline.
  Result<int> wait_exit(pid_t inner, Deadline deadline);

 private:
  InitLink(UniqueFd socket, pid_t pid) : socket_(std::move(socket)), pid_(pid) {}
  Result<Packet> ask(InitMessage message, const std::string& payload, std::vector<int> fds,
                     Deadline deadline);
  // Takes one packet if there is one in time; exits are put aside.
  Result<std::optional<Packet>> next(Deadline deadline);
  void drain();

  UniqueFd socket_;
  pid_t pid_ = 0;
  std::uint32_t serial_ = 0;
  std::map<pid_t, int> exits_;
};

}  // namespace supervise
