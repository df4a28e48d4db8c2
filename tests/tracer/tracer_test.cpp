// The tracer with a policy of the test's own, on children that check themselves.
#include "tracer/tracer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "seccomp/filter.h"
#include "tracer/inject.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

constexpr Millis kLimit{20000};

class Recorder : public TracerPolicy {
 public:
  std::function<EntryDecision(Task&)> entry = [](Task&) { return EntryDecision{}; };
  std::function<ExitAction(Task&, long, ptrace_raw::Regs&)> exit;
  int births = 0, execs = 0, dropped = 0;
  std::map<pid_t, Stop> ends;

  EntryDecision on_entry(Task& task) override { return entry(task); }
  ExitAction on_exit(Task& task, long result, ptrace_raw::Regs& regs) override {
    return exit ? exit(task, result, regs) : ExitAction::Continue;
  }
  void on_call_dropped(Task&) override { ++dropped; }
  SignalAction on_signal(Task&, const siginfo_t&) override { return SignalAction::Deliver; }
  void on_new_task(Task&, pid_t) override { ++births; }
  void on_exec(Task&) override { ++execs; }
  void on_end(const Task& task, const Stop& stop) override { ends[task.tid] = stop; }
  void on_other_child(pid_t, const Stop&) override {}
};

void install_filter() {
  auto filter = filter_build(filter_plan({}));
  if (!filter) _exit(120);
  const sock_fprog program{static_cast<unsigned short>(filter->size()), const_cast<sock_filter*>(filter->data())};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
    _exit(121);
}

class TracerTest : public testing::Test {
 protected:
  TracerTest() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &before_);
    EXPECT_EQ(pipe2(gate_, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(told_, O_CLOEXEC), 0);
  }
  ~TracerTest() override {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      run_until([&] { return !tracer_.has_tasks(); });
      waitpid(child_, nullptr, WNOHANG);
    }
    for (int fd : {gate_[0], gate_[1], told_[0], told_[1]}) close(fd);
    sigprocmask(SIG_SETMASK, &before_, nullptr);
  }

  // `what` runs in a child that is traced from before its first instruction of it.
  void start(std::function<int()> what, bool filtered = false) {
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      alarm(60);
      char byte;
      if (read(gate_[0], &byte, 1) != 1) _exit(122);
      if (filtered) install_filter();
      _exit(what());
    }
    ASSERT_TRUE(tracer_.seize_new(child_).ok());
    open_gate();
  }
  void open_gate() { ASSERT_EQ(write(gate_[1], "g", 1), 1); }
  void tell() { (void)!write(told_[1], "t", 1); }  // in the child
  // Until the child has told `count` times, serving its stops.
  bool await_told(int count) {
    return run_until([&] {
      pollfd p{told_[0], POLLIN, 0};
      char byte;
      while (count > 0 && poll(&p, 1, 0) == 1 && read(told_[0], &byte, 1) == 1) --count;
      return count == 0;
    });
  }
  bool run_until(const std::function<bool()>& done) {
    const Deadline deadline = Deadline::in(kLimit);
    while (!done()) {
      if (deadline.passed()) return false;
      if (!tracer_.drain()) wait_for_sigchld(deadline);
    }
    return true;
  }
  int end_code() {
    if (!run_until([&] { return policy_.ends.contains(child_); })) return -1;
    const Stop stop = policy_.ends[child_];
    if (!tracer_.has_tasks()) child_ = 0;
    return stop.kind == StopKind::Exited ? stop.code : 1000 + stop.signal;
  }
  bool all_clean() const {
    for (const auto& [tid, task] : tracer_.all())
      if (task.state != RunState::Stopped || !task.clean) return false;
    return true;
  }

  Recorder policy_;
  Tracer tracer_{policy_};
  pid_t child_ = 0;
  int gate_[2] = {-1, -1}, told_[2] = {-1, -1};
  sigset_t before_{};
};

TEST_F(TracerTest, TellsHowAProcessEnds) {
  start([] { return 7; });
  EXPECT_EQ(end_code(), 7);
  EXPECT_FALSE(tracer_.has_tasks());
}

