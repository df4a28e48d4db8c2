#include "supervisor/world_inherited.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace supervise {
namespace {

void set_disposition(int signo, bool ignore) {
  struct sigaction action {};
  action.sa_handler = ignore ? SIG_IGN : SIG_DFL;
  sigaction(signo, &action, nullptr);
}

InheritedState take() {
  InheritedState state;
  sigprocmask(SIG_SETMASK, nullptr, &state.mask);
  for (int signo = 1; signo < 65; ++signo) {
    struct sigaction action {};
    if (sigaction(signo, nullptr, &action) == 0)
      state.ignored[static_cast<std::size_t>(signo)] = action.sa_handler == SIG_IGN;
  }
  for (int i = 0; i < RLIM_NLIMITS; ++i)
    getrlimit(static_cast<__rlimit_resource>(i), &state.limits[static_cast<std::size_t>(i)]);
  state.file_mask = umask(0);
  umask(state.file_mask);
  for (int fd = 0; fd < 3; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    state.closed[static_cast<std::size_t>(fd)] = true;
    int null = open("/dev/null", O_RDWR);
    if (null >= 0 && null != fd) {
      dup2(null, fd);
      close(null);
    }
  }
  return state;
}

}  // namespace

const InheritedState& InheritedState::record() {
  static const InheritedState state = take();
  return state;
}

void InheritedState::apply() const {
  for (int signo = 1; signo < 65; ++signo)
    set_disposition(signo, ignored[static_cast<std::size_t>(signo)]);
  for (int i = 0; i < RLIM_NLIMITS; ++i)
    setrlimit(static_cast<__rlimit_resource>(i), &limits[static_cast<std::size_t>(i)]);
  umask(file_mask);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
}

void InheritedState::apply_defaults() {
  for (int signo = 1; signo < 65; ++signo) set_disposition(signo, false);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace supervise
