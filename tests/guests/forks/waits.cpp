// How processes end, stop and are waited for: wait forms, group stops, SIGCHLD, orphans, groups, zombies.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <thread>
#include <vector>

#include "../forks.h"

namespace forks {

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

namespace {
volatile int chld_codes;
void on_chld(int, siginfo_t* info, void*) {
  chld_codes = chld_codes | 1 << info->si_code;
}
}  // namespace

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

}  // namespace forks
