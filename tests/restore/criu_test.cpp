#include "restore/criu.h"

#include <netinet/in.h>
#include <sys/file.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "restore/criu_report.h"
#include "restore/host_facts.h"
#include "restore/image_layout.h"
#include "restore/image_store.h"
#include "tests/restore/test_support.h"
#include "tests/restore/test_world.h"

namespace supervise {
namespace {

using namespace test;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::Not;

// ---- the guest: threads, a child, a pipe, a listener, a lock, an unlinked file ----------------

void say(const std::string& name, const std::string& text) {
  int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  (void)!write(fd, text.data(), text.size());
  close(fd);
}

[[noreturn]] void guest() {
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof a;
  int yes = 1;  // or connections in TIME_WAIT keep the port when it is restored on the same host
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listener, reinterpret_cast<sockaddr*>(&a), size) || listen(listener, 5)) _exit(2);
  getsockname(listener, reinterpret_cast<sockaddr*>(&a), &size);
  int to_child[2], from_child[2];
  if (pipe(to_child) || pipe(from_child)) _exit(3);
  if (fork() == 0) {
    close(to_child[1]);
    long n;
    while (read(to_child[0], &n, sizeof n) == sizeof n) {
      n *= 2;
      if (write(from_child[1], &n, sizeof n) != sizeof n) _exit(5);
    }
    _exit(errno == EINTR ? 6 : 0);
  }
  int locked = open("locked", O_RDWR | O_CREAT, 0600);
  if (flock(locked, LOCK_EX)) _exit(4);
  int unlinked = open("unlinked", O_RDWR | O_CREAT, 0600);
  (void)!write(unlinked, "still here", 10);
  unlink("unlinked");
  // One log, kept open, appended by one thread.
  int log = open("log", O_WRONLY | O_CREAT | O_APPEND, 0600);
  std::atomic<long> ticks{0};
  std::thread([&] {
    for (;;) {
      // Nobody rewinds calls that a dump interrupts here: EINTR is to be expected.
      timespec ts{0, 2'000'000};
      if (nanosleep(&ts, nullptr) != 0 && errno != EINTR) say("errors", "nanosleep");
      std::string line = std::to_string(++ticks) + "\n";
      if (write(log, line.data(), line.size()) != static_cast<ssize_t>(line.size())) say("errors", "write");
    }
  }).detach();
  say("port.tmp", std::to_string(ntohs(a.sin_port)));
  rename("port.tmp", "port");
  for (long question = 1;; ++question) {
    int c = accept(listener, nullptr, nullptr);
    if (c < 0) {
      say("errors", std::string("accept ") + strerror(errno));
      continue;
    }
    long answer = 0;
    char text[10] = {};
    (void)!pread(unlinked, text, 10, 0);
    if (write(to_child[1], &question, sizeof question) != sizeof question ||
        read(from_child[0], &answer, sizeof answer) != sizeof answer) {
      say("errors", "pipe");
    }
    std::string reply = std::to_string(answer) + " " + std::string(text, 10);
    (void)!write(c, reply.data(), reply.size());
    close(c);
  }
}

TEST(CriuGuest, DISABLED_Run) {
  if (!getenv("GUEST_DIR")) GTEST_SKIP() << "part of CriuTest.*";
  guest();
}

// ---- the tests ---------------------------------------------------------------------------------

class CriuTest : public testing::Test {
 protected:
  void SetUp() override {
    auto found = Criu::find();
    if (!found) GTEST_SKIP() << found.error().message();
    criu_ = found.take();
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    world_ = TestWorld::create();
    if (!world_) GTEST_SKIP() << "needs the privilege to make PID and mount namespaces (CAP_SYS_ADMIN)";
    mkdir(image().c_str(), 0700);
  }
  std::string image() { return d_ / "image"; }
  std::string work() { return d_ / "work"; }

