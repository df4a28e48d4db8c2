// A copy of the supervisor that waits for its death. One stands while the application runs; another takes its
// place when an incident begins and again when all threads are held, so that it has the journal and
// everything else as it was then; what happens later is told through shared memory. When the
// supervisor dies before the commit of a hand-over, the keeper takes the application over and goes on;
// after the commit it makes sure that the original is ended.
//
// The keeper traces the supervisor (PTRACE_O_TRACEEXIT): a dying one waits at the beginning of its exit,
// still the tracer of its tasks, until the keeper has seen to it that none of them runs on without a
// tracer. Where that can't be (somebody else traces it) the keeper learns of the death from a
// pidfd_open(2), which is readable when the tasks are free already.
#pragma once

#include <atomic>
#include <functional>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "tracer/notes.h"

namespace supervise {

struct KeeperPage {
  static constexpr int kPaths = 32;
  std::atomic<int> duty;               // number of the keeper that is to take over
  std::atomic<int> step;               // of the hand-over, for the message
  std::atomic<bool> guarded;           // Session::guard
  std::atomic<bool> asked;             // a standby over the network has been asked to commit
  std::atomic<bool> committed;
  std::atomic<int> up[kPaths];         // 1 + index of the directory whose --path-up has run
  std::atomic<int> rebound[kPaths];    // 1 + index of the directory that is bound, 0: unchanged
  std::atomic<int> switched[kPaths];   // 1 + index of the directory in use, 0: unchanged
  struct Pieces {                      // of a transfer that is finished in pieces (Session::Pieces)
    std::atomic<pid_t> tid;            // 0: none
    int nr;
    std::uint64_t original[6], done;
  };
  std::atomic<bool> first_io;          // Session::on_first_io was told
  static constexpr int kPieces = 64;
  Pieces pieces[kPieces];
  TracerNotes notes;
};

class Keeper {
 public:
  Keeper() = default;
  ~Keeper() { dismiss(); }
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  struct Duties {
    // While the supervisor stands at its exit, or (`at_exit` false) when it is dead: its tasks are to stop.
    // Nothing: it is not traced, and its tasks end with it or are stopped already.
    std::function<void(pid_t dying, bool at_exit)> stop_tasks;
    // When it is dead; the result is the keeper's exit status.
    std::function<int(pid_t dead)> take_over;
  };
  // Both run in the keeper. One that is there stands until this one does; the page keeps its content.
  Status start(const Duties& duties);
  Status make_page();
  void dismiss();
  bool running() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  // The line to it; a successor inherits both. succession.h.
  int line() const { return line_.get(); }
  void inherit(pid_t pid, UniqueFd line) { pid_ = pid, line_ = std::move(line); }
  bool ended(pid_t child);  // that child of ours, which is no more, was it
  KeeperPage* page() const { return page_; }  // nothing before the first start
  void forget();  // in the keeper itself, once it has taken over

 private:
  [[noreturn]] static void keep(const Duties& duties, UniqueFd line, KeeperPage* page, int number, pid_t supervisor,
                                Keeper* self);
  static void dismiss(pid_t pid, UniqueFd line);

  pid_t pid_ = 0;
  UniqueFd line_;  // bytes on it: watch, dismissed
  KeeperPage* page_ = nullptr;
};

}  // namespace supervise