TEST_F(TracerTest, TellsOfASignalThatKills) {
  start([] {
    kill(getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(end_code(), 1000 + SIGKILL);
}

TEST_F(TracerTest, AskedAtEntryToldAtExitAndTheResultCanBeChanged) {
  int entries = 0;
  std::vector<long> results;
  policy_.entry = [&](Task& task) {
    if (task.call->nr != SYS_unlink) return EntryDecision{};
    ++entries;
    return EntryDecision{entries == 1 ? EntryAction::Watch : EntryAction::Skip, -EROFS};
  };
  policy_.exit = [&](Task&, long result, ptrace_raw::Regs& regs) {
    results.push_back(result);
    regs.rax = static_cast<unsigned long long>(-ESTALE);
    return ExitAction::Continue;
  };
  start([] {
    if (unlink("/nowhere/at/all") != -1 || errno != ESTALE) return 1;
    if (unlink("/nowhere/at/all") != -1 || errno != EROFS) return 2;
    return 0;
  }, true);
  EXPECT_EQ(end_code(), 0);
  EXPECT_EQ(entries, 2);
  EXPECT_EQ(results, std::vector<long>{-ENOENT});
}

TEST_F(TracerTest, ACallIsRunAgainWhenThePolicySaysSo) {
  int exits = 0;
  policy_.entry = [&](Task& task) {
    return EntryDecision{task.call->nr == SYS_unlink ? EntryAction::Watch : EntryAction::Pass, 0};
  };
  policy_.exit = [&](Task&, long, ptrace_raw::Regs&) {
    return ++exits < 5 ? ExitAction::Again : ExitAction::Continue;
  };
  start([] { return unlink("/nowhere/at/all") == -1 && errno == ENOENT ? 0 : 1; }, true);
  EXPECT_EQ(end_code(), 0);
  EXPECT_EQ(exits, 5);
}

TEST_F(TracerTest, AHeldCallWaitsForItsRelease) {
  pid_t held = 0;
  bool released = false;
  policy_.entry = [&](Task& task) {
    if (task.call->nr != SYS_unlink || released) return EntryDecision{};
    held = task.tid;
    return EntryDecision{EntryAction::Hold, 0};
  };
  start([] { return unlink("/nowhere/at/all") == -1 && errno == ENOENT ? 0 : 1; }, true);
  ASSERT_TRUE(run_until([&] { return held != 0; }));
  ASSERT_NE(tracer_.find(held), nullptr);
  EXPECT_TRUE(tracer_.find(held)->held);
  released = true;
  tracer_.release(*tracer_.find(held));
  EXPECT_EQ(end_code(), 0);
}

TEST_F(TracerTest, HoldsThreadsInCallsWithoutOneEintr) {
  start([&] {
    std::atomic<int> wrong{0};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 3;
    const timeval limit{30, 0};
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&, i] {
        tell();
        char byte;
        const long n = i % 2 ? read(gate_[0], &byte, 1) : recv(pair[0], &byte, 1, 0);
        if (n != 1) ++wrong;
        if (i % 2) (void)!write(pair[1], "x", 1);
      });
    for (auto& t : threads) t.join();
    return wrong.load();
  });
  ASSERT_TRUE(await_told(4));
  for (int i = 0; i < 50; ++i) {
    auto held = tracer_.hold_all(Deadline::in(kLimit));
    ASSERT_TRUE(held.ok()) << held.error().message();
    EXPECT_EQ(tracer_.all().size(), 5u);
    EXPECT_TRUE(all_clean());
    tracer_.resume_all();
  }
  open_gate();
  open_gate();
  EXPECT_EQ(end_code(), 0);
}

TEST_F(TracerTest, ParksAndAdoptsWithoutOneEintr) {
  start([&] {
    const pid_t sleeper = fork();
    if (sleeper == 0) {
      pollfd none{-1, 0, 0};
      poll(&none, 1, -1);
      _exit(9);
    }
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 3;
    const timeval limit{30, 0};
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 6; ++i)
      threads.emplace_back([&] {
        tell();
        char byte;
        if (recv(pair[0], &byte, 1, 0) != 1) ++wrong;
      });
    char byte;
    if (read(gate_[0], &byte, 1) != 1) ++wrong;
    for (int i = 0; i < 6; ++i) (void)!write(pair[1], "x", 1);
    for (auto& t : threads) t.join();
    kill(sleeper, SIGKILL);
    int status;
    if (waitpid(sleeper, &status, 0) != sleeper || WTERMSIG(status) != SIGKILL) ++wrong;
    return wrong.load();
  });
  ASSERT_TRUE(await_told(6));
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(tracer_.hold_all(Deadline::in(kLimit)).ok());
    ASSERT_TRUE(tracer_.park(Deadline::in(kLimit)).ok());
    EXPECT_FALSE(tracer_.has_tasks());
    EXPECT_EQ(task_state(child_), 'T');
    auto adopted = tracer_.adopt({child_}, tracer_.stopped_by_app(), Deadline::in(kLimit));
    ASSERT_TRUE(adopted.ok()) << adopted.error().message();
    EXPECT_EQ(tracer_.all().size(), 8u);
    tracer_.resume_all();
    run_until([until = Deadline::in(Millis(5))] { return until.passed(); });
  }
  open_gate();
  EXPECT_EQ(end_code(), 0);
}

