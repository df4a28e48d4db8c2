#include "supervisor/control.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <thread>

namespace supervise {
namespace {

using ::testing::HasSubstr;

class Control : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(::mkdtemp(dir_.data()), nullptr);
    ::setenv("SUPERVISE_RUNDIR", (dir_ + "/run").c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("SUPERVISE_RUNDIR");
    std::filesystem::remove_all(dir_);
  }

  static UniqueFd raw_connection() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    control_socket_path("app").copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }

  static std::string read_line(ControlServer& server, int fd, const ControlServer::Handler& handler) {
    std::string text;
    const auto deadline = Deadline::in(Millis(5000));
    while (text.find('\n') == std::string::npos && !deadline.passed()) {
      pollfd p[2] = {{server.fd(), POLLIN, 0}, {fd, POLLIN, 0}};
      ::poll(p, 2, 20);
      if (p[0].revents != 0) server.on_readable(handler);
      char buffer[4096];
      const ssize_t n = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (n == 0) break;
      if (n > 0) text.append(buffer, static_cast<std::size_t>(n));
    }
    return text;
  }

  std::string dir_ = "/tmp/supervise-control-XXXXXX";
};

// fcntl locks belong to a process: a second supervisor is another one.
int in_child(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// control_ask looks at the lock, which its own process would not see.
class Forked {
 public:
  explicit Forked(const std::function<void(ControlServer&)>& body) {
    int ready[2];
    EXPECT_EQ(::pipe2(ready, O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      auto server = ControlServer::open("app");
      if (!server) ::_exit(90);
      if (::write(ready[1], "x", 1) != 1) ::_exit(91);
      body(*server.value());
      ::_exit(0);
    }
    char byte;
    ::close(ready[1]);
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
  }
  ~Forked() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

void serve_for(ControlServer& server, Millis time, const ControlServer::Handler& handler) {
  const auto deadline = Deadline::in(time);
  while (!deadline.passed()) {
    pollfd p{server.fd(), POLLIN, 0};
    if (::poll(&p, 1, 20) > 0) server.on_readable(handler);
  }
}

TEST_F(Control, AnswersRequests) {
  const Forked supervisor([](ControlServer& server) {
    serve_for(server, Millis(10000), [](const ControlRequest& request, ControlReply reply) {
      if (request.command == "status")
        reply.ok(R"({"name":"app","processes":2})");
      else
        reply.fail("can't " + request.command + (request.stop ? " and stop" : "") + " to " + request.to);
    });
  });
  const auto answer = control_ask("app", {.command = "status", .stop = false, .to = {}},
                                  Deadline::in(Millis(5000)));
  ASSERT_TRUE(answer.ok()) << answer.error().message();
  EXPECT_TRUE(answer.value().ok);
  EXPECT_EQ(answer.value().body, R"({"name":"app","processes":2})");
  const auto refused = control_ask("app", {.command = "checkpoint", .stop = true, .to = "dir:/x"},
                                   Deadline::in(Millis(5000)));
  ASSERT_TRUE(refused.ok());
  EXPECT_FALSE(refused.value().ok);
  EXPECT_EQ(refused.value().message, "can't checkpoint and stop to dir:/x");
  EXPECT_EQ(control_names(), std::vector<std::string>{"app"});
}

TEST_F(Control, ALargeAnswerArrivesWhole) {
  const std::string large(3 << 20, 'y');
  const Forked supervisor([&](ControlServer& server) {
    serve_for(server, Millis(20000), [&](const ControlRequest&, ControlReply reply) {
      reply.ok("{\"x\":\"" + large + "\"}");
    });
  });
  const auto answer = control_ask("app", {.command = "status", .stop = false, .to = {}},
                                  Deadline::in(Millis(10000)));
  ASSERT_TRUE(answer.ok()) << answer.error().message();
  EXPECT_EQ(answer.value().body.size(), large.size() + 8);
}

TEST_F(Control, TheAnswerMayComeLaterAndTheDeadlineHolds) {
  const Forked supervisor([](ControlServer& server) {
    std::optional<ControlReply> kept;
    const auto handler = [&](const ControlRequest& request, ControlReply reply) {
      if (request.command != "handover") kept = reply;
      if (request.command == "handover") kept->ok("{\"late\":true}");
    };
    serve_for(server, Millis(20000), handler);
  });
  const auto late = control_ask("app", {.command = "checkpoint", .stop = false, .to = {}},
                                Deadline::in(Millis(200)));
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().err, ETIMEDOUT);
  EXPECT_THAT(late.error().message(), HasSubstr("did not answer checkpoint in time"));

  std::optional<Result<ControlAnswer>> answer;
  std::thread first([&] {
    answer = control_ask("app", {.command = "checkpoint", .stop = false, .to = {}},
                         Deadline::in(Millis(5000)));
  });
  std::this_thread::sleep_for(Millis(200));
  const auto second = control_ask("app", {.command = "handover", .stop = false, .to = {}},
                                  Deadline::in(Millis(5000)));
  first.join();
  ASSERT_TRUE(answer->ok());
  EXPECT_EQ(answer->value().body, "{\"late\":true}");
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(second.value().ok);
  EXPECT_THAT(second.value().message, HasSubstr("gave no answer"));
}

TEST_F(Control, NobodyThere) {
  auto answer = control_ask("app", {.command = "status", .stop = false, .to = {}},
                            Deadline::in(Millis(1000)));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().err, ENOENT);
  EXPECT_THAT(answer.error().message(), HasSubstr("no application named app"));
  {
    const Forked supervisor([](ControlServer&) { ::pause(); });
  }
  ASSERT_TRUE(std::filesystem::exists(control_socket_path("app"))) << "the killed one leaves its socket";
  answer = control_ask("app", {.command = "status", .stop = false, .to = {}},
                       Deadline::in(Millis(1000)));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().err, ECONNREFUSED);
}

