#include "supervisor/receiver.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "restore/image_receive.h"

namespace supervise {
namespace {

constexpr Millis kHandshake{10000};
constexpr int kMost = 8;          // connections at once
constexpr int kSweepEvery = 3600; // seconds

int serve_one(const TlsContext& tls, UniqueFd fd, const std::string& dir, const std::string& app, Events& events) {
  auto stream = TlsStream::accept(tls, std::move(fd), Deadline::in(kHandshake));
  if (!stream) {
    events.warn("receive.refused", stream.error().message());
    return 1;
  }
  const ReceiveLog log{[&](const std::string& text) { events.info("receive.image", text); },
                       [&](const std::string& text) { events.warn("receive.trouble", text); }};
  const auto served = serve_origin(stream.take(), dir, app, log);
  if (!served) events.warn("receive.broken", served.error().message());
  return served ? 0 : 1;
}

int listen_for_ever(int line, const TlsContext& tls, const std::vector<UniqueFd>& listeners, const std::string& dir,
                    const std::string& app, Events& events) {
  int running = 0;
  Clock::time_point swept{};
  for (;;) {
    if (Clock::now() - swept > std::chrono::seconds(kSweepEvery)) {
      swept = Clock::now();
      sweep_incoming(dir);
    }
    while (running > 0 && waitpid(-1, nullptr, WNOHANG) > 0) --running;
    std::vector<pollfd> fds{{line, POLLIN, 0}};
    if (running < kMost)
      for (const auto& l : listeners) fds.push_back({l.get(), POLLIN, 0});
    if (poll(fds.data(), fds.size(), 1000) <= 0) continue;
    char byte;
    if (fds[0].revents != 0 && recv(line, &byte, 1, MSG_DONTWAIT) == 0) return 0;
    for (std::size_t i = 1; i < fds.size(); ++i) {
      if ((fds[i].revents & POLLIN) == 0) continue;
      UniqueFd fd(accept4(fds[i].fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd) continue;
      const pid_t parent = getpid();
      const pid_t pid = fork();
      if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(125);
        _exit(serve_one(tls, std::move(fd), dir, app, events));
      }
      if (pid > 0) ++running;
    }
  }
}

}  // namespace

Result<std::unique_ptr<ImageReceiver>> ImageReceiver::open(const std::string& listen, const std::string& tls_dir) {
  auto receiver = std::make_unique<ImageReceiver>();
  ASSIGN_OR_RETURN(receiver->address_, parse_net_address(listen, true));
  ASSIGN_OR_RETURN(receiver->tls_, TlsContext::load(tls_dir));
  ASSIGN_OR_RETURN(receiver->listeners_, listen_on(receiver->address_));
  return receiver;
}

Status ImageReceiver::start(Events& events, const std::string& app_dir, const std::string& app,
                            const std::function<void()>& in_child) {
  return helper_.start([&](int line) {
    in_child();
    signal(SIGPIPE, SIG_IGN);
    return listen_for_ever(line, *tls_, listeners_, app_dir, app, events);
  });
}

std::string ImageReceiver::where() const {
  NetAddress at = address_;
  if (!listeners_.empty()) at.port = port_of(listeners_.front().get());
  return at.text();
}

}  // namespace supervise