  std::string ask() {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(static_cast<std::uint16_t>(atoi(get(work() + "/port").c_str())));
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    UniqueFd fd(s);
    timeval limit{5, 0};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(s, reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) return strerror(errno);
    char buffer[100];
    std::string out;
    for (ssize_t n; (n = read(s, buffer, sizeof buffer)) > 0;) out.append(buffer, static_cast<std::size_t>(n));
    return out;
  }
  long last_tick() {
    auto text = get(work() + "/log");
    if (text.size() < 2) return 0;
    auto line = text.rfind('\n', text.size() - 2);
    return atol(text.c_str() + (line == std::string::npos ? 0 : line + 1));
  }
  void expect_whole_log() {
    std::string want;
    for (long i = 1, n = last_tick(); i <= n; ++i) want += std::to_string(i) + "\n";
    EXPECT_EQ(get(work() + "/log"), want);
    EXPECT_EQ(get(work() + "/errors"), "");
  }
  int start_guest(const char* name = "CriuGuest.DISABLED_Run") {
    mkdir(work().c_str(), 0700);
    int pid = world_->start(name, work());
    auto deadline = Deadline::in(Millis(10000));
    while (!deadline.passed() && (access((work() + "/port").c_str(), F_OK) != 0 || last_tick() < 5)) usleep(1000);
    EXPECT_FALSE(deadline.passed()) << get(work() + "/guest.err");
    return pid;
  }
  // CRIU has sent SIGSTOP when it ends, but a thread may still be on its way into the stop.
  std::string settled_states() {
    auto deadline = Deadline::in(Millis(3000));
    std::string s = world_->states();
    while (s.find('R') != std::string::npos && !deadline.passed()) s = world_->states();
    return s;
  }
  UniqueFd image_fd() { return UniqueFd(open(image().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

  ScratchDir d_;
  Criu criu_;
  std::unique_ptr<TestWorld> world_;
};

TEST_F(CriuTest, DumpsEndsAndRestoresInANewWorld) {
  NEEDS_RESTORABLE_GUEST();
  int pid = start_guest();
  EXPECT_EQ(ask(), "2 still here");
  ASSERT_EQ(world_->stop(pid), "ok");
  auto dir = image_fd();
  DumpRequest dump;
  dump.root_pid = pid;
  dump.image_dir_fd = dir.get();
  dump.leave_stopped = false;
  auto figures = criu_.dump(*world_, dump, Deadline::in(Millis(20000)));
  ASSERT_TRUE(figures.ok()) << figures.error().message();
  EXPECT_GT(figures->pages_written, 10u);
  EXPECT_GT(figures->frozen_ms, 0);
  EXPECT_EQ(world_->wait(pid), "s9") << "the original was ended";
  EXPECT_THAT(names_in(image()).value(), testing::IsSupersetOf({"dump.log", "files.img", "pages-1.img"}));
  long ticks = last_tick();

  world_.reset();
  world_ = TestWorld::create();
  RestoreRequest restore;
  restore.image_dir_fd = dir.get();
  auto root = criu_.restore(*world_, restore, Deadline::in(Millis(20000)));
  ASSERT_TRUE(root.ok()) << root.error().message();
  EXPECT_EQ(*root, pid);
  EXPECT_EQ(settled_states(), "=TTT") << "all threads are stopped";
  usleep(20000);
  EXPECT_EQ(last_tick(), ticks) << "nothing has run yet";
  ASSERT_EQ(world_->proceed(*root), "ok");
  EXPECT_EQ(ask(), "4 still here");
  auto deadline = Deadline::in(Millis(5000));
  while (last_tick() < ticks + 5 && !deadline.passed()) usleep(1000);
  EXPECT_GE(last_tick(), ticks + 5);
  ASSERT_EQ(world_->stop(*root), "ok");
  expect_whole_log();
  // Restored as the init's child: it has the exit status.
  ProcessSpec killer{{"/bin/sh", "-c", "kill -9 " + std::to_string(*root)}, {}, {}, "/"};
  EXPECT_TRUE(world_->run(killer, Deadline::in(Millis(5000))).ok());
  EXPECT_EQ(world_->wait(*root), "s9");
}

TEST_F(CriuTest, LeavesTheOriginalStoppedForTheRollback) {
  int pid = start_guest();
  ASSERT_EQ(world_->stop(pid), "ok");
  auto dir = image_fd();
  DumpRequest dump;
  dump.root_pid = pid;
  dump.image_dir_fd = dir.get();
  auto figures = criu_.dump(*world_, dump, Deadline::in(Millis(20000)));
  ASSERT_TRUE(figures.ok()) << figures.error().message();
  EXPECT_EQ(settled_states(), "=TTT");
  ASSERT_EQ(world_->proceed(pid), "ok");
  EXPECT_EQ(ask(), "2 still here");
  ASSERT_EQ(world_->stop(pid), "ok");
  expect_whole_log();
}

TEST_F(CriuTest, ADumpThatCanNotBeNamesTheReason) {
  auto dir = image_fd();
  DumpRequest dump;
  dump.root_pid = 777;
  dump.image_dir_fd = dir.get();
  auto figures = criu_.dump(*world_, dump, Deadline::in(Millis(20000)));
  ASSERT_FALSE(figures.ok());
  EXPECT_THAT(figures.error().message(), AllOf(HasSubstr("criu dump: exit status 1: Error ("), HasSubstr("777")));
}

TEST_F(CriuTest, ARestoreThatCanNotBeNamesTheReason) {
  NEEDS_RESTORABLE_GUEST();
  int pid = start_guest();
  ASSERT_EQ(world_->stop(pid), "ok");
  auto dir = image_fd();
  DumpRequest dump;
  dump.root_pid = pid;
  dump.image_dir_fd = dir.get();
  dump.leave_stopped = false;
  ASSERT_TRUE(criu_.dump(*world_, dump, Deadline::in(Millis(20000))).ok());
  unlink((work() + "/log").c_str());
  world_.reset();
  world_ = TestWorld::create();
  RestoreRequest restore;
  restore.image_dir_fd = dir.get();
  auto root = criu_.restore(*world_, restore, Deadline::in(Millis(20000)));
  ASSERT_FALSE(root.ok());
  EXPECT_THAT(root.error().message(), AllOf(HasSubstr("criu restore: exit status 1"), HasSubstr("/log")));
}

TEST_F(CriuTest, AnEmptyImageIsAnError) {
  auto dir = image_fd();
  RestoreRequest restore;
  restore.image_dir_fd = dir.get();
  auto root = criu_.restore(*world_, restore, Deadline::in(Millis(20000)));
  ASSERT_FALSE(root.ok());
  EXPECT_THAT(root.error().message(), AllOf(HasSubstr("criu restore"), HasSubstr("Error (")));
}

TEST_F(CriuTest, ALateCriuIsKilledAndTheErrorSaysSo) {
  int pid = start_guest();
  ASSERT_EQ(world_->stop(pid), "ok");
  auto dir = image_fd();
  DumpRequest dump;
  dump.root_pid = pid;
  dump.image_dir_fd = dir.get();
  auto figures = criu_.dump(*world_, dump, Deadline::in(Millis(2)));
  ASSERT_FALSE(figures.ok());
  EXPECT_EQ(figures.error().err, ETIMEDOUT);
  EXPECT_THAT(figures.error().message(), HasSubstr("criu dump"));
}

TEST(CriuFind, WhatIsToldMustBeAProgram) {
  auto c = Criu::find("/nonexistent/criu");
  ASSERT_FALSE(c.ok());
  EXPECT_THAT(c.error().message(), HasSubstr("/nonexistent/criu is not a program"));
  EXPECT_FALSE(Criu::find("/etc/passwd").ok());
  EXPECT_EQ(Criu::find("/bin/true")->binary(), "/bin/true");
}

TEST(CriuReport, TakesTheFirstErrors) {
  EXPECT_EQ(criu_telling_lines("(00.1) Warn  (criu/a.c:1): x\n"
                               "(00.2) Error (criu/util.c:5): Can't setup RLIMIT_NOFILE\n"
                               "(00.3)      2: Error (criu/files-reg.c:2175): File srv/x has bad size 5 (expect 3)\n"
                               "(00.3)      2: Error (criu/files-reg.c:2175): File srv/x has bad size 5 (expect 3)\n"
                               "(00.4) Error (criu/cr-restore.c:2447): Restoring FAILED.\n"),
            "Error (criu/files-reg.c:2175): File srv/x has bad size 5 (expect 3)");
  EXPECT_EQ(criu_telling_lines("(00.4) Error (criu/cr-restore.c:2447): Restoring FAILED.\n"),
            "Error (criu/cr-restore.c:2447): Restoring FAILED.");
  EXPECT_THAT(criu_telling_lines("(00.4) Dumping pages\n"), HasSubstr("the last line is: (00.4) Dumping pages"));
  EXPECT_EQ(criu_telling_lines(""), "");
  EXPECT_THAT(criu_telling_lines("(00.1) Error (criu/cr-dump.c:389): Can't get rlimit 0: Operation not permitted\n"),
              HasSubstr("CAP_SYS_RESOURCE"));
  std::string many;
  for (int i = 0; i < 9; ++i) many += "Error (criu/x.c:" + std::to_string(i) + "): bad\n";
  EXPECT_THAT(criu_telling_lines(many), AllOf(HasSubstr("x.c:3"), Not(HasSubstr("x.c:4"))));
}

TEST(CriuReport, ReadsNoFiguresFromRubbish) {
  EXPECT_FALSE(criu_dump_figures("").has_value());
  EXPECT_FALSE(criu_dump_figures(std::string(100, 'x')).has_value());
  std::string head("\x40\x59\x10\x55\x06\x33\x09\x57\xff\xff\xff\xff", 12);
  EXPECT_FALSE(criu_dump_figures(head + "abc").has_value());
  std::string good("\x40\x59\x10\x55\x06\x33\x09\x57\x0a\x00\x00\x00\x0a\x08\x08\xd0\x0f\x10\xa0\x1f\x38\x07", 22);
  auto f = criu_dump_figures(good);
  ASSERT_TRUE(f.has_value());
  EXPECT_DOUBLE_EQ(f->freezing_ms, 2);
  EXPECT_DOUBLE_EQ(f->frozen_ms, 4);
  EXPECT_EQ(f->pages_written, 7u);
}

TEST(HostFacts, AreThisHosts) {
  auto facts = host_facts();
  EXPECT_FALSE(facts.kernel.empty());
  EXPECT_EQ(get("/proc/sys/kernel/osrelease"), facts.kernel + "\n");
  EXPECT_EQ(get("/proc/sys/kernel/hostname"), facts.host + "\n");
  EXPECT_THAT(facts.cpu_flags, testing::Contains("sse2"));
}

TEST(HostFacts, FlagsAreSortedAndCompared) {
  EXPECT_EQ(cpu_flags_in("processor\t: 0\nflags\t\t: fpu avx2 fpu\n\nflags\t: other\n"),
            (std::vector<std::string>{"avx2", "fpu"}));
  EXPECT_TRUE(cpu_flags_in(": x\nnothing\n").empty());
  EXPECT_EQ(missing_flags({"avx2", "avx512f", "fpu"}, {"avx2", "fpu", "x"}), std::vector<std::string>{"avx512f"});
}

TEST(HostFacts, TheVersionIsWhatTheProgramPrints) {
  ScratchDir d;
  auto script = [&](const std::string& name, const std::string& body) {
    put(d / name, "#!/bin/sh\n" + body);
    chmod((d / name).c_str(), 0755);
    return d / name;
  };
  EXPECT_EQ(criu_version(script("good", "echo Version: 4.2.1; echo GitID: x"), Deadline::in(Millis(5000))).value(), "4.2.1");
  EXPECT_THAT(criu_version(script("bad", "echo oh no; exit 3"), Deadline::in(Millis(5000))).error().message(),
              AllOf(HasSubstr("exit status 3"), HasSubstr("oh no")));
  EXPECT_THAT(criu_version(script("silent", "exit 0"), Deadline::in(Millis(5000))).error().message(), HasSubstr("printed no version"));
  EXPECT_EQ(criu_version(script("hangs", "exec sleep 60"), Deadline::in(Millis(50))).error().err, ETIMEDOUT);
  EXPECT_EQ(criu_version(d / "missing", Deadline::in(Millis(50))).error().err, ENOENT);
  auto real = Criu::find();
  if (!real) GTEST_SKIP() << real.error().message();
  EXPECT_THAT(criu_version(real->binary(), Deadline::in(Millis(5000))).value(), testing::MatchesRegex("[0-9]+\\.[0-9.]+"));
}

}  // namespace
}  // namespace supervise
