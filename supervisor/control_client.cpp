#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "supervisor/control.h"

namespace supervise {
namespace {

using Json = nlohmann::json;

Error nobody(const std::string& name, int err) {
  return errno_error(err, fmt::format("no application named {} is supervised here by this user (looked in {}; "
                                      "`supervise status` lists all)", name, control_dir()));
}

Status check_alive(const std::string& name) {
  const auto path = control_dir() + "/" + name + ".lock";
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == EACCES) return errno_error(path + ": belongs to another user");
  if (!fd) return nobody(name, errno);
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_GETLK, &lock) != 0) return errno_error("lock of " + path);
  if (lock.l_type == F_UNLCK) return nobody(name, ECONNREFUSED);
  return ok_status();
}

Error late(const std::string& name, const ControlRequest& request) {
  return errno_error(ETIMEDOUT, fmt::format("the supervisor of {} did not answer {} in time (see "
                                            "--timeout)", name, request.command));
}

Result<UniqueFd> connect_to(const std::string& name, const ControlRequest& request,
                            Deadline deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto path = control_socket_path(name);
  if (path.size() >= sizeof address.sun_path) return errno_error(ENAMETOOLONG, path);
  path.copy(address.sun_path, path.size());
  while (true) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return errno_error("socket");
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
    if (errno == ENOENT || errno == ECONNREFUSED) return nobody(name, errno);
    if (errno != EAGAIN && errno != EINTR) return errno_error("connect to " + path);
    if (deadline.passed()) return late(name, request);
    ::poll(nullptr, 0, 20);
  }
}

}  // namespace

Result<ControlAnswer> control_ask(const std::string& name, const ControlRequest& request,
                                  Deadline deadline) {
  RETURN_IF_ERROR(check_alive(name));
  ASSIGN_OR_RETURN(const UniqueFd fd, connect_to(name, request, deadline));

  std::string out = Json{{"command", request.command}, {"stop", request.stop}, {"to", request.to}, {"form", request.form}}
                        .dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  std::string in;
  std::vector<char> buffer(64 << 10);
  bool whole = false;
  while (!whole) {
    pollfd p{fd.get(), static_cast<short>(out.empty() ? POLLIN : POLLIN | POLLOUT), 0};
    const int ready = ::poll(&p, 1, deadline.left_ms());
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return errno_error("poll");
    if (ready == 0) return late(name, request);
    if ((p.revents & POLLOUT) != 0) {
      const ssize_t n = ::send(fd.get(), out.data(), out.size(), MSG_NOSIGNAL);
      if (n > 0) out.erase(0, static_cast<std::size_t>(n));
      if (n < 0 && errno != EAGAIN && errno != EINTR && errno != EPIPE)
        return errno_error("send to the supervisor of " + name);
    }
    if ((p.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (n <= 0)
        return errno_error(n < 0 ? errno : ECONNRESET,
                           fmt::format("the supervisor of {} ended without an answer to {}", name,
                                       request.command));
      const auto got = static_cast<std::size_t>(n);
      whole = std::memchr(buffer.data(), '\n', got) != nullptr;
      in.append(buffer.data(), got);
    }
  }
  const auto json = Json::parse(in.substr(0, in.find('\n')), nullptr, false);
  if (!json.is_object() || !json.contains("ok") || !json["ok"].is_boolean())
    return plain_error("the supervisor of " + name + " gave an answer of another version");
  ControlAnswer answer;
  answer.ok = json["ok"];
  if (json.contains("error") && json["error"].is_string()) answer.message = json["error"];
  if (json.contains("body")) answer.body = json["body"].dump();
  return answer;
}

}  // namespace supervise
