#include "supervisor/base/worker.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstring>
#include <stdexcept>
#include <thread>

namespace supervise {
namespace {

using testing::HasSubstr;

Deadline soon() { return Deadline::in(Millis(10000)); }

int open_fds() {
  int n = 0;
  for (int fd = 0; fd < 4096; ++fd) n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

TEST(Worker, HandsBackBytesOfAnySize) {
  for (std::size_t size : {0u, 1u, 4096u, 5u << 20}) {
    auto r = run_worker("bytes", soon(), [&]() -> Result<WorkerOutput> {
      return WorkerOutput{std::string(size, 'x') + "end", {}};
    });
    ASSERT_TRUE(r.ok()) << r.error().message();
    EXPECT_EQ(r->bytes.size(), size + 3);
    EXPECT_EQ(r->bytes.substr(size), "end");
    EXPECT_TRUE(r->fds.empty());
  }
}

TEST(Worker, SeesTheParentsMemoryAndCannotChangeIt) {
  std::string mine = "before";
  auto r = run_worker("memory", soon(), [&]() -> Result<WorkerOutput> {
    std::string seen = mine;
    mine = "changed";
    return WorkerOutput{seen, {}};
  });
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->bytes, "before");
  EXPECT_EQ(mine, "before");
}

TEST(Worker, HandsBackDescriptorsInOrder) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  rlim_t want = std::min<rlim_t>(limit.rlim_max, 2048);
  if (limit.rlim_cur < want) {
    limit.rlim_cur = want;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  int before = open_fds();
  for (int count : {1, 200, 201, 450}) {
    auto r = run_worker("descriptors", soon(), [&]() -> Result<WorkerOutput> {
      WorkerOutput out;
      for (int i = 0; i < count; ++i) {
        int fd = memfd_create("n", 0);
        std::string text = std::to_string(i);
        if (fd < 0 || write(fd, text.data(), text.size()) < 0) return errno_error("memfd");
        out.fds.push_back(fd);
      }
      out.bytes = "done";
      return out;
    });
    ASSERT_TRUE(r.ok()) << r.error().message();
    EXPECT_EQ(r->bytes, "done");
    ASSERT_EQ(r->fds.size(), static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
      char buf[16] = {};
      ASSERT_GT(pread(r->fds[static_cast<std::size_t>(i)].get(), buf, sizeof buf, 0), 0);
      EXPECT_EQ(buf, std::to_string(i));
      EXPECT_TRUE(fcntl(r->fds[static_cast<std::size_t>(i)].get(), F_GETFD) & FD_CLOEXEC);
    }
  }
  EXPECT_EQ(open_fds(), before);
}

TEST(Worker, HandsBackAnErrorWithErrnoAndContext) {
  auto r = run_worker("replay of data", soon(), []() -> Result<WorkerOutput> {
    return errno_error(ENOSPC, "write x");
  });
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().err, ENOSPC);
  EXPECT_EQ(r.error().what, "replay of data: write x");
}

TEST(Worker, NamesABadDescriptorInsteadOfHanging) {
  auto r = run_worker("bad", soon(), []() -> Result<WorkerOutput> {
    return WorkerOutput{"x", {987654}};
  });
  ASSERT_FALSE(r.ok());
  EXPECT_THAT(r.error().what, HasSubstr("descriptor"));
}

TEST(Worker, TellsHowAChildEnded) {
  auto killed = run_worker("killed", soon(), []() -> Result<WorkerOutput> {
    raise(SIGKILL);
    return WorkerOutput{};
  });
  ASSERT_FALSE(killed.ok());
  EXPECT_THAT(killed.error().what, HasSubstr("killed by SIGKILL"));
  auto exited = run_worker("exited", soon(), []() -> Result<WorkerOutput> { _exit(7); });
  ASSERT_FALSE(exited.ok());
  EXPECT_THAT(exited.error().what, HasSubstr("exit status 7"));
  auto threw = run_worker("threw", soon(), []() -> Result<WorkerOutput> {
    throw std::runtime_error("oops");
  });
  ASSERT_FALSE(threw.ok());
  EXPECT_THAT(threw.error().what, HasSubstr("oops"));
}

TEST(Worker, KillsAtTheDeadlineWithItsChildren) {
  int pipefd[2];
  ASSERT_EQ(pipe2(pipefd, O_CLOEXEC), 0);
  auto start = Clock::now();
  auto r = run_worker("sleeper", Deadline::in(Millis(150)), [&]() -> Result<WorkerOutput> {
    if (fork() == 0) {  // holds the pipe until the group is killed
      close(pipefd[0]);
      sleep(60);
      _exit(0);
    }
    close(pipefd[1]);
    sleep(60);
    return WorkerOutput{};
  });
  close(pipefd[1]);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().err, ETIMEDOUT);
  EXPECT_THAT(r.error().what, HasSubstr("sleeper"));
  EXPECT_LT(ms_between(start, Clock::now()), 3000);
  fcntl(pipefd[0], F_SETFL, O_NONBLOCK);
  ssize_t n = -1;
  for (int i = 0; i < 200 && n < 0; ++i) {
    char c;
    n = read(pipefd[0], &c, 1);
    if (n < 0) usleep(10000);
  }
  EXPECT_EQ(n, 0) << "a grandchild outlived the worker";
  close(pipefd[0]);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
  EXPECT_EQ(errno, ECHILD);
}

TEST(Worker, ADeadlineInTheMiddleOfTheAnswerLeavesNoDescriptor) {
  int before = open_fds();
  auto r = run_worker("late", Deadline::in(Millis(0)), []() -> Result<WorkerOutput> {
    return WorkerOutput{std::string(8 << 20, 'y'), {0, 1, 2}};
  });
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().err, ETIMEDOUT);
  EXPECT_EQ(open_fds(), before);
}

TEST(Worker, SignalsForTheGroupDoNotReachIt) {
  // SIGTERM to the worker stays pending; the answer arrives.
  auto r = run_worker("signals", soon(), []() -> Result<WorkerOutput> {
    kill(getpid(), SIGTERM);
    kill(getpid(), SIGINT);
    return WorkerOutput{"alive", {}};
  });
  ASSERT_TRUE(r.ok()) << r.error().message();
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  EXPECT_FALSE(sigismember(&now, SIGTERM));
}

}  // namespace
}  // namespace supervise
