// InitLink: the supervisor's end of the socket to the world's init.
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/world_inherited.h"
#include "supervisor/world_init.h"

namespace supervise {

Result<std::unique_ptr<InitLink>> InitLink::start(Deadline deadline) {
  InheritedState::record();
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return errno_error("socketpair for the world's init");
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  int on = 1;
  if (setsockopt(ours.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
    return errno_error("SO_PASSCRED on the world's socket");

  // A signal that came for the supervisor must not run its handlers in the child.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  long pid = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) init_main(theirs.get());
  int err = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return errno_error(err, "clone(CLONE_NEWPID | CLONE_NEWNS)");
  theirs.reset();

  std::unique_ptr<InitLink> link(new InitLink(std::move(ours), static_cast<pid_t>(pid)));
  auto give_up = [&](Error error) {
    kill(link->pid_, SIGKILL);
    waitpid(link->pid_, nullptr, 0);
    return error;
  };
  auto hello = link->next(deadline);
  if (!hello) return give_up(hello.error());
  if (!*hello) return give_up(errno_error(ETIMEDOUT, "the world's init does not get ready"));
  const InitMessage& message = (*hello)->message;
  if (message.err != 0) return give_up(errno_error(message.err, message.text));
  return link;
}

Result<std::optional<Packet>> InitLink::next(Deadline deadline) {
  for (;;) {
    auto packet = receive_packet(socket_.get(), MSG_DONTWAIT);
    if (packet) {
      if (packet->message.op != InitOp::Exit) return std::optional<Packet>(packet.take());
      exits_[packet->message.pid] = packet->message.value;
      continue;
    }
    if (packet.error().err == EPIPE || packet.error().err == ECONNRESET)
      return errno_error(ESRCH, "the world's init is gone");
    if (packet.error().err != EAGAIN) return packet.error();
    if (deadline.passed()) return std::optional<Packet>();
    pollfd wait{socket_.get(), POLLIN, 0};
    if (poll(&wait, 1, deadline.left_ms()) < 0 && errno != EINTR)
      return errno_error("poll the world's socket");
  }
}

Result<Packet> InitLink::ask(InitMessage message, const std::string& payload,
                             std::vector<int> fds, Deadline deadline) {
  UniqueFd memory;
  if (!payload.empty()) {
    ASSIGN_OR_RETURN(memory, payload_fd(payload));
    message.payload = 1;
    fds.insert(fds.begin(), memory.get());
  }
  message.serial = ++serial_;
  auto sent = send_packet(socket_.get(), message, fds, 0, MSG_DONTWAIT);
  if (!sent) {
    if (sent.error().err == EPIPE || sent.error().err == ECONNRESET)
      return errno_error(ESRCH, "the world's init is gone");
    return sent.error();
  }
  for (;;) {
    auto packet = next(deadline);
    if (!packet) return packet.error();
    if (!*packet) {
      return errno_error(ETIMEDOUT, fmt::format("the world's init (PID {}) does not answer: it "
                                                "may sit in a file system that hangs", pid_));
    }
    // An answer that came too late for an earlier question.
    if ((*packet)->message.serial != message.serial) continue;
    if ((*packet)->message.err != 0)
      return errno_error((*packet)->message.err, (*packet)->message.text);
    return std::move(**packet);
  }
}

Result<InitLink::Spawned> InitLink::spawn(const SpawnPlan& plan, const std::vector<int>& fds,
                                          Deadline deadline) {
  InitMessage message;
  message.op = InitOp::Spawn;
  auto reply = ask(message, plan.encode(), fds, deadline);
  if (!reply) return reply.error();
  exits_.erase(reply->message.pid);
  return Spawned{reply->message.pid, reply->credentials};
}

Result<UniqueFd> InitLink::open(const OpenSpec& spec, Deadline deadline) {
  InitMessage message;
  message.op = InitOp::Open;
  auto reply = ask(message, spec.encode(), {}, deadline);
  if (!reply) return reply.error();
  if (reply->fds.size() != 1) return errno_error(EPROTO, "open in the world: no descriptor came");
  return std::move(reply->fds[0]);
}

Result<pid_t> InitLink::outer_pid(pid_t inner, Deadline deadline) {
  if (inner == 1) return pid_;
  InitMessage message;
  message.op = InitOp::Translate;
  message.pid = inner;
  auto reply = ask(message, {}, {}, deadline);
  if (!reply) return reply.error();
  return reply->credentials;
}

Status InitLink::signal(pid_t inner, int signo, Deadline deadline) {
  InitMessage message;
  message.op = InitOp::Signal;
  message.pid = inner;
  message.value = signo;
  auto reply = ask(message, {}, {}, deadline);
  if (!reply) return reply.error();
  return {};
}

Status InitLink::watch(pid_t inner, Deadline deadline) {
  InitMessage message;
  message.op = InitOp::Watch;
  message.pid = inner;
  exits_.erase(inner);
  auto reply = ask(message, {}, {}, deadline);
  if (!reply) return reply.error();
  return {};
}

Result<int> InitLink::last_pid(Deadline deadline) {
  InitMessage message;
  message.op = InitOp::GetLastPid;
  auto reply = ask(message, {}, {}, deadline);
  if (!reply) return reply.error();
  return reply->message.value;
}

Status InitLink::set_last_pid(int value, Deadline deadline) {
  InitMessage message;
  message.op = InitOp::SetLastPid;
  message.value = value;
  auto reply = ask(message, {}, {}, deadline);
  if (!reply) return reply.error();
  return {};
}

void InitLink::drain() {
  // Nothing was asked: what comes now are exits and late answers.
  for (;;) {
    auto packet = next(Deadline::in(Millis(0)));
    if (!packet || !*packet) return;
  }
}

std::optional<int> InitLink::take_exit(pid_t inner) {
  drain();
  auto it = exits_.find(inner);
  if (it == exits_.end()) return std::nullopt;
  int status = it->second;
  exits_.erase(it);
  return status;
}

Result<int> InitLink::wait_exit(pid_t inner, Deadline deadline) {
  for (;;) {
    if (auto status = take_exit(inner)) return *status;
    if (deadline.passed())
      return errno_error(ETIMEDOUT, fmt::format("process {} of the world has not ended", inner));
    pollfd wait{socket_.get(), POLLIN, 0};
    poll(&wait, 1, deadline.left_ms());
    if ((wait.revents & (POLLHUP | POLLERR)) && !(wait.revents & POLLIN))
      return errno_error(ESRCH, "the world's init is gone");
  }
}

}  // namespace supervise
