// A copy of the supervisor that waits for its death. It is forked when an incident begins and again
// when all threads are held, so that it has the journal and everything else as it was then; what
// happens later is told through a page of shared memory. When the supervisor dies before the
// commit, the keeper takes the application over and goes on; after the commit it makes sure that the
// original is ended. pidfd_open(2): readable when the process has ended and let its tracees go.
#pragma once

#include <atomic>
#include <functional>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

struct KeeperPage {
  static constexpr int kPaths = 32;
  std::atomic<int> step;               // of the hand-over, for the message
  std::atomic<bool> guarded;           // Session::guard
  std::atomic<bool> asked;             // a standby over the network has been asked to commit
  std::atomic<bool> committed;
  std::atomic<int> up[kPaths];         // 1 + index of the directory whose --path-up has run
  std::atomic<int> rebound[kPaths];    // 1 + index of the directory that is bound, 0: unchanged
  std::atomic<int> switched[kPaths];   // 1 + index of the directory in use, 0: unchanged
};

class Keeper {
 public:
  Keeper() = default;
  ~Keeper() { dismiss(); }
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // `take_over` runs in the keeper when this process has died; its result is the keeper's exit
  // status. Replaces a keeper that is there; the page keeps its content.
  Status start(std::function<int(pid_t dead)> take_over);
  void dismiss();
  bool running() const { return pid_ > 0; }
  KeeperPage* page() const { return page_; }  // nothing before the first start
  void forget();  // in the keeper itself, once it has taken over

 private:
  pid_t pid_ = 0;
  UniqueFd line_;  // a byte on it: dismissed
  KeeperPage* page_ = nullptr;
};

}  // namespace supervise
