// The application's standard streams, by what ours are:
//   regular file, character device: opened again inside the world by its name, with the same flags
//     and offset; streams that share one open file description go on sharing one. When the name no
//     longer leads there: a relay through a pipe. Ours then stand for the world's description, so
//     that our messages and the application's output do not overwrite each other.
//   pipe: passed on. Socket, FIFO, anything else: a relay process and a pipe.
//   terminal: a new pty, whose slave becomes the controlling terminal of the application's session;
//     a relay process copies, ours is raw meanwhile. When standard output is a pipe (we are one of a
//     pipeline, whose other programs may read the keyboard) or only standard error is a terminal,
//     the terminal itself is passed, without job control. Only what is a terminal is replaced.
//   closed: stays closed.
// A descriptor of another mount namespace would break a dump (except pipes and external ttys).
#pragma once

#include <sys/types.h>

#include <array>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "supervisor/base/clock.h"
#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/pty_relay.h"
#include "supervisor/world.h"
#include "supervisor/world_wire.h"

namespace supervise {

class PassedFds;

class WorldStdio {
 public:
  // Opens a file inside the world.
  using Opener = std::function<Result<UniqueFd>(const OpenSpec&)>;
  // Whether a file name is on a storage path: such a stream is restored by its name.
  using InPlace = std::function<bool(const std::string&)>;

  // Without an opener (no namespaces) our streams are passed as they are.
  WorldStdio(Opener opener, InPlace in_place);
  ~WorldStdio();

  struct Stream {
    int number = 0;
    int fd = -1;  // borrowed until started()
  };
  // What a new application gets. Relays and a pty are made here; the terminal becomes raw.
  Result<std::vector<Stream>> prepare();
  // The stream that becomes the controlling terminal; -1 when none does.
  int controlling_terminal() const;
  Result<std::vector<World::Inherit>> prepare_restore(const std::vector<StdioInfo>& image);
  // The application has its streams: ours that stood in the way (ends of pipes) are given up.
  void started();

  std::vector<StdioInfo> infos() const;
  std::vector<std::string> externals() const;
  bool terminal_raw() const { return pty_ && pty_->raw(); }
  std::vector<pid_t> relay_pids() const;

  nlohmann::json pass(PassedFds& fds) const;  // World::pass
  Status take(const nlohmann::json& passed);

  // Ours that lie on this file system ("major:minor") become /dev/null.
  void release_file_system(const std::string& device, Deadline deadline);
  void on_terminal_signal(int signo);
  void finish(Deadline deadline);

 private:
  enum class Kind { Closed, File, Device, Pipe, Socket, Terminal, Other };
  struct Own {
    Kind kind = Kind::Closed;
    int flags = 0;
    std::string name;    // by /proc/self/fd
    std::string device;  // of its mount, "major:minor"
    dev_t dev = 0;
    ino_t ino = 0;
    std::optional<int> same_as;  // a lower stream with the same open file description
  };
  struct Given {
    int number = -1;
    UniqueFd fd;           // what the application has; kept after started() only for a file
    StdioInfo info;
    bool is_file = false;
  };
  struct Relay {
    bool input = false;
    std::unique_ptr<PipeRelay> process;
  };

  static std::array<Own, 3> look();
  Result<Given> give(int number);
  Result<Given> give_for(const StdioInfo& image, const std::vector<StdioInfo>& all);
  Result<Given> pass_on(int number);
  Result<Given> reopen(int number);
  Result<Given> relay_through_pipe(int number);
  Result<Given> pty_slave(int number);
  Status make_pty();
  Status make_pty_for(const std::string& id, const std::vector<StdioInfo>& image);
  const Given* given(int number) const;
  const Given* twin_of(int number) const;
  bool wants_pty() const;
  void remember(const Given& given);

  Opener opener_;
  InPlace in_place_;
  std::array<Own, 3> own_;
  std::vector<Given> given_;
  std::array<UniqueFd, 3> saved_;  // ours, while the world's description stands at its number
  std::vector<StdioInfo> infos_;
  std::vector<std::string> externals_;
  std::unique_ptr<PtyRelay> pty_;
  std::vector<Relay> relays_;
};

}  // namespace supervise
