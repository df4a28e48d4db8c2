#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "supervisor/control.h"
#include "supervisor/front.h"

namespace supervise {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLongestRequest = 64 << 10;
constexpr std::size_t kMostClients = 64;
constexpr Millis kStall{10000};
constexpr Millis kFarewell{1000};
constexpr std::uint64_t kListenerTag = 0;
constexpr std::uint64_t kTimerTag = 1;

std::string reply_line(bool ok, const std::string& message, const std::string& body) {
  Json reply{{"ok", ok}};
  if (!ok) reply["error"] = message;
  if (!body.empty()) reply["body"] = Json::parse(body, nullptr, false);
  return reply.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

Result<ControlRequest> parse_request(const std::string& line) {
  const auto json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return plain_error("the request is no JSON object");
  ControlRequest request;
  const auto text = [&](const char* key, std::string& out) {
    if (const auto it = json.find(key); it != json.end() && it->is_string()) out = *it;
  };
  text("command", request.command);
  text("to", request.to);
  if (const auto it = json.find("form"); it != json.end() && it->is_number_integer()) request.form = *it;
  if (const auto it = json.find("stop"); it != json.end() && it->is_boolean()) request.stop = *it;
  if (request.command.empty()) return plain_error("the request has no \"command\"");
  return request;
}

Status make_control_dir(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(dir).parent_path(), error);
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST)
    return errno_error("control socket: make directory " + dir);
  struct stat st {};
  if (::lstat(dir.c_str(), &st) != 0) return errno_error("control socket: directory " + dir);
  if (!S_ISDIR(st.st_mode) || st.st_uid != ::geteuid() || (st.st_mode & 022) != 0)
    return errno_error(EPERM, fmt::format("control socket: {} must be a directory of user {} that "
                                          "no other may write (or set SUPERVISE_RUNDIR)",
                                          dir, ::geteuid()));
  return ok_status();
}

Status watch(int epoll, int fd, std::uint32_t events, std::uint64_t tag, int op = EPOLL_CTL_ADD) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll, op, fd, &event) != 0) return errno_error("control socket: epoll_ctl");
  return ok_status();
}

}  // namespace

struct ControlReply::Connection {
  UniqueFd fd;
  pid_t peer = 0;
  UniqueFd client;  // pidfd of the process that asks, where our end would be its end
  int epoll = -1;
  std::uint64_t tag = 0;
  Clock::time_point since = Clock::now();
  std::string in, out;
  std::size_t sent = 0;   // of `out`
  bool asked = false;     // the request is complete
  bool answered = false;

  ~Connection() { close(); }
  void close() {
    // By hand: a forked child may still have a duplicate, which would keep the registration.
    if (fd && epoll >= 0) ::epoll_ctl(epoll, EPOLL_CTL_DEL, fd.get(), nullptr);
    fd.reset();
  }
  void answer(std::string line) {
    if (answered || !fd) return;
    answered = true;
    since = Clock::now();
    out = std::move(line);
    flush();
  }
  void flush() {
    while (fd && sent < out.size()) {
      const ssize_t n = ::send(fd.get(), out.data() + sent, out.size() - sent,
                               MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) {
        watch(epoll, fd.get(), EPOLLOUT | EPOLLRDHUP, tag, EPOLL_CTL_MOD).ignore();
        return;
      }
      if (n < 0) return close();
      sent += static_cast<std::size_t>(n);
    }
    close();
  }
};

struct ControlReply::Once {
  std::shared_ptr<Connection> connection;
  ~Once() { connection->answer(reply_line(false, "the supervisor gave no answer", {})); }
};

ControlReply::ControlReply(std::shared_ptr<Connection> connection)
    : once_(std::make_shared<Once>(std::move(connection))) {}

void ControlReply::ok(const std::string& body) {
  once_->connection->answer(reply_line(true, {}, body));
}

void ControlReply::fail(const std::string& message) {
  once_->connection->answer(reply_line(false, message, {}));
}

bool ControlReply::waiting() const {
  return once_->connection->fd.valid() && !once_->connection->answered;
}

int ControlReply::fd() const { return waiting() ? once_->connection->fd.get() : -1; }

