// What the parts of the guest `forks` share: a child that does something, and how it ended.
#pragma once

#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

namespace forks {

extern std::string self;  // this program's path

inline int exit_of(pid_t pid) {
  int status = -1;
  return waitpid(pid, &status, 0) == pid ? (WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status)) : -errno;
}

inline pid_t child_that(void (*what)()) {
  pid_t pid = fork();
  if (pid == 0) {
    what();
    _exit(0);
  }
  return pid;
}

void basics();
void clones();
void execs();
void waits();
void sigchld();
void families();

}  // namespace forks
