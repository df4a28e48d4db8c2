// Standard streams across a dump and a restore in a new world, with the real CRIU: whatever they
// were, the resumed application has those of the restoring program.
#include <sys/stat.h>

#include "tests/supervisor/world_test_support.h"

namespace supervise::test {
namespace {

std::string criu_binary() {
  for (const char* path : {"/opt/supervise/criu/sbin/criu", "/usr/local/sbin/criu"}) {
    if (access(path, X_OK) == 0) return path;
  }
  return {};
}

std::vector<pid_t> tree_of(pid_t root) {
  std::vector<pid_t> found{root};
  for (std::size_t i = 0; i < found.size(); ++i) {
    auto id = std::to_string(found[i]);
    std::ifstream children("/proc/" + id + "/task/" + id + "/children");
    for (pid_t child; children >> child;) found.push_back(child);
  }
  return found;
}

void signal_tree(pid_t root, int signo) {
  for (pid_t pid : tree_of(root)) kill(pid, signo);
}

// Counts to 9 on standard output, then repeats a line of its input.
constexpr const char* kGuest =
    "i=0; while [ $i -lt 10 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; "
    "read x; echo got $x; exit 4";

struct Streams {
  std::string input;   // "file", "pipe", "null", "tty"
  std::string output;  // "file", "pipe", "tty"
};

// Runs `body` with such streams; gives its code and what came out.
Captured with_streams(const Streams& streams, const std::string& typed,
                      const std::function<int()>& body) {
  TempDir dir;
  std::string in = dir / "in";
  std::string out = dir / "out";
  write_file(in, typed);
  Captured result;
  auto set_up = [&] {
    int ends[2];
    if (streams.input == "pipe" && pipe(ends) == 0) {
      if (write(ends[1], typed.data(), typed.size()) < 0) return;
      dup2(ends[0], 0);
      if (typed.empty()) fcntl(ends[1], F_SETFD, FD_CLOEXEC);
      else close(ends[1]);
      close(ends[0]);
    } else if (streams.input == "file" || streams.input == "null") {
      int fd = open(streams.input == "file" ? in.c_str() : "/dev/null", O_RDONLY);
      dup2(fd, 0);
      close(fd);
    }
    if (streams.output == "file") {
      int fd = open(out.c_str(), O_WRONLY | O_CREAT, 0600);
      dup2(fd, 1);
      close(fd);
    } else if (streams.output == "pipe" && pipe(ends) == 0) {
      if (fork() == 0) {
        dup2(ends[0], 3);
        close_range(4, ~0U, 0);
        close(1);
        int file = open(out.c_str(), O_WRONLY | O_CREAT, 0600);
        char bytes[512];
        ssize_t n;
        while ((n = read(3, bytes, sizeof bytes)) > 0) {
          if (write(file, bytes, static_cast<std::size_t>(n)) < 0) break;
        }
        _exit(0);
      }
      dup2(ends[1], 1);
      close(ends[0]);
      close(ends[1]);
    }
  };
  if (streams.input == "tty" || streams.output == "tty") {
    Terminal terminal([&] {
      set_up();
      return body();
    });
    if (!typed.empty()) terminal.type(typed);
    result.code = terminal.wait_exit();
    result.text = terminal.seen();
    std::erase(result.text, '\r');
    if (streams.output != "tty") result.text = read_file(out);
    return result;
  }
  result.code = in_child([&] {
    set_up();
    return body();
  });
  poll(nullptr, 0, 100);
  result.text = read_file(out);
  return result;
}

ProcessSpec criu(const std::string& command, int dir) {
  ProcessSpec spec;
  spec.argv = {criu_binary(), command,        "-D",           "/proc/self/fd/9",
               "-o",          command + ".log", "--shell-job", "--manage-cgroups=ignore"};
  spec.fds = {{dir, 9}};
  return spec;
}

int dump(const std::string& images, int after_ms) {
  auto world = World::create({});
  if (!world) return 100;
  World& w = **world;
  auto pid = w.prepare_launch(shell(kGuest));
  if (!pid || !w.release_launch()) return 101;
  poll(nullptr, 0, after_ms);
  signal_tree(*pid, SIGSTOP);
  poll(nullptr, 0, 30);
  int dir = open(images.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  auto spec = criu("dump", dir);
  spec.argv.insert(spec.argv.end(), {"-t", std::to_string(w.inner_pid(*pid).value_or(0))});
  for (const auto& external : w.criu_externals())
    spec.argv.insert(spec.argv.end(), {"--external", external});
  auto end = w.run(spec, Deadline::in(Millis(20000)));
  std::ofstream list(images + "/streams");
  for (const auto& s : w.stdio()) list << s.fd << ' ' << s.kind << ' ' << s.id << '\n';
  w.finish_stdio();
  return end && end->success() ? 0 : 102;
}

int restore(const std::string& images) {
  auto world = World::create({});
  if (!world) return 100;
  World& w = **world;
  std::vector<StdioInfo> streams;
  std::ifstream list(images + "/streams");
  for (StdioInfo s; list >> s.fd >> s.kind >> s.id;) streams.push_back(s);
  auto inherits = w.stdio_for_restore(streams);
  if (!inherits) return 101;
  int dir = open(images.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  auto spec = criu("restore", dir);
  spec.argv.insert(spec.argv.end(), {"-d", "--restore-sibling", "--pidfile", images + "/pid"});
  int number = 20;
  for (const auto& inherit : *inherits) {
    spec.fds.emplace_back(inherit.fd.get(), number);
    spec.argv.insert(spec.argv.end(), {"--inherit-fd", "fd[" + std::to_string(number++) + "]:" +
                                                           inherit.id});
  }
  auto end = w.run(spec, Deadline::in(Millis(20000)));
  if (!end || !end->success()) return 102;
  inherits->clear();
  int inner = 0;
  std::ifstream(images + "/pid") >> inner;
  auto root = w.outer_pid(inner);
  if (!root || !w.adopt_app(inner)) return 103;
  signal_tree(*root, SIGCONT);
  auto app = await_app(w, Deadline::in(Millis(15000)));
  w.finish_stdio();
  return app ? app->code : 104;
}

struct Move {
  Streams from;
  Streams to;
};

void PrintTo(const Move& m, std::ostream* out) {
  *out << m.from.input << ", " << m.from.output << " to " << m.to.input << ", " << m.to.output;
}

class WorldRestore : public testing::TestWithParam<Move> {};

TEST_P(WorldRestore, StreamsBecomeThoseOfTheRestore) {
  NEEDS_ROOT();
  if (criu_binary().empty()) GTEST_SKIP() << "needs CRIU in /opt/supervise/criu";
  TempDir dir;
  std::string images = dir / "images";
  mkdir(images.c_str(), 0700);
  auto first = with_streams(GetParam().from, "", [&] { return dump(images, 350); });
  ASSERT_EQ(first.code, 0) << read_file(images + "/dump.log");
  auto second = with_streams(GetParam().to, "given\n", [&] { return restore(images); });
  EXPECT_EQ(second.code, 4) << read_file(images + "/restore.log");
  // Each line once, the later ones and the answer on the second side.
  const bool echo = GetParam().to.input == "tty" && GetParam().to.output == "tty";
  std::string all = first.text + second.text;
  // Typed ahead, it may be echoed by our terminal and by the application's.
  for (auto at = all.find("\ngiven\n"); echo && at != std::string::npos;
       at = all.find("\ngiven\n"))
    all.erase(at, 6);
  std::string expected;
  for (int i = 0; i < 10; ++i) expected += "line " + std::to_string(i) + "\n";
  const bool input_lost = GetParam().from.input == "null";  // /dev/null stays what it is
  EXPECT_EQ(all, expected + (input_lost ? "got\n" : "got given\n"));
  EXPECT_THAT(first.text, testing::StartsWith("line 0\n"));
  EXPECT_THAT(second.text, testing::HasSubstr("line 9\n"));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, WorldRestore,
    testing::Values(Move{{"pipe", "file"}, {"pipe", "file"}}, Move{{"pipe", "pipe"}, {"file", "file"}},
                    Move{{"file", "file"}, {"pipe", "pipe"}}, Move{{"null", "pipe"}, {"pipe", "pipe"}},
                    Move{{"tty", "tty"}, {"tty", "tty"}}, Move{{"tty", "tty"}, {"pipe", "pipe"}},
                    Move{{"pipe", "pipe"}, {"tty", "tty"}}, Move{{"file", "file"}, {"tty", "tty"}},
                    Move{{"tty", "file"}, {"pipe", "file"}}),
    [](const testing::TestParamInfo<Move>& given) {
      const Move& m = given.param;
      return m.from.input + "_" + m.from.output + "_to_" + m.to.input + "_" + m.to.output;
    });

}  // namespace
}  // namespace supervise::test
