// Processes: fork, vfork, posix_spawn, clone, clone3, exec (also from a thread that is not the leader),
// orphans, zombies, sessions, process groups, group stops, wait forms.
//
//   forks [--storm ROUNDS] [--children N] [--delay MS]
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include "guest.h"

extern char** environ;

namespace {

std::string self;

int exit_of(pid_t pid) {
  int status = -1;
  return waitpid(pid, &status, 0) == pid ? (WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status)) : -errno;
}

pid_t child_that(void (*what)()) {
  pid_t pid = fork();
  if (pid == 0) {
    what();
    _exit(0);
  }
  return pid;
}

void basics() {
  IS("fork and exit", exit_of(child_that([] { _exit(7); })), 7);
  IS("exit_group from a thread", exit_of(child_that([] {
    std::thread([] { _exit(8); }).detach();
    for (;;) pause();
  })), 8);
  IS("the leader's thread ends first", exit_of(child_that([] {
    std::thread([] { guest::pause_ms(50); _exit(9); }).detach();
    syscall(SYS_exit, 1);
  })), 9);
  IS("fork from a thread", exit_of(child_that([] {
    int code = 0;
    std::thread t([&] { code = exit_of(child_that([] { _exit(3); })); });
    t.join();
    _exit(code + 1);
  })), 4);
  pid_t pid = vfork();
  if (pid == 0) _exit(11);
  IS("vfork and exit", exit_of(pid), 11);
  const char* const arguments[] = {self.c_str(), "exit", "12", nullptr};
  pid = vfork();
  if (pid == 0) {
    execv(self.c_str(), (char**)arguments);
    _exit(99);
  }
  IS("vfork and exec", exit_of(pid), 12);
  pid = vfork();
  if (pid == 0) {
    execv("/nonexistent/program", (char**)arguments);
    _exit(errno == ENOENT ? 13 : 99);
  }
  IS("vfork and failed exec", exit_of(pid), 13);
  IS("posix_spawn", posix_spawn(&pid, self.c_str(), nullptr, nullptr, (char**)arguments, environ), 0);
  IS("its exit", exit_of(pid), 12);
  IS("posix_spawn of nothing", posix_spawn(&pid, "/nonexistent", nullptr, nullptr, (char**)arguments, environ), ENOENT);
  IS("system", WEXITSTATUS(system("exit 14")), 14);
  FILE* f = popen("echo out; exit 15", "r");
  char text[16] = "";
  IS("popen", fgets(text, sizeof text, f) && std::string(text) == "out\n", 1);
  IS("pclose", WEXITSTATUS(pclose(f)), 15);
}

void clones() {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  int pidfd = -1;
  args.flags = CLONE_PIDFD;
  args.pidfd = (uint64_t)&pidfd;
  pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0) _exit(16);
  pollfd p{pidfd, POLLIN, 0};
  IS("poll of clone3's pidfd", poll(&p, 1, 5000), 1);
  siginfo_t info{};
  IS("waitid(P_PIDFD)", waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), 0);
  IS("its status", info.si_status, 16);
  close(pidfd);
  args = {};
  args.flags = CLONE_VFORK;
  args.exit_signal = SIGCHLD;
  pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0) _exit(17);
  IS("clone3(CLONE_VFORK)", exit_of(pid), 17);
  static volatile int seen;
  static char stack[65536] __attribute__((aligned(16)));
  pid = clone([](void*) { seen = 5; return 18; }, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
  IS("clone(CLONE_VM | CLONE_VFORK)", exit_of(pid), 18);
  IS("shared memory", seen, 5);
  pid = clone([](void*) { guest::pause_ms(30); return 19; }, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, nullptr);
  IS("clone(CLONE_VM | CLONE_FILES)", exit_of(pid), 19);
  pid = clone([](void*) { return 20; }, stack + sizeof stack, 0, nullptr);
  int status = 0;
  IS("a clone without exit signal", waitpid(pid, &status, __WCLONE), pid);
  IS("its status", WEXITSTATUS(status), 20);
  pid = fork();
  if (pid == 0) {
    pid_t sibling = clone([](void*) { return 21; }, stack + sizeof stack, CLONE_PARENT | SIGCHLD, nullptr);
    _exit(sibling > 0 ? 22 : 99);
  }
  IS("the cloner", exit_of(pid), 22);
  pid = wait(&status);
  IS("CLONE_PARENT's child is ours", pid > 0 ? WEXITSTATUS(status) : -1, 21);
}

