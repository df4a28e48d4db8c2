#include "supervisor/keeper.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <new>

namespace supervise {

Status Keeper::start(std::function<int(pid_t)> take_over) {
  if (!page_) {
    void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return errno_error("mmap of the keeper's page");
    static_assert(sizeof(KeeperPage) <= 4096);
    page_ = new (at) KeeperPage{};
  }
  dismiss();
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return errno_error("socketpair for the keeper");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  const pid_t supervisor = getpid();
  const pid_t pid = fork();
  if (pid < 0) return errno_error("fork of the keeper");
  if (pid > 0) {
    pid_ = pid;
    line_ = std::move(ours);
    return {};
  }
  ours.reset();
  setsid();  // not in reach of what is sent to the supervisor's process group
  UniqueFd death(static_cast<int>(syscall(SYS_pidfd_open, supervisor, 0)));
  for (;;) {
    pollfd fds[2] = {{theirs.get(), POLLIN, 0}, {death.get(), POLLIN, 0}};
    if (poll(fds, death ? 2 : 1, -1) < 0) continue;
    char byte;
    if ((fds[0].revents & POLLIN) && read(theirs.get(), &byte, 1) == 1) _exit(0);
    if (!death || (fds[1].revents & POLLIN)) break;
    // End of file alone: wait until the process has let its tracees go.
    if (fds[0].revents) {
      pollfd last{death.get(), POLLIN, 0};
      poll(&last, 1, 10000);
      break;
    }
  }
  forget();
  _exit(take_over(supervisor));
}

void Keeper::dismiss() {
  if (pid_ <= 0) return;
  const char byte = 'd';
  (void)!send(line_.get(), &byte, 1, MSG_NOSIGNAL);
  line_.reset();
  // It ends at once; should it not, it is ours to end.
  for (int i = 0; i < 200; ++i) {
    const pid_t got = waitpid(pid_, nullptr, WNOHANG);
    if (got == pid_ || (got < 0 && errno == ECHILD)) {
      pid_ = 0;
      return;
    }
    usleep(1000);
  }
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

void Keeper::forget() {
  pid_ = 0;
  line_.reset();
}

}  // namespace supervise