TEST_F(TracerTest, InjectedCallsLeaveNoTrace) {
  start([&] {
    tell();
    char byte;
    return read(gate_[0], &byte, 1) == 1 ? 0 : 1;
  });
  ASSERT_TRUE(await_told(1));
  ASSERT_TRUE(tracer_.hold_all(Deadline::in(kLimit)).ok());
  Task* task = tracer_.any_thread(child_);
  ASSERT_NE(task, nullptr);
  const auto before = maps_of(child_);
  {
    auto injector = Injector::open(tracer_, *task, Deadline::in(kLimit));
    ASSERT_TRUE(injector.ok()) << injector.error().message();
    EXPECT_EQ(injector->call(SYS_getpid).value_or(-1), child_);
    const auto at = injector->call(SYS_mmap, {0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                              static_cast<std::uint64_t>(-1), 0});
    ASSERT_TRUE(at.ok());
    EXPECT_GT(*at, 0);
    EXPECT_EQ(injector->call(SYS_munmap, {static_cast<std::uint64_t>(*at), 4096}).value_or(-1), 0);
    EXPECT_EQ(injector->call(SYS_close, {9999}).value_or(0), -EBADF);
    EXPECT_FALSE(injector->call_checked(SYS_close, {9999}).ok());
  }
  const auto after = maps_of(child_);
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_EQ(before->size(), after->size()) << "the scratch page is gone";
  tracer_.resume_all();
  open_gate();
  EXPECT_EQ(end_code(), 0);
}

TEST_F(TracerTest, AnExecFromAThreadThatIsNotTheLeader) {
  start([] {
    std::thread([] { execl("/bin/sh", "sh", "-c", "exit 5", nullptr); }).detach();
    for (;;) pause();
    return 1;
  });
  EXPECT_EQ(end_code(), 5);
  EXPECT_EQ(policy_.execs, 1);
  EXPECT_FALSE(tracer_.has_tasks());
}

TEST_F(TracerTest, HoldsWhileVforkChildrenComeAndGo) {
  start([] {
    for (int i = 0; i < 40; ++i) {
      const pid_t pid = vfork();
      if (pid == 0) {
        execl("/bin/true", "true", nullptr);
        _exit(99);
      }
      int status = -1;
      if (waitpid(pid, &status, 0) != pid || status != 0) return 1;
    }
    return 0;
  });
  int holds = 0;
  while (!policy_.ends.contains(child_) && holds < 10000) {
    if (!tracer_.has_tasks()) break;
    auto held = tracer_.hold_all(Deadline::in(kLimit));
    ASSERT_TRUE(held.ok()) << held.error().message();
    EXPECT_TRUE(all_clean());
    tracer_.resume_all();
    ++holds;
    run_until([until = Deadline::in(Millis(2))] { return until.passed(); });
  }
  EXPECT_EQ(end_code(), 0);
  EXPECT_GE(policy_.births, 40);
  EXPECT_GT(holds, 3);
}

}  // namespace
}  // namespace supervise
