// Members of World, shared by world.cpp (mounts, tools, end) and world_launch.cpp (start of the
// application, standard streams).
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "supervisor/world.h"
#include "supervisor/world_init.h"
#include "supervisor/world_mounts.h"
#include "supervisor/world_spawn.h"
#include "supervisor/world_stdio.h"

namespace supervise {

struct World::Impl {
  std::unique_ptr<InitLink> link;  // none without namespaces
  std::unique_ptr<WorldMounts> mounts;
  std::unique_ptr<WorldStdio> stdio;
  std::vector<std::string> limits;
  UniqueFd root;
  UniqueFd generation;  // the file, once it is there
  std::set<int> kept_pids;

  SpawnPlan app;
  pid_t app_inner = 0;
  pid_t app_outer = 0;
  UniqueFd release;  // closing it without a byte ends the child
  UniqueFd notes;    // ChildNote records of the application's process
  std::optional<ExitInfo> app_end;
  bool ended = false;

  void connect();  // with the link: mounts and streams
  Result<InitLink::Spawned> spawn(const SpawnPlan& plan, const std::vector<int>& fds,
                                  Deadline deadline);
  // The wait status of one of our children, by init or by us.
  Result<int> wait(const InitLink::Spawned& child, Deadline deadline);
  int tool_pid_base() const;
};

ExitInfo exit_info(int wait_status);

}  // namespace supervise
