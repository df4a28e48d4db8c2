#include "integration/faultfs/control.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <thread>

#include <fmt/format.h>

namespace supervise::faults {
namespace {

bool fill_address(const std::string& path, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return false;
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return true;
}

bool send_all(int fd, std::string_view text) {
  while (!text.empty()) {
    ssize_t n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

void serve_connection(int fd, FaultRules& rules) {
  std::string pending;
  char buffer[4096];
  while (true) {
    ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    pending.append(buffer, static_cast<std::size_t>(n));
    for (std::size_t end; (end = pending.find('\n')) != std::string::npos;
         pending.erase(0, end + 1))
      if (!send_all(fd, run_command(pending.substr(0, end), rules) + "\n")) break;
  }
  ::close(fd);
}

}  // namespace

int listen_control(const std::string& socket_path) {
  sockaddr_un address;
  if (!fill_address(socket_path, address)) return -1;
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  ::unlink(socket_path.c_str());
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::chmod(socket_path.c_str(), 0600) != 0 || ::listen(fd, 16) != 0) {
    int saved = errno;
    ::close(fd);
    errno = saved;
    return -1;
  }
  return fd;
}

void serve_control(int listener, FaultRules& rules) {
  std::thread([listener, &rules] {
    while (true) {
      int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        return;
      }
      std::thread(serve_connection, fd, std::ref(rules)).detach();
    }
  }).detach();
}

std::string run_command(const std::string& line, FaultRules& rules) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  if (words.empty()) return "error empty command";
  const auto& verb = words[0];

  if (verb == "ping") return "ok pong";
  if (verb == "stats") return "ok " + rules.stats_json();
  if (verb == "rules") {
    auto text = rules.rules_text();
    auto answer = fmt::format("ok {}\n{}", std::count(text.begin(), text.end(), '\n'), text);
    answer.pop_back();
    return answer;
  }
  if (verb == "unhang") {
    rules.remove_action(Action::Hang);
    return "ok";
  }
  if (verb == "clear") {
    if (words.size() == 1) {
      rules.clear();
      return "ok";
    }
    std::uint64_t id = std::strtoull(words[1].c_str(), nullptr, 10);
    return rules.remove(id) ? "ok" : fmt::format("error no rule {}", words[1]);
  }
  if (verb == "fail" || verb == "hang" || verb == "delay") {
    std::string error;
    auto rule = parse_rule(words, error);
    if (!rule) return "error " + error;
    return fmt::format("ok {}", rules.add(std::move(*rule)));
  }
  return fmt::format(
      "error unknown command '{}'; try ping, stats, rules, fail, hang, unhang, delay, clear", verb);
}

int control_client(const std::vector<std::string>& args) {
  if (args.size() < 2) {
    fmt::print(stderr, "usage: ctl SOCKET COMMAND [WORD...]\n");
    return 2;
  }
  sockaddr_un address;
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  timeval limit{.tv_sec = 5, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (!fill_address(args[0], address) ||
      ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    fmt::print(stderr, "{}: {}\n", args[0], std::strerror(errno));
    return 2;
  }
  std::string line;
  for (std::size_t i = 1; i < args.size(); ++i) line += (i > 1 ? " " : "") + args[i];
  std::string answer;
  bool sent = send_all(fd, line + "\n") && ::shutdown(fd, SHUT_WR) == 0;
  char buffer[4096];
  for (ssize_t n; sent && (n = ::recv(fd, buffer, sizeof buffer, 0)) > 0;)
    answer.append(buffer, static_cast<std::size_t>(n));
  ::close(fd);
  if (answer.empty()) {
    fmt::print(stderr, "{}: no answer within 5 s\n", args[0]);
    return 2;
  }
  fmt::print("{}", answer);
  return answer.starts_with("ok") ? 0 : 1;
}

}  // namespace supervise::faults