void execs() {
  const auto run = [](const char* mode) {
    return exit_of([&] {
      pid_t pid = fork();
      if (pid == 0) {
        execl(self.c_str(), self.c_str(), mode, nullptr);
        _exit(99);
      }
      return pid;
    }());
  };
  IS("exec from a thread", run("exec-thread"), 30);
  IS("exec while threads run", run("exec-busy"), 30);
  IS("exec after exec", run("exec-twice"), 30);
  IS("exec of a script", exit_of(child_that([] {
    char name[] = "/tmp/guest-forks-XXXXXX";
    int fd = mkstemp(name);
    dprintf(fd, "#!/bin/sh\nrm -f %s\nexit 31\n", name);
    fchmod(fd, 0700);
    close(fd);
    for (int i = 0; i < 50; ++i) execl(name, name, nullptr), guest::pause_ms(10);
  })), 31);
  IS("fexecve", exit_of(child_that([] {
    int fd = open(self.c_str(), O_RDONLY | O_CLOEXEC);
    const char* const a[] = {"x", "exit", "32", nullptr};
    fexecve(fd, (char**)a, environ);
  })), 32);
  IS("exec keeps an ignored signal and the mask", exit_of(child_that([] {
    sigset_t s;
    sigemptyset(&s), sigaddset(&s, SIGUSR2);
    sigprocmask(SIG_BLOCK, &s, nullptr);
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR2);
    execl(self.c_str(), self.c_str(), "inherited", nullptr);
  })), 33);
  IS("exec of a text file", exit_of(child_that([] { execl("/etc/passwd", "x", nullptr); _exit(errno == EACCES ? 34 : errno); })), 34);
  IS("close-on-exec", exit_of(child_that([] {
    int a = open("/dev/null", O_RDONLY | O_CLOEXEC), b = open("/dev/null", O_RDONLY);
    execl(self.c_str(), self.c_str(), "descriptors", std::to_string(a).c_str(), std::to_string(b).c_str(), nullptr);
  })), 35);
}

void waits() {
  int status = 0;
  FAILS("wait without children", wait(&status), ECHILD);
  pid_t a = child_that([] { for (;;) pause(); });
  setpgid(a, a);  // SIGTSTP does nothing to a group without a parent outside it
  IS("WNOHANG with a living child", waitpid(a, &status, WNOHANG), 0);
  FAILS("waitpid of another's process", waitpid(1, &status, 0), ECHILD);
  kill(a, SIGSTOP);
  IS("WUNTRACED", waitpid(a, &status, WUNTRACED), a);
  IS("it is stopped", WIFSTOPPED(status) ? WSTOPSIG(status) : -1, SIGSTOP);
  IS("once only", waitpid(a, &status, WUNTRACED | WNOHANG), 0);
  kill(a, SIGCONT);
  IS("WCONTINUED", waitpid(a, &status, WCONTINUED), a);
  IS("it is continued", WIFCONTINUED(status), 1);
  kill(a, SIGTSTP);
  siginfo_t info{};
  IS("waitid(WSTOPPED)", waitid(P_PID, a, &info, WSTOPPED), 0);
  IS("its code", info.si_code, CLD_STOPPED);
  IS("its signal", info.si_status, SIGTSTP);
  kill(a, SIGTERM);
  IS("a stopped process does not die of SIGTERM", waitpid(a, &status, WNOHANG), 0);
  kill(a, SIGCONT);
  IS("but after SIGCONT", exit_of(a), 1000 + SIGTERM);
  a = child_that([] { for (;;) pause(); });
  kill(a, SIGSTOP);
  waitpid(a, &status, WUNTRACED);
  kill(a, SIGKILL);
  IS("SIGKILL ends a stopped process", exit_of(a), 1000 + SIGKILL);
  a = child_that([] { _exit(40); });
  IS("WNOWAIT", waitid(P_PID, a, &info, WEXITED | WNOWAIT), 0);
  IS("its status", info.si_status, 40);
  IS("still there", exit_of(a), 40);
  a = child_that([] { setpgid(0, 0); guest::pause_ms(50); _exit(41); });
  setpgid(a, a);
  IS("waitpid of a group", waitpid(-a, &status, 0), a);
  IS("its status", WEXITSTATUS(status), 41);
  rusage usage{};
  a = child_that([] { for (long i = 0; i < 20000000; ++i) asm volatile(""); });
  IS("wait4 with rusage", wait4(a, &status, 0, &usage), a);
  IS("it used time", usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec > 0, 1);
  // Threads of a stopped process stop, and go on together.
  a = child_that([] {
    static volatile long steps[3];
    for (int i = 0; i < 3; ++i) std::thread([i] { for (;;) { steps[i] = steps[i] + 1; guest::pause_ms(1); } }).detach();
    guest::pause_ms(50);
    kill(getpid(), SIGSTOP);
    long before = steps[0] + steps[1] + steps[2];
    guest::pause_ms(50);
    _exit(steps[0] + steps[1] + steps[2] > before ? 42 : 99);
  });
  IS("a process with threads stops", waitpid(a, &status, WUNTRACED) == a && WIFSTOPPED(status), 1);
  guest::pause_ms(30);
  kill(a, SIGCONT);
  IS("and goes on", exit_of(a), 42);
}

