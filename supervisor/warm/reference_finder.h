// Whom a call that is about to be made refers to. Reads the tracee's arguments and the kernel's
// tables; decides nothing (reference.h does).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "supervisor/warm/portability.h"
#include "supervisor/warm/reference.h"
#include "tracer/task.h"

namespace supervise {

class ReferenceFinder {
 public:
  struct Surroundings {
    std::function<std::vector<pid_t>()> processes;           // of the application, as we see them
    std::function<bool(std::uint64_t mnt_id)> storage_path;  // declared: its files are no reference
    std::function<std::string()> own_terminal;               // name inside the world; "" for none
    std::int64_t started_unix_ns = 0;                        // of the application
  };
  explicit ReferenceFinder(Surroundings surroundings) : around_(std::move(surroundings)) {}

  // `task` is at the entry of task.call; nothing: the call refers to nobody that matters.
  std::optional<Reference> find(const Task& task);
  const PortabilityLog& portability() const { return portability_; }
  // Does one of these processes hold a listening socket?
  static bool any_listens(const std::vector<pid_t>& processes);

 private:
  std::optional<Reference> at_socket(const Task& task) const;
  std::optional<Reference> at_connect(const Task& task) const;
  std::optional<Reference> at_bind(const Task& task) const;
  std::optional<Reference> at_listen(const Task& task) const;
  std::optional<Reference> at_accept(const Task& task) const;
  std::optional<Reference> at_send(const Task& task);
  std::optional<Reference> to_netlink(const Task& task, std::uint64_t data, std::uint64_t size);
  std::optional<Reference> at_open(const Task& task);
  std::optional<Reference> to_address(const Task& task, const Address& address, bool datagram) const;
  OtherEnd owner(const std::vector<std::uint64_t>& inodes) const;
  OtherEnd fifo_end(const Task& task, dev_t dev, ino_t ino, int flags);
  OtherEnd terminal_end(const std::string& name) const;
  std::string file_system(pid_t tid, std::uint64_t mnt_id);

  Surroundings around_;
  PortabilityLog portability_;
  std::map<std::uint64_t, std::string> file_systems_;  // by mount id
  struct FifoWaiter {
    dev_t dev;
    ino_t ino;
    int mode;
  };
  std::map<pid_t, FifoWaiter> fifo_waiters_;  // stopped before the open of one
};

}  // namespace supervise