TEST_F(Control, ASupervisorThatDiesIsTold) {
  const Forked supervisor([](ControlServer& server) {
    serve_for(server, Millis(10000), [](const ControlRequest&, ControlReply) { ::_exit(0); });
  });
  const auto answer = control_ask("app", {.command = "status", .stop = false, .to = {}},
                                  Deadline::in(Millis(5000)));
  ASSERT_FALSE(answer.ok());
  EXPECT_THAT(answer.error().message(), HasSubstr("ended without an answer"));
}

TEST_F(Control, OneLiveSupervisorAName) {
  auto first = ControlServer::open("app");
  ASSERT_TRUE(first.ok()) << first.error().message();
  EXPECT_EQ(in_child([] {
              auto second = ControlServer::open("app");
              if (second.ok() || second.error().err != EADDRINUSE) return 1;
              if (second.error().message().find("supervised here already, by process " +
                                                std::to_string(::getppid())) == std::string::npos)
                return 2;
              return ControlServer::open("other").ok() ? 0 : 3;
            }), 0);
  EXPECT_TRUE(std::filesystem::exists(first.value()->path()));
  first = plain_error("gone");
  EXPECT_FALSE(std::filesystem::exists(control_socket_path("app")));
  EXPECT_EQ(in_child([] { return ControlServer::open("app").ok() ? 0 : 1; }), 0);
}