volatile int chld_codes;
void on_chld(int, siginfo_t* info, void*) {
  chld_codes = chld_codes | 1 << info->si_code;
}

void sigchld() {
  struct sigaction action{}, old{};
  action.sa_sigaction = on_chld;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGCHLD, &action, &old);
  chld_codes = 0;
  pid_t a = child_that([] { raise(SIGSTOP); guest::pause_ms(100); _exit(1); });
  int status = 0;
  waitpid(a, &status, WUNTRACED);
  kill(a, SIGCONT);
  exit_of(a);
  IS("SIGCHLD for stop, continue and exit", chld_codes, 1 << CLD_STOPPED | 1 << CLD_CONTINUED | 1 << CLD_EXITED);
  action.sa_flags |= SA_NOCLDSTOP;
  sigaction(SIGCHLD, &action, nullptr);
  chld_codes = 0;
  a = child_that([] { raise(SIGSTOP); guest::pause_ms(100); _exit(1); });
  waitpid(a, &status, WUNTRACED);
  kill(a, SIGCONT);
  exit_of(a);
  IS("SA_NOCLDSTOP: for exit only", chld_codes, 1 << CLD_EXITED);
  signal(SIGCHLD, SIG_IGN);
  a = child_that([] { _exit(2); });
  FAILS("ignored SIGCHLD: no zombie", waitpid(a, &status, 0), ECHILD);
  signal(SIGCHLD, SIG_DFL);
  timespec t{0, 150000000};
  a = child_that([] { guest::pause_ms(30); });
  IS("SIGCHLD by default does not end nanosleep", nanosleep(&t, nullptr), 0);
  IS("a zombie waits", exit_of(a), 0);
}

