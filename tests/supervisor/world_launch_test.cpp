// The application's process: numbers, signals, descriptors, exits; tools beside it.
#include <sys/stat.h>

#include "tests/supervisor/world_test_support.h"

namespace supervise::test {
namespace {

Captured both(const LaunchSpec& spec) {
  return capture([&] { return supervised({}, spec); });
}

TEST(WorldLaunch, MirrorsExitsAsTheyAreWithoutIt) {
  NEEDS_ROOT();
  for (const std::string script : {"exit 0", "exit 7", "exit 255", "kill -TERM $$", "kill -9 $$",
                                   "sh -c 'exit 3'; exit $?", "kill -ABRT $$"}) {
    auto with = both(shell(script));
    auto without = capture([&] { return native(shell(script)); });
    EXPECT_EQ(with.code, without.code) << script << "\n" << with.text;
  }
}

TEST(WorldLaunch, TellsNotFoundFromNotExecutable) {
  NEEDS_ROOT();
  TempDir dir;
  write_file(dir / "plain", "echo ran by sh\n");
  EXPECT_EQ(both(program({"no-such-program-anywhere"})).code, 127);
  EXPECT_EQ(both(program({"/no/such/file"})).code, 127);
  EXPECT_EQ(both(program({dir / "plain"})).code, 126);
  EXPECT_EQ(both(program({"/tmp"})).code, 126);
  // A script without an interpreter line, as execvp(3) runs it.
  chmod((dir / "plain").c_str(), 0755);
  auto script = both(program({dir / "plain"}));
  EXPECT_EQ(script.code, 0);
  EXPECT_EQ(script.text, "ran by sh\n");
}

TEST(WorldLaunch, NamesTheStageThatFailed) {
  NEEDS_ROOT();
  auto failing = [](LaunchSpec spec) {
    return capture([&] {
      auto world = World::create({});
      auto pid = (*world)->prepare_launch(spec);
      if (!pid) {
        (*world)->finish_stdio();
        dprintf(1, "%s", pid.error().message().c_str());
        return 1;
      }
      (*world)->release_launch().ignore();
      await_app(**world, Deadline::in(Millis(5000)));
      auto error = (*world)->launch_error();
      (*world)->finish_stdio();
      if (error) dprintf(1, "%s", error->message().c_str());
      return 2;
    }).text;
  };
  auto lost = shell("true");
  lost.cwd = "/no/such/directory";
  EXPECT_THAT(failing(lost), testing::HasSubstr("chdir /no/such/directory"));
  EXPECT_THAT(failing(program({"/no/such"})), testing::HasSubstr("execve /no/such"));
  EXPECT_EQ(failing(shell("true")), "");
}

TEST(WorldLaunch, IsPidTwoOfItsOwnSession) {
  NEEDS_ROOT();
  auto run = both(shell("read pid comm state ppid pgrp sid rest < /proc/self/stat; "
                        "echo $$ $PPID; cut -d' ' -f5,6 /proc/$$/stat; cat /proc/1/comm"));
  EXPECT_EQ(run.text, "2 1\n2 2\nsupervise-init\n");
}

TEST(WorldLaunch, InheritsNoOtherDescriptor) {
  NEEDS_ROOT();
  auto run = capture([] {
    for (int fd : {5, 9, 77}) dup2(1, fd);
    return supervised({}, shell("for f in 3 4 5 6 7 8 9 10 20 77; do "
                                "test -e /proc/$$/fd/$f && echo $f; done; echo done"));
  });
  EXPECT_EQ(run.text, "done\n");
}

TEST(WorldLaunch, ClosedStreamsStayClosed) {
  NEEDS_ROOT();
  auto run = capture([] {
    close(0);
    return supervised({}, shell("test -e /proc/$$/fd/0 && echo open; test -e /proc/$$/fd/1 && "
                                "echo out"));
  });
  EXPECT_EQ(run.text, "out\n");
}

TEST(WorldLaunch, GetsSignalsLimitsAndUmaskAsTheyWere) {
  NEEDS_ROOT();
  auto script = shell("grep -E 'Sig(Blk|Ign)' /proc/self/status; umask; ulimit -n; nice; "
                      "cat /proc/self/oom_score_adj; id -u; grep Cap /proc/self/status");
  auto prepare = [] {
    signal(SIGUSR1, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    umask(0037);
  };
  auto with = capture([&] {
    prepare();
    return supervised({}, script);
  });
  auto without = capture([&] {
    prepare();
    return native(script);
  });
  EXPECT_EQ(with.text, without.text);
}

TEST(WorldLaunch, HasItsOwnIpcNamespaceAndSharesTheRest) {
  NEEDS_ROOT();
  auto run = both(shell("for n in ipc mnt pid net uts user; do test $(readlink /proc/self/ns/$n) "
                        "= $(readlink /proc/1/ns/$n) && echo $n same || echo $n own; done"));
  EXPECT_EQ(run.text, "ipc own\nmnt same\npid same\nnet same\nuts same\nuser same\n");
}

TEST(WorldLaunch, OrphansAreReaped) {
  NEEDS_ROOT();
  auto run = both(shell("for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 0.5; "
                        "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"));
  EXPECT_EQ(run.text, "0\n");
}

TEST(WorldLaunch, WaitsForItsRelease) {
  NEEDS_ROOT();
  KeepStdio keep;
  auto world = World::create({});
  ASSERT_TRUE(world.ok()) << world.error().message();
  auto pid = (*world)->prepare_launch(shell("exit 4"));
  ASSERT_TRUE(pid.ok()) << pid.error().message();
  poll(nullptr, 0, 100);
  EXPECT_FALSE((*world)->app_exit());
  EXPECT_EQ((*world)->inner_pid(*pid).value_or(0), 2);
  EXPECT_EQ((*world)->outer_pid(2).value_or(0), *pid);
  EXPECT_EQ((*world)->outer_pid(1).value_or(0), (*world)->init_pid());
  EXPECT_TRUE((*world)->outer_pid(99).error().is_gone());
  ASSERT_TRUE((*world)->release_launch().ok());
  auto end = await_app(**world, Deadline::in(Millis(5000)));
  ASSERT_TRUE(end);
  EXPECT_EQ(end->code, 4);
}

TEST(WorldLaunch, EndKillsEverything) {
  NEEDS_ROOT();
  KeepStdio keep;
  auto world = World::create({});
  ASSERT_TRUE(world.ok());
  auto pid = (*world)->prepare_launch(shell("(setsid sleep 1000 &); trap '' TERM; sleep 1000"));
  ASSERT_TRUE(pid.ok());
  ASSERT_TRUE((*world)->release_launch().ok());
  poll(nullptr, 0, 200);
  pid_t init = (*world)->init_pid();
  EXPECT_TRUE((*world)->end(Deadline::in(Millis(3000))).ok());
  EXPECT_NE(kill(init, 0), 0);
  EXPECT_NE(kill(*pid, 0), 0);
}

TEST(WorldLaunch, OutlivesTheSupervisorUntilItsLastChildEnds) {
  NEEDS_ROOT();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  pid_t supervisor = fork();
  if (supervisor == 0) {
    auto world = World::create({});
    auto pid = (*world)->prepare_launch(shell("sleep 0.6"));
    (*world)->release_launch().ignore();
    pid_t init = (*world)->init_pid();
    if (write(ends[1], &init, sizeof init) < 0) _exit(1);
    kill(getpid(), SIGKILL);
  }
  pid_t init = 0;
  ASSERT_EQ(read(ends[0], &init, sizeof init), static_cast<ssize_t>(sizeof init));
  waitpid(supervisor, nullptr, 0);
  EXPECT_EQ(kill(init, 0), 0);
  std::string state = "running";
  for (int i = 0; i < 300 && !state.empty() && state.find('Z') == std::string::npos; ++i) {
    poll(nullptr, 0, 10);
    std::ifstream status("/proc/" + std::to_string(init) + "/status");
    state.clear();
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("State:")) state = line;
    }
  }
  // Gone, or waiting for whoever reaps it.
  EXPECT_TRUE(state.empty() || state.find('Z') != std::string::npos) << state;
  close(ends[0]);
  close(ends[1]);
}

class WorldTools : public testing::Test {
 protected:
  void SetUp() override {
    NEEDS_ROOT();
    auto made = World::create({});
    ASSERT_TRUE(made.ok()) << made.error().message();
    world_ = made.take();
  }
  Result<ExitInfo> run(const std::string& script, std::vector<std::pair<int, int>> fds = {},
                       int ms = 10000) {
    ProcessSpec spec;
    spec.argv = {"/bin/sh", "-c", script};
    spec.fds = std::move(fds);
    return world_->run(spec, Deadline::in(Millis(ms)));
  }
  KeepStdio keep_;
  std::unique_ptr<World> world_;
};

TEST_F(WorldTools, GiveTheirExit) {
  EXPECT_TRUE(run("exit 0").value().success());
  EXPECT_EQ(run("exit 9").value().code, 9);
  auto killed = run("kill -SEGV $$").value();
  EXPECT_TRUE(killed.signaled);
  EXPECT_EQ(killed.code, SIGSEGV);
  ProcessSpec none;
  none.argv = {"/no/such/tool"};
  auto missing = world_->run(none, Deadline::in(Millis(5000)));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().err, ENOENT);
  EXPECT_THAT(missing.error().message(), testing::HasSubstr("/no/such/tool"));
}

