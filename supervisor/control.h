// The socket through which status, checkpoint, handover and activate speak to a running supervisor:
// unix(7) SOCK_STREAM at RUNDIR/NAME.sock, one JSON line each way, owner only (mode 0600 and
// SO_PEERCRED: root or the owner). RUNDIR is /run/supervise for root, otherwise
// $XDG_RUNTIME_DIR/supervise (or /tmp/supervise-UID); SUPERVISE_RUNDIR overrides both.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

std::string control_dir();
std::string control_socket_path(const std::string& name);

struct ControlRequest {
  std::string command;  // "status", "checkpoint", "handover", "activate", "adopt"
  bool stop = false;    // checkpoint
  std::string to;       // handover: another target, empty: the configured one
  int form = 0;         // adopt: of the state that the asking program can read (succession.h)
  pid_t peer = 0;       // who asks; known to the server
};

// Answers one request; may be kept and used later, once; dropped unused it answers "no answer".
// `body` is a JSON object as text (empty: none).
class ControlReply {
 public:
  void ok(const std::string& body = {});
  void fail(const std::string& message);
  bool waiting() const;  // the client is still there and unanswered
  int fd() const;        // on which a successor may answer instead (send_control_reply); -1: the client is gone

  struct Connection;
  explicit ControlReply(std::shared_ptr<Connection> connection);

 private:
  struct Once;
  std::shared_ptr<Once> once_;
};

// For a single-threaded loop: fd() is an epoll(7) descriptor that is readable when on_readable has
// something to do. Nothing here blocks; a client that stalls is dropped after ten seconds.
class ControlServer {
 public:
  using Handler = std::function<void(const ControlRequest&, ControlReply)>;

  // EADDRINUSE when a live supervisor has that name; the socket of a dead one is replaced.
  static Result<std::unique_ptr<ControlServer>> open(const std::string& name);
  ~ControlServer();  // removes the socket when it is still ours; as PID 1, lets clients end (1 s)

  // In a forked child: closes what was inherited; the parent goes on answering.
  void forget();

  int fd() const { return epoll_.get(); }
  void on_readable(const Handler& handler);
  const std::string& path() const { return path_; }

 private:
  ControlServer() = default;
  void accept_new();
  void read_request(const std::shared_ptr<ControlReply::Connection>& connection,
                    const Handler& handler);
  void tidy();
  std::string path_;
  UniqueFd lock_, listener_, epoll_, timer_;
  bool timer_runs_ = false;
  std::uint64_t last_tag_ = 15;
  std::uint64_t dev_ = 0, ino_ = 0;  // of the socket file that we made
  std::list<std::shared_ptr<ControlReply::Connection>> connections_;
};

// The answer, on a descriptor that was inherited. -1: none.
void send_control_reply(int fd, bool ok, const std::string& message, const std::string& body);

struct ControlAnswer {
  bool ok = false;
  std::string message;  // when not ok
  std::string body;     // JSON object as text
};

// ENOENT/ECONNREFUSED with a sentence when nothing of that name runs here.
Result<ControlAnswer> control_ask(const std::string& name, const ControlRequest& request,
                                  Deadline deadline);
// Names with a socket here, dead ones too.
std::vector<std::string> control_names();

}  // namespace supervise
