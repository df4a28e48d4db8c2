// hostenter PID [OPTION VALUE]... -- PROGRAM ARGS...: runs PROGRAM inside the namespaces of PID
// (mount, network, UTS, IPC, PID), as a child, and mirrors its exit: 128+n when signal n ended it,
// 126 and 127 as a shell does. The child dies with this process, and this process with its parent,
// so that nothing outlives a test that was killed.
//   --cwd DIR                    inside
//   --stdin, --stdout, --stderr FILE   opened inside (created, appended to), as a user's
//   redirection
//                                would be
//   --pid-file FILE              the child's PID as seen here, written once PROGRAM runs
// PROGRAM leads a session of its own; when its stdin is a terminal, that is its controlling one.
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string& what, int status = 125) {
  std::fprintf(stderr, "hostenter: %s: %s\n", what.c_str(), std::strerror(errno));
  _exit(status);
}

void redirect(const std::string& file, int target) {
  if (file.empty()) return;
  int flags = target == STDIN_FILENO ? O_RDONLY : O_WRONLY | O_CREAT | O_APPEND;
  int fd = ::open(file.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0 || ::dup2(fd, target) < 0) fail(file);
  ::close(fd);
}

struct Options {
  std::string pid, cwd = "/", in, out, err, pid_file;
  char** program = nullptr;
};

Options parse(int argc, char** argv) {
  Options o;
  if (argc < 2) std::exit(125);
  o.pid = argv[1];
  for (int i = 2; i < argc; i += 2) {
    std::string word = argv[i];
    if (word == "--") {
      o.program = argv + i + 1;
      return o;
    }
    if (i + 1 >= argc) break;
    std::string value = argv[i + 1];
    if (word == "--cwd") o.cwd = value;
    if (word == "--stdin") o.in = value;
    if (word == "--stdout") o.out = value;
    if (word == "--stderr") o.err = value;
    if (word == "--pid-file") o.pid_file = value;
  }
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  Options o = parse(argc, argv);
  if (!o.program || !*o.program) {
    std::fprintf(stderr, "usage: hostenter PID [OPTION VALUE]... -- PROGRAM ARGS...\n");
    return 125;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  int pid_file = -1;
  if (!o.pid_file.empty()) {
    pid_file = ::open(o.pid_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (pid_file < 0) fail(o.pid_file);
  }
  std::vector<int> namespaces;
  for (const char* name : {"pid", "net", "uts", "ipc", "mnt"}) {
    auto path = "/proc/" + o.pid + "/ns/" + name;
    int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(path);
    namespaces.push_back(fd);
  }
  for (int fd : namespaces) {
    if (::setns(fd, 0) != 0) fail("setns");
    ::close(fd);
  }
  int executed[2];  // closed by exec
  if (::pipe2(executed, O_CLOEXEC) != 0) fail("pipe");

  pid_t child = ::fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    if (::chdir(o.cwd.c_str()) != 0) fail(o.cwd);
    redirect(o.in, STDIN_FILENO);
    redirect(o.out, STDOUT_FILENO);
    redirect(o.err, STDERR_FILENO);
    if (::isatty(STDIN_FILENO)) ::ioctl(STDIN_FILENO, TIOCSCTTY, 0);
    ::execvp(o.program[0], o.program);
    fail(o.program[0], errno == ENOENT ? 127 : 126);
  }
  // The keyboard's signals are for the program; this process waits for its end.
  for (int signal : {SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGHUP, SIGTERM})
    std::signal(signal, SIG_IGN);
  ::close(executed[1]);
  char nothing = 0;
  while (::read(executed[0], &nothing, 1) < 0 && errno == EINTR) {
  }
  if (pid_file >= 0) {
    auto text = std::to_string(child) + "\n";
    if (::write(pid_file, text.data(), text.size()) < 0) fail(o.pid_file);
  }
  for (int fd : {STDIN_FILENO, STDOUT_FILENO}) ::close(fd);  // end of file must reach the test

  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) fail("waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