TEST_F(WorldTools, GetDescriptorsAtTheirNumbers) {
  TempDir dir;
  int out = open((dir / "out").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  int in = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
  auto end = run("exec >&9; cat /proc/$$/fd/200; LC_ALL=C ls /proc/$$/fd", {{out, 9}, {in, 200}});
  ASSERT_TRUE(end.ok()) << end.error().message();
  EXPECT_EQ(read_file(dir / "out"), read_file("/etc/hostname") + "0\n1\n2\n200\n9\n");
  close(out);
  close(in);
}

TEST_F(WorldTools, AreKilledAtTheDeadlineWithTheirChildren) {
  auto end = run("sleep 1000 & sleep 1000", {}, 200);
  ASSERT_FALSE(end.ok());
  EXPECT_EQ(end.error().err, ETIMEDOUT);
  EXPECT_THAT(end.error().message(), testing::HasSubstr("/bin/sh"));
  TempDir dir;
  int out = open((dir / "out").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_TRUE(run("cat /proc/[0-9]*/comm | grep -c sleep >&9; true", {{out, 9}}).ok());
  EXPECT_EQ(read_file(dir / "out"), "0\n");
  close(out);
}

TEST_F(WorldTools, HavePidsFarFromTheApplications) {
  TempDir dir;
  int out = open((dir / "out").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  ASSERT_TRUE(run("echo $$ $(sh -c 'echo $$') >&9", {{out, 9}}).ok());
  std::istringstream pids(read_file(dir / "out"));
  int tool = 0;
  int child = 0;
  pids >> tool >> child;
  EXPECT_GT(tool, 20000);
  EXPECT_GT(child, tool);
  // The application still starts as PID 2, and its children follow it.
  auto pid = world_->prepare_launch(shell("exit 0"));
  ASSERT_TRUE(pid.ok());
  EXPECT_EQ(world_->inner_pid(*pid).value_or(0), 2);
  EXPECT_EQ(world_->last_pid().value_or(0), 2);
  ASSERT_TRUE(run("true").ok());
  EXPECT_EQ(world_->last_pid().value_or(0), 2);
  ASSERT_TRUE(world_->release_launch().ok());
  // PIDs of an image are kept free.
  std::set<int> kept;
  for (int p = 20000; p < 4200000; p += 150) kept.insert(p);
  world_->keep_tools_off(kept);
  ASSERT_EQ(ftruncate(out, 0), 0);
  lseek(out, 0, SEEK_SET);
  ASSERT_TRUE(run("echo $$ >&9", {{out, 9}}).ok());
  EXPECT_LT(std::stoi(read_file(dir / "out")), 20000);
  close(out);
}

TEST_F(WorldTools, RunWhileTheApplicationRuns) {
  auto pid = world_->prepare_launch(shell("sleep 0.5; exit 6"));
  ASSERT_TRUE(pid.ok());
  ASSERT_TRUE(world_->release_launch().ok());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(run("exit 0").ok());
  auto end = await_app(*world_, Deadline::in(Millis(5000)));
  ASSERT_TRUE(end);
  EXPECT_EQ(end->code, 6);
}

TEST(WorldWithoutNamespaces, StillRunsAndSaysWhatIsMissing) {
  auto run = capture([] {
    WorldSpec spec;
    spec.want_namespaces = false;
    spec.places.push_back({"data", "/tmp", "/tmp"});
    auto world = World::create(spec);
    if (!world || (*world)->has_namespaces() || (*world)->limits().size() != 1) return 100;
    if ((*world)->limits()[0].find("CAP_SYS_ADMIN") == std::string::npos) return 101;
    if ((*world)->rebind("data", "/var", Deadline::in(Millis(1000))).ok()) return 102;
    ProcessSpec tool;
    tool.argv = {"/bin/sh", "-c", "exit 5"};
    auto end = (*world)->run(tool, Deadline::in(Millis(5000)));
    if (!end || end->code != 5) return 103;
    tool.argv = {"/bin/sleep", "100"};
    auto slow = (*world)->run(tool, Deadline::in(Millis(100)));
    if (slow.ok() || slow.error().err != ETIMEDOUT) return 104;
    auto pid = (*world)->prepare_launch(shell("(sleep 1000 &); echo to stdout; exit 9"));
    if (!pid || !(*world)->release_launch()) return 105;
    auto app = await_app(**world, Deadline::in(Millis(5000)));
    if (!app || app->code != 9) return 106;
    if (!(*world)->end(Deadline::in(Millis(3000)))) return 107;
    (*world)->finish_stdio();
    return 0;
  });
  EXPECT_EQ(run.code, 0) << run.text;
  EXPECT_EQ(run.text, "to stdout\n");
}

}  // namespace
}  // namespace supervise::test