void families() {
  int p[2];
  IS("pipe", pipe(p), 0);
  static int out;
  out = p[1];
  // A double fork: the orphan's parent becomes somebody else, and its exit is nobody's business here.
  IS("the middle process", exit_of(child_that([] {
    if (fork() == 0) {
      setsid();
      guest::pause_ms(50);
      char report[2] = {getsid(0) == getpid() ? 'S' : '-', getpgid(0) == getpid() ? 'G' : '-'};
      _exit(write(out, report, 2) == 2 ? 0 : 1);
    }
    _exit(50);
  })), 50);
  close(p[1]);
  char report[3] = "";
  IS("the orphan's report", read(p[0], report, 2), 2);
  IS("it leads a session", report[0], 'S');
  IS("and a group", report[1], 'G');
  IS("end of file after it", read(p[0], report, 1), 0);
  close(p[0]);
  // With us as the subreaper the orphan becomes ours.
  IS("PR_SET_CHILD_SUBREAPER", prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  IS("the middle process", exit_of(child_that([] {
    if (fork() == 0) {
      guest::pause_ms(50);
      _exit(getppid() != 1 ? 52 : 53);
    }
    _exit(51);
  })), 51);
  int status = 0;
  pid_t orphan = wait(&status);
  IS("the adopted orphan", orphan > 0 ? WEXITSTATUS(status) : -1, 52);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  // A group gets its signal at once.
  pid_t group = 0;
  std::vector<pid_t> members;
  for (int i = 0; i < 4; ++i) {
    pid_t pid = fork();
    if (pid == 0) {
      setpgid(0, group);
      for (;;) pause();
    }
    setpgid(pid, group ? group : pid);
    if (!group) group = pid;
    members.push_back(pid);
  }
  IS("kill of a group", kill(-group, SIGUSR1), 0);
  long dead = 0;
  for (pid_t m : members) dead += exit_of(m) == 1000 + SIGUSR1;
  IS("all its members", dead, 4);
  // A zombie can be signalled, and is gone after the wait.
  pid_t z = child_that([] { _exit(1); });
  siginfo_t info;
  waitid(P_PID, z, &info, WEXITED | WNOWAIT);
  IS("kill of a zombie", kill(z, SIGTERM), 0);
  exit_of(z);
  FAILS("kill after the wait", kill(z, 0), ESRCH);
}

long storm(long rounds, long children, long delay) {
  long wrong = 0;
  for (long r = 0; r < rounds; ++r) {
    std::vector<std::pair<pid_t, int>> all;
    for (long i = 0; i < children; ++i) {
      const int code = (int)((r * 7 + i) % 100);
      const std::string text = std::to_string(code);
      const char* const arguments[] = {self.c_str(), "exit", text.c_str(), nullptr};
      pid_t pid = -1;
      switch (i % 5) {
        case 0:
          pid = fork();
          if (pid == 0) _exit(code);
          break;
        case 1:
          pid = vfork();
          if (pid == 0) _exit(code);
          break;
        case 2:
          if (posix_spawn(&pid, self.c_str(), nullptr, nullptr, (char**)arguments, environ) != 0) pid = -1;
          break;
        case 3:
          pid = fork();
          if (pid == 0) {
            int inner = 0;
            std::thread a([&] { inner = exit_of(child_that([] { _exit(1); })); }), b([] { guest::pause_ms(1); });
            a.join(), b.join();
            _exit(inner == 1 ? code : 101);
          }
          break;
        default:
          pid = fork();
          if (pid == 0) {
            execv(self.c_str(), (char**)arguments);
            _exit(102);
          }
      }
      if (pid < 0) ++wrong;
      else all.emplace_back(pid, code);
    }
    for (auto [pid, code] : all) {
      const int got = exit_of(pid);
      if (got != code) ++wrong, guest::line("round %ld: expected exit %d, got %d", r, code, got);
    }
    if (delay) guest::pause_ms(delay);
  }
  return wrong;
}

// What this program does when it is executed by itself.
int as_child(int argc, char** argv) {
  const std::string mode = argv[1];
  if (mode == "exit") return atoi(argv[2]);
  if (mode == "exec-thread" || mode == "exec-busy") {
    if (mode == "exec-busy")
      for (int i = 0; i < 4; ++i) std::thread([] { for (;;) (void)getppid(); }).detach();
    std::thread([] { execl(self.c_str(), self.c_str(), "exit", "30", nullptr); }).detach();
    for (;;) pause();
  }
  if (mode == "exec-twice") execl(self.c_str(), self.c_str(), "exec-thread", nullptr);
  if (mode == "inherited") {
    struct sigaction a{};
    sigaction(SIGUSR1, nullptr, &a);
    sigset_t mask, pending;
    sigprocmask(SIG_BLOCK, nullptr, &mask);
    sigpending(&pending);
    return a.sa_handler == SIG_IGN && sigismember(&mask, SIGUSR2) && sigismember(&pending, SIGUSR2) ? 33 : 99;
  }
  if (mode == "descriptors" && argc == 4)
    return fcntl(atoi(argv[2]), F_GETFD) == -1 && fcntl(atoi(argv[3]), F_GETFD) == 0 ? 35 : 99;
  return 98;
}

}  // namespace

int main(int argc, char** argv) {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  if (n <= 0) return 2;
  self.assign(path, (size_t)n);
  long rounds = 3, children = 10, delay = 0;
  bool only_storm = false;
  alarm(120);
  if (argc > 1 && argv[1][0] != '-') return as_child(argc, argv);
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string a = argv[i];
    if (a == "--storm") rounds = atol(argv[i + 1]), only_storm = true;
    else if (a == "--children") children = atol(argv[i + 1]);
    else if (a == "--delay") delay = atol(argv[i + 1]);
    else return 2;
  }
  if (!only_storm) {
    basics();
    clones();
    execs();
    waits();
    sigchld();
    families();
  } else {
    alarm((unsigned)(120 + rounds * (delay + 200) / 1000));
  }
  IS("wrong results in the storm", storm(rounds, children, delay), 0);
  int status = 0;
  FAILS("no child is left", wait(&status), ECHILD);
  return guest::finish("forks");
}
