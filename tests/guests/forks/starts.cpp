// How processes begin and programs start: fork, vfork, posix_spawn, clone, clone3, exec.
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <thread>

#include "../forks.h"

extern char** environ;

namespace forks {

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

}  // namespace forks