void send_control_reply(int fd, bool ok, const std::string& message, const std::string& body) {
  const std::string line = reply_line(ok, message, body);
  if (fd >= 0) (void)!::send(fd, line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

Result<std::unique_ptr<ControlServer>> ControlServer::open(const std::string& name) {
  std::unique_ptr<ControlServer> server(new ControlServer);
  RETURN_IF_ERROR(make_control_dir(control_dir()));
  server->path_ = control_socket_path(name);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (server->path_.size() >= sizeof address.sun_path)
    return errno_error(ENAMETOOLONG, fmt::format("control socket {}: at most {} characters",
                                                 server->path_, sizeof address.sun_path - 1));
  server->path_.copy(address.sun_path, server->path_.size());

  // A record lock tells the living from the dead: forked children do not inherit it, and it goes
  // with its owner.
  const auto lock_path = control_dir() + "/" + name + ".lock";
  server->lock_.reset(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!server->lock_) return errno_error("control socket: open " + lock_path);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(server->lock_.get(), F_SETLK, &lock) != 0) {
    if (errno != EAGAIN && errno != EACCES) return errno_error("control socket: lock " + lock_path);
    ::fcntl(server->lock_.get(), F_GETLK, &lock);
    return errno_error(EADDRINUSE,
                       fmt::format("an application of the name {} is supervised here already, by "
                                   "process {}; choose another --name",
                                   name, lock.l_pid));
  }

  server->listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!server->listener_) return errno_error("control socket: socket");
  ::unlink(server->path_.c_str());
  // The directory is ours alone, so nobody comes between bind and chmod.
  if (::bind(server->listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return errno_error("control socket: bind " + server->path_);
  struct stat st {};
  if (::chmod(server->path_.c_str(), 0600) != 0 || ::stat(server->path_.c_str(), &st) != 0)
    return errno_error("control socket: mode of " + server->path_);
  server->dev_ = st.st_dev;
  server->ino_ = st.st_ino;
  if (::listen(server->listener_.get(), 16) != 0)
    return errno_error("control socket: listen on " + server->path_);

  server->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  server->timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!server->epoll_ || !server->timer_) return errno_error("control socket: epoll or timerfd");
  RETURN_IF_ERROR(watch(server->epoll_.get(), server->listener_.get(), EPOLLIN, kListenerTag));
  RETURN_IF_ERROR(watch(server->epoll_.get(), server->timer_.get(), EPOLLIN, kTimerTag));
  return server;
}

ControlServer::~ControlServer() {
  const auto limit = Deadline::in(kFarewell);
  for (auto& connection : connections_) {
    connection->close();
    // PID 1 takes its namespace with it: who asked for our end (docker exec ... handover) first tells its
    // user of the answer.
    pollfd ended{connection->client.get(), POLLIN, 0};
    if (connection->answered && connection->client) ::poll(&ended, 1, limit.left_ms());
    connection->epoll = -1;
  }
  struct stat st {};
  if (ino_ != 0 && ::stat(path_.c_str(), &st) == 0 && st.st_dev == dev_ && st.st_ino == ino_)
    ::unlink(path_.c_str());
}

void ControlServer::forget() {
  for (auto& connection : connections_) {
    connection->epoll = -1;  // it is the parent's too
    connection->fd.reset();
  }
  ino_ = 0;
  lock_.reset();
  listener_.reset();
  epoll_.reset();
  timer_.reset();
}

void ControlServer::accept_new() {
  while (true) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (!fd) return;
    ucred peer{};
    socklen_t size = sizeof peer;
    const bool known = ::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
    auto connection = std::make_shared<ControlReply::Connection>();
    connection->fd = std::move(fd);
    connection->peer = known ? peer.pid : 0;
    if (known && peer.pid > 0 && front::is_first_process())
      connection->client.reset(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
    connection->epoll = epoll_.get();
    connection->tag = ++last_tag_;
    if (!watch(epoll_.get(), connection->fd.get(), EPOLLIN | EPOLLRDHUP, connection->tag)) continue;
    if (!known || (peer.uid != 0 && peer.uid != ::geteuid())) {
      connection->answer(reply_line(false, "permission denied: owner and root only", {}));
    } else if (connections_.size() >= kMostClients) {
      connection->answer(reply_line(false, "too many clients", {}));
    }
    connections_.push_back(std::move(connection));
  }
}

void ControlServer::read_request(const std::shared_ptr<ControlReply::Connection>& connection,
                                 const Handler& handler) {
  char buffer[4096];
  while (!connection->asked && connection->fd) {
    const ssize_t n = ::recv(connection->fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return connection->close();
    connection->in.append(buffer, static_cast<std::size_t>(n));
    const auto end = connection->in.find('\n');
    if (end == std::string::npos && connection->in.size() > kLongestRequest)
      return connection->answer(reply_line(false, "the request is too long", {}));
    if (end == std::string::npos) continue;
    connection->asked = true;
    auto request = parse_request(connection->in.substr(0, end));
    if (!request) return connection->answer(reply_line(false, request.error().message(), {}));
    request->peer = connection->peer;
    handler(*request, ControlReply(connection));
  }
}

void ControlServer::on_readable(const Handler& handler) {
  epoll_event events[16];
  const int n = ::epoll_wait(epoll_.get(), events, 16, 0);
  for (int i = 0; i < n; ++i) {
    const auto tag = events[i].data.u64;
    if (tag == kListenerTag) {
      accept_new();
    } else if (tag == kTimerTag) {
      std::uint64_t ticks;
      [[maybe_unused]] const ssize_t got = ::read(timer_.get(), &ticks, sizeof ticks);
    } else {
      std::shared_ptr<ControlReply::Connection> found;
      for (auto& connection : connections_)
        if (connection->tag == tag) found = connection;
      if (!found || !found->fd) continue;
      if (found->answered)
        found->flush();
      else if (found->asked)
        found->close();  // the client has gone, or sends what nobody asked for
      else
        read_request(found, handler);
    }
  }
  tidy();
}

// Forgets what is closed, drops what stalls, and keeps the timer running while clients are there.
void ControlServer::tidy() {
  connections_.remove_if([](const std::shared_ptr<ControlReply::Connection>& connection) {
    const bool waits_for_us = connection->asked && !connection->answered;
    if (!waits_for_us && Clock::now() - connection->since > kStall) connection->close();
    return !connection->fd.valid();
  });
  if (connections_.empty() && !timer_runs_) return;
  timer_runs_ = !connections_.empty();
  itimerspec timer{};
  if (timer_runs_) timer.it_value.tv_sec = timer.it_interval.tv_sec = 5;
  ::timerfd_settime(timer_.get(), 0, &timer, nullptr);
}

}  // namespace supervise