TEST_F(Control, TheSocketOfADeadOneIsReplaced) {
  {
    const Forked dead([](ControlServer&) { ::pause(); });
  }
  auto server = ControlServer::open("app");
  ASSERT_TRUE(server.ok()) << server.error().message();
  struct stat st {};
  ASSERT_EQ(::stat(server.value()->path().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  ASSERT_EQ(::stat(control_dir().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST_F(Control, ADirectoryThatOthersMayWriteIsRefused) {
  ASSERT_EQ(::mkdir(control_dir().c_str(), 0700), 0);
  ASSERT_EQ(::chmod(control_dir().c_str(), 0777), 0);
  const auto server = ControlServer::open("app");
  ASSERT_FALSE(server.ok());
  EXPECT_THAT(server.error().message(), HasSubstr("no other may write"));
}

TEST_F(Control, NonsenseIsAnsweredWithAnError) {
  auto server = ControlServer::open("app");
  ASSERT_TRUE(server.ok());
  int handled = 0;
  const auto handler = [&](const ControlRequest&, ControlReply reply) {
    ++handled;
    reply.ok();
  };
  for (const std::string text : {"nonsense\n", "[1]\n", "{}\n", "{\"command\":5}\n", "\xff\xfe\n"}) {
    const auto fd = raw_connection();
    ASSERT_EQ(::send(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    EXPECT_THAT(read_line(*server.value(), fd.get(), handler), HasSubstr("\"ok\":false")) << text;
  }
  const auto fd = raw_connection();
  const std::string endless(100000, 'a');
  ASSERT_GT(::send(fd.get(), endless.data(), endless.size(), MSG_NOSIGNAL), 0);
  EXPECT_THAT(read_line(*server.value(), fd.get(), handler), HasSubstr("too long"));
  EXPECT_EQ(handled, 0);

  const auto split = raw_connection();
  ASSERT_EQ(::send(split.get(), "{\"comm", 6, 0), 6);
  server.value()->on_readable(handler);
  ASSERT_EQ(::send(split.get(), "and\":\"status\"}\n", 15, 0), 15);
  EXPECT_THAT(read_line(*server.value(), split.get(), handler), HasSubstr("\"ok\":true"));
  EXPECT_EQ(handled, 1);
}

TEST_F(Control, AClientThatLeavesIsForgotten) {
  auto server = ControlServer::open("app");
  ASSERT_TRUE(server.ok());
  std::optional<ControlReply> kept;
  const auto handler = [&](const ControlRequest&, ControlReply reply) { kept = reply; };
  auto fd = raw_connection();
  const std::string request = "{\"command\":\"checkpoint\"}\n";
  ASSERT_GT(::send(fd.get(), request.data(), request.size(), 0), 0);
  server.value()->on_readable(handler);
  server.value()->on_readable(handler);
  ASSERT_TRUE(kept.has_value());
  EXPECT_TRUE(kept->waiting());
  fd.reset();
  server.value()->on_readable(handler);
  EXPECT_FALSE(kept->waiting());
  kept->ok("{}");  // into the void
  pollfd p{server.value()->fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 50), 0) << "nothing is left to do";
  server = plain_error("gone");
  kept->fail("the server is gone too");
}

TEST_F(Control, OnlyTheOwnerAndRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  auto server = ControlServer::open("app");
  ASSERT_TRUE(server.ok());
  // Mode bits keep others out; even with them gone the peer's identity does.
  ASSERT_EQ(::chmod(dir_.c_str(), 0755), 0);
  ASSERT_EQ(::chmod(control_dir().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(server.value()->path().c_str(), 0666), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(50);
    const auto fd = raw_connection();
    [[maybe_unused]] const auto sent = ::send(fd.get(), "{\"command\":\"status\"}\n", 21, MSG_NOSIGNAL);
    char buffer[512];
    const ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
    ::_exit(n > 0 && std::string(buffer, static_cast<std::size_t>(n)).find("permission denied") !=
                         std::string::npos ? 0 : 51);
  }
  int handled = 0, status = 0;
  const auto deadline = Deadline::in(Millis(5000));
  while (::waitpid(pid, &status, WNOHANG) == 0 && !deadline.passed()) {
    pollfd p{server.value()->fd(), POLLIN, 0};
    if (::poll(&p, 1, 20) > 0)
      server.value()->on_readable([&](const ControlRequest&, ControlReply reply) {
        ++handled;
        reply.ok();
      });
  }
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(handled, 0);
}

}  // namespace
}  // namespace supervise
