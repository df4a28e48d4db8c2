// A forked process that does what may block, with a line of packets (SOCK_SEQPACKET) to it. It ends with
// the thread that forked it (PR_SET_PDEATHSIG). Call start() only from a single-threaded process.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

class Helper {
 public:
  ~Helper() { stop(); }
  // `body` runs in the child, which dies with us, and returns its exit status.
  Status start(const std::function<int(int fd)>& body);
  void stop();  // kills and reaps it
  // It reads what was sent to it, then the end of its line. False: it had not ended by then, and was killed.
  bool finish(Deadline deadline);
  bool send_text(const std::string& text);
  // Nothing when there is none now.
  std::optional<std::string> receive();
  // Its wait status once it has ended by itself.
  std::optional<int> ended();
  int fd() const { return line_.get(); }
  pid_t pid() const { return pid_; }
  void forget() { line_.reset(); pidfd_.reset(); pid_ = 0; }  // in a forked child

 private:
  pid_t pid_ = 0;
  UniqueFd pidfd_, line_;
};

}  // namespace supervise
