// The application's standard streams: as without a supervisor, whatever they are.
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "tests/supervisor/world_test_support.h"

namespace supervise::test {
namespace {

// `script` run by a shell, in which $RUN stands for: the program in APP under a supervisor of ours.
std::string run_shell(const std::string& script, const std::string& run) {
  TempDir dir;
  std::string file = dir / "out";
  pid_t pid = fork();
  if (pid == 0) {
    setenv("RUN", run.c_str(), 1);
    setenv("OUT", file.c_str(), 1);
    execl("/bin/bash", "bash", "-c", script.c_str(), nullptr);
    _exit(125);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return read_file(file);
}

// This test program run again, with a variable that makes it a supervisor before main() begins.
std::string under_us(const std::string& script) {
  char self[PATH_MAX] = {};
  if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return {};
  return run_shell(script, std::string("env WORLD_TEST_SUPERVISE=1 ") + self);
}
std::string natively(const std::string& script) {
  TempDir dir;
  write_file(dir / "run", "exec sh -c \"$APP\"\n");
  return run_shell(script, "sh " + (dir / "run"));
}

const bool kSupervise = [] {
  const char* app = getenv("APP");
  if (!getenv("WORLD_TEST_SUPERVISE") || !app) return false;
  unsetenv("WORLD_TEST_SUPERVISE");
  _exit(supervised({}, shell(app)));
}();

struct Case {
  const char* name;
  const char* script;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.script; }

class SameAsNative : public testing::TestWithParam<Case> {};

TEST_P(SameAsNative, Output) {
  NEEDS_ROOT();
  ASSERT_FALSE(kSupervise);
  auto with = under_us(GetParam().script);
  EXPECT_EQ(with, natively(GetParam().script));
  EXPECT_NE(with, "");
}

INSTANTIATE_TEST_SUITE_P(
    WorldStdio, SameAsNative,
    testing::Values(
        Case{"OffsetsGoOnAfterwards", "export APP='echo x'; (echo a; $RUN; echo b) > $OUT"},
        Case{"Append", "export APP='echo x'; echo a > $OUT; ($RUN; echo b) >> $OUT"},
        Case{"ErrorAndOutputShareOneFile",
             "export APP='echo 1; echo 2 >&2; echo 3; echo 4 >&2'; (echo a; $RUN; echo b) > $OUT "
             "2>&1"},
        Case{"InputGoesOnWhereTheProgramStopped",
             "printf '1\\n2\\n3\\n4\\n' > $OUT.in; export APP='read a; read b; echo got $a $b'; "
             "($RUN; cat) < $OUT.in > $OUT"},
        Case{"ReadAndWriteOneFile",
             "echo abcdef > $OUT.f; export APP='dd bs=3 count=1 status=none; printf X >&0'; "
             "$RUN 0<> $OUT.f > $OUT.o; cat $OUT.o $OUT.f > $OUT"},
        Case{"DeletedFile",
             "export APP='cat; echo x'; exec 5> $OUT.d 6< $OUT.d; rm $OUT.d; "
             "echo in > $OUT.i; exec 7< $OUT.i; rm $OUT.i; $RUN >&5 <&7; cat <&6 > $OUT"},
        Case{"Pipes", "export APP='tr a-z A-Z'; echo hello | $RUN | cat > $OUT"},
        Case{"BigPipe", "export APP='cat'; seq 1 200000 | $RUN | tail -n +1 | md5sum > $OUT"},
        Case{"EndOfPipeIsSeenWhenTheProgramCloses",
             "export APP='echo x; exec >&-; sleep 4'; (timeout -s KILL 3 $RUN & wait) 2>/dev/null | "
             "timeout 2 cat > $OUT; echo ${PIPESTATUS[1]} >> $OUT"},
        Case{"WriterGetsSigpipe",
             "export APP='exec <&-; sleep 1'; (timeout 10 yes; echo $? > $OUT) | $RUN"},
        Case{"Fifo",
             "mkfifo $OUT.p; export APP='echo through; cat'; (cat $OUT.p > $OUT) & "
             "echo in | $RUN > $OUT.p; wait"},
        Case{"NullAndZero",
             "export APP='cat; head -c 3 /dev/zero | od -An -c'; $RUN < /dev/null > $OUT"},
        Case{"Full", "export APP='echo x; echo $? >&2'; $RUN > /dev/full 2> $OUT.e; "
                     "tail -n 1 $OUT.e > $OUT"},
        Case{"ClosedInput", "export APP='cat; echo $?'; $RUN <&- > $OUT 2>/dev/null"},
        Case{"ExitStatus", "export APP='exit 9'; $RUN; echo $? > $OUT"}),
    [](const auto& given) { return std::string(given.param.name); });

TEST(WorldStdio, ASocketIsCarriedBothWays) {
  NEEDS_ROOT();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  // A process, not a thread: the supervisor forks, which a process with threads must not.
  pid_t peer = fork();
  if (peer == 0) {
    close(pair[1]);
    char text[64] = {};
    if (write(pair[0], "ping\n", 5) != 5) _exit(1);
    std::string got;
    while (got.find("end\n") == std::string::npos) {
      ssize_t n = read(pair[0], text, sizeof text);
      if (n <= 0) break;
      got.append(text, static_cast<std::size_t>(n));
    }
    _exit(got == "ping\nend\n" ? 0 : 2);
  }
  int code = in_child([&] {
    dup2(pair[1], 0);
    dup2(pair[1], 1);
    close(pair[0]);
    close(pair[1]);
    return supervised({}, shell("read x; echo $x; test -p /proc/self/fd/1 || exit 5; echo end"));
  });
  close(pair[0]);
  close(pair[1]);
  int status = -1;
  EXPECT_EQ(waitpid(peer, &status, 0), peer);
  EXPECT_EQ(status, 0) << "what the other end of the socket got";
  EXPECT_EQ(code, 0);
}

TEST(WorldStdio, NamesStreamsAsImagesDo) {
  NEEDS_ROOT();
  auto run = capture([] {
    int ends[2];
    if (pipe(ends) != 0) return 100;
    struct stat st {};
    fstat(ends[0], &st);
    dup2(ends[0], 0);
    auto world = World::create({});
    if (!world || !(*world)->prepare_launch(shell("true"))) return 101;
    auto streams = (*world)->stdio();
    if (streams.size() != 3 || !(*world)->criu_externals().empty()) return 102;
    if (streams[0].kind != "pipe" || streams[0].id != "pipe:[" + std::to_string(st.st_ino) + "]")
      return 103;
    if (streams[1].kind != "file" || streams[1].id.starts_with("/") ||
        streams[1].id != streams[2].id)
      return 104;
    return 0;
  });
  EXPECT_EQ(run.code, 0);
}

TEST(WorldTerminal, IsHandedToTheApplicationAndBack) {
  NEEDS_ROOT();
  Terminal terminal([] {
    return supervised({}, shell("tty; stty size; read x; echo got $x; "
                                "test \"$(cut -d' ' -f8 /proc/self/stat)\" = 2 && echo leader; "
                                "exit 12"));
  });
  EXPECT_TRUE(terminal.expect("/dev/pts/")) << terminal.seen();
  EXPECT_TRUE(terminal.expect("33 77"));
  EXPECT_TRUE(terminal.becomes_raw(true));
  terminal.type("hello\r");
  EXPECT_TRUE(terminal.expect("got hello"));
  EXPECT_TRUE(terminal.expect("leader"));
  EXPECT_EQ(terminal.wait_exit(), 12);
  EXPECT_FALSE(terminal.raw());
}

TEST(WorldTerminal, InterruptReachesTheApplication) {
  NEEDS_ROOT();
  Terminal terminal([] { return supervised({}, shell("echo ready; exec sleep 1000")); });
  ASSERT_TRUE(terminal.expect("ready"));
  ASSERT_TRUE(terminal.becomes_raw(true));
  terminal.type("\x03");
  EXPECT_EQ(terminal.wait_exit(), 130);
  EXPECT_FALSE(terminal.raw());
}

TEST(WorldTerminal, JobControlWorksInside) {
  NEEDS_ROOT();
  Terminal terminal([] {
    auto spec = program({"/bin/bash", "--norc", "-i"});
    spec.env.push_back("PS1=ready> ");
    return supervised({}, spec);
  });
  ASSERT_TRUE(terminal.expect("ready> "));
  terminal.type("sleep 300\r");
  poll(nullptr, 0, 500);
  terminal.type("\x1a");
  EXPECT_TRUE(terminal.expect("Stopped"));
  terminal.type("bg; kill %1; wait; echo after-$?\r");
  EXPECT_TRUE(terminal.expect("after-"));
  terminal.type("sleep 300\r");
  poll(nullptr, 0, 500);
  terminal.type("\x03");
  terminal.type("echo rc-$?\r");
  EXPECT_TRUE(terminal.expect("rc-130"));
  terminal.type("exit 3\r");
  EXPECT_EQ(terminal.wait_exit(), 3);
}

TEST(WorldTerminal, WindowSizeFollows) {
  NEEDS_ROOT();
  Terminal terminal([] {
    return supervised({}, program({"/bin/bash", "-c",
                                   "trap 'stty size; exit 0' WINCH; echo ready; "
                                   "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3; done; exit 1"}));
  });
  ASSERT_TRUE(terminal.expect("ready"));
  winsize size{20, 50, 0, 0};
  ASSERT_EQ(ioctl(terminal.master(), TIOCSWINSZ, &size), 0);
  EXPECT_TRUE(terminal.expect("20 50"));
  EXPECT_EQ(terminal.wait_exit(), 0);
}

TEST(WorldTerminal, IsRestoredWhenTheSupervisorIsKilled) {
  NEEDS_ROOT();
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  // A shell's place: the session's leader stays, the supervisor is its child.
  Terminal terminal([&] {
    pid_t child = fork();
    if (child == 0) _exit(supervised({}, shell("echo ready; sleep 1000")));
    if (write(ends[1], &child, sizeof child) < 0) return 1;
    waitpid(child, nullptr, 0);
    poll(nullptr, 0, 3000);
    return 0;
  });
  pid_t supervisor = 0;
  ASSERT_EQ(read(ends[0], &supervisor, sizeof supervisor), static_cast<ssize_t>(sizeof supervisor));
  ASSERT_TRUE(terminal.expect("ready"));
  ASSERT_TRUE(terminal.becomes_raw(true));
  kill(supervisor, SIGKILL);
  EXPECT_TRUE(terminal.becomes_raw(false));
  close(ends[0]);
  close(ends[1]);
}

TEST(WorldTerminal, IsRestoredWhenTheRelayIsKilled) {
  NEEDS_ROOT();
  Terminal terminal([] {
    return supervised({}, shell("trap 'exit 4' HUP; echo ready; while :; do sleep 0.1; done"),
                      [](World& world) {
                        poll(nullptr, 0, 500);
                        for (pid_t relay : world.relay_pids()) kill(relay, SIGKILL);
                      });
  });
  ASSERT_TRUE(terminal.expect("ready"));
  ASSERT_TRUE(terminal.becomes_raw(true));
  // The application's terminal hangs up.
  EXPECT_EQ(terminal.wait_exit(), 4);
  EXPECT_FALSE(terminal.raw());
}

TEST(WorldTerminal, OnlyStreamsThatAreTerminalsAreReplaced) {
  NEEDS_ROOT();
  TempDir dir;
  Terminal terminal([&] {
    int fd = open((dir / "out").c_str(), O_CREAT | O_WRONLY, 0600);
    dup2(fd, 1);
    close(fd);
    return supervised({}, shell("read x; echo $x; test -t 0 && test -t 2 && ! test -t 1 && "
                                "echo right >&2"));
  });
  terminal.type("line\r");
  EXPECT_TRUE(terminal.expect("right"));
  EXPECT_EQ(terminal.wait_exit(), 0);
  EXPECT_EQ(read_file(dir / "out"), "line\n");
}

}  // namespace
}  // namespace supervise::test
