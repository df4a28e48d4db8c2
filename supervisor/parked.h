// One prepared copy of a warm image, in a process of its own (the copy's keeper): it verifies the image and,
// by level, holds its pages in memory, or restores it with every thread in a ptrace stop; then it waits
// for one message. On it the threads go on first of all; everything else comes after. Then the same process
// is the application's supervisor until the end, and its exit status is the application's.
//
// The copy's keeper dies with the standby while it prepares (PR_SET_PDEATHSIG), and ends its copy when
// the standby is gone before the message came (end of file). Once it has the message it is on its own: a
// standby that is killed leaves the application running and supervised. Should it die then, the session's keeper
// (keeper.h) goes on in its place, and the standby follows that one: the end of the line is the end of all of them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "restore/ownership.h"
#include "supervisor/base/clock.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/events.h"
#include "supervisor/options.h"

namespace supervise {

struct CopyPlan {
  int id = 0;
  std::string image;
  std::uint64_t generation = 0;
  ReadyLevel level = ReadyLevel::Image;
  bool verified = false;     // by the keeper of another copy
};

// What a keeper tells the standby.
struct CopyNews {
  // TakenOver: `pid` goes on in place of the supervisor that died. Over: the application has ended.
  enum Kind { Progress, Ready, Refused, Failed, Awake, Lost, TakenOver, Over } kind = Lost;
  std::string text;          // Progress, Refused, Failed: a sentence
  std::string level;         // Ready: what was reached, and in `text` why not more
  std::string clash;         // Ready: why there can be no second copy on this host; empty: there can
  double verify_ms = 0, restore_ms = 0, wake_ms = 0;  // wake_ms: from the message to the last thread let go
  std::int64_t woken_unix_ns = 0;  // when the message had come
  std::uint64_t image_bytes = 0, pinned_bytes = 0;
  std::vector<std::pair<std::string, std::uint64_t>> files;  // Ready, parked: open files here and their size
  pid_t pid = 0, init = 0;   // TakenOver: and the first process of the copy's world
  int status = 0;            // Over: the exit status
};

struct WakeOrder {
  int slot = 1;
  std::string control_name;  // of the session's control socket
  std::string activated;     // what the session answers to a further `activate`
};

class Copy {
 public:
  // Forks the keeper. `in_child` lets go, in it, of what belongs to the standby alone.
  static Result<std::unique_ptr<Copy>> start(const StandbyOptions& options, Events& events,
                                             const CopyPlan& plan, const std::function<void()>& in_child);
  ~Copy();  // ends it, unless it was woken

  const CopyPlan& plan() const { return plan_; }
  pid_t pid() const { return pid_; }  // of its supervisor; 0: it has died
  const HostIdentity& identity() const { return identity_; }
  int fd() const { return line_.get(); }
  // The next news; nothing when there is none now. Lost at the end of the line.
  std::optional<CopyNews> read_news();
  Status wake(const WakeOrder& order);
  // After the answer to whoever asked for the activation: the control socket's name is free.
  void serve();
  // Another process has taken it over (CopyNews::TakenOver). It is not our child.
  void follow(pid_t pid, pid_t init);
  bool signal(int sig) const;  // false: nobody is there to take it
  // The copy and its keeper are gone when it returns (with a deadline). Not for a woken one.
  void end();
  void forget() { line_.reset(); pidfd_.reset(); pid_ = 0; woken_ = true; }  // in a forked child
  // The keeper's wait status, taken by whoever reaps children.
  void ended() { pid_ = 0; }
  // Bytes of memory that the copy's processes have resident; 0 when it has none.
  std::uint64_t resident_bytes() const;
  Clock::time_point since = Clock::now();

 private:
  Copy() = default;
  CopyPlan plan_;
  pid_t pid_ = 0;
  HostIdentity identity_;
  UniqueFd line_;
  UniqueFd pidfd_;   // of whom we follow
  pid_t init_ = 0;
  bool woken_ = false;
};

}  // namespace supervise
