// Processes that copy bytes between a standard stream of ours and what the application has in its
// place. They survive the terminal's signals, hold no other descriptor, end when one side is gone,
// and outlive a supervisor that was killed. PtyRelay also owns the terminal's mode: it is raw while
// we are in the foreground, and restored when the relay ends, when the supervisor ends in whatever
// way (the relay sees its end of the control socket close), and when the relay itself is killed
// (the supervisor does it). pty(7), termios(3), tty_ioctl(4).
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

class PassedFds;

class PipeRelay {
 public:
  // Copies `from` to `to` until an end of file, or until nobody reads `to` any more.
  static Result<std::unique_ptr<PipeRelay>> start(int from, int to);
  ~PipeRelay();
  nlohmann::json pass(PassedFds& fds) const;  // World::pass
  static Result<std::unique_ptr<PipeRelay>> take(const nlohmann::json& passed);
  pid_t pid() const { return pid_; }
  // Waits until it has copied all and ended. At the deadline it is ended.
  void finish(Deadline deadline);
  void stop();

 private:
  PipeRelay(pid_t pid, UniqueFd alive) : pid_(pid), alive_(std::move(alive)) {}
  pid_t pid_;
  UniqueFd alive_;  // closes at the other end when the relay ends
};

class PtyRelay {
 public:
  // `terminal`: our terminal, or -1 when the pty serves streams that are none. `in`, `out`: where
  // the keyboard's bytes come from and the output goes to (-1: nowhere).
  static Result<std::unique_ptr<PtyRelay>> start(int terminal, int in, int out);
  ~PtyRelay();
  nlohmann::json pass(PassedFds& fds) const;  // World::pass
  static Result<std::unique_ptr<PtyRelay>> take(const nlohmann::json& passed);

  const std::string& slave_name() const { return slave_name_; }
  // The slave as the host's mount namespace sees it.
  Result<UniqueFd> open_slave() const;
  // The application has the slave: copying begins.
  void opened();
  bool raw() const { return terminal_ >= 0 && pid_ > 0; }
  pid_t pid() const { return pid_; }

  void window_changed();  // SIGWINCH
  // Before we stop ourselves: the terminal as we found it, and no more reading.
  void suspend(Deadline deadline);
  void resume();          // SIGCONT
  void finish(Deadline deadline);

 private:
  PtyRelay() = default;
  void command(char what);
  bool wait_byte(Deadline deadline);
  void restore_terminal();

  int terminal_ = -1;
  termios original_{};
  UniqueFd master_;
  UniqueFd control_;
  std::string slave_name_;
  pid_t pid_ = 0;
};

}  // namespace supervise
