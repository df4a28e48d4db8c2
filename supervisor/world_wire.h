// What the supervisor and the world's init say to each other over a SOCK_SEQPACKET pair: one small
// fixed record a message, descriptors by SCM_RIGHTS, long arguments in a memfd that comes as the
// first descriptor. A reply names its process by SCM_CREDENTIALS, so that the kernel translates the
// PID into the receiver's PID namespace. unix(7), pid_namespaces(7).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/base/result.h"
#include "supervisor/base/unique_fd.h"

namespace supervise {

enum class InitOp : std::uint32_t {
  Hello,       // from the init, when its namespaces are set up
  Spawn,       // payload: SpawnPlan; reply: pid
  Open,        // payload: OpenSpec; reply: one descriptor, opened in the world
  Translate,   // pid inside; reply: the same process by credentials
  Signal,      // pid (negative: group), value: signal number
  Watch,       // pid: report its end
  GetLastPid,  // reply: value
  SetLastPid,  // value
  Exit,        // from the init, unasked: pid, value: wait status
};

struct InitMessage {
  InitOp op = InitOp::Hello;
  std::uint32_t serial = 0;
  std::int32_t pid = 0;
  std::int32_t value = 0;
  std::int32_t err = 0;
  std::uint32_t payload = 0;  // 1: the first descriptor is a memfd with the arguments
  char text[96] = {};         // what failed
};

struct OpenSpec {
  std::string path;
  int flags = 0;
  dev_t device = 0;  // the file that the name must lead to
  ino_t inode = 0;
  off_t offset = 0;

  std::string encode() const;
  static Result<OpenSpec> decode(const std::string& bytes);
};

struct Packet {
  InitMessage message;
  std::vector<UniqueFd> fds;
  pid_t credentials = 0;  // the sender's, or the process it named, in our PID namespace
};

// `credentials`: 0, or a PID in the sender's namespace (needs CAP_SYS_ADMIN).
Status send_packet(int socket, const InitMessage& message, const std::vector<int>& fds,
                   pid_t credentials = 0, int flags = 0);
// An error with EPIPE when the other side is gone, EAGAIN when there is nothing.
Result<Packet> receive_packet(int socket, int flags = 0);

Result<UniqueFd> payload_fd(const std::string& bytes);
Result<std::string> payload_bytes(int fd);

class WireWriter {
 public:
  void number(std::int64_t value);
  void string(std::string_view value);
  void strings(const std::vector<std::string>& values);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : rest_(bytes) {}
  std::int64_t number();
  std::string string();
  std::vector<std::string> strings();
  bool good() const { return good_; }

 private:
  std::string_view rest_;
  bool good_ = true;
};

}  // namespace supervise
