#include "supervisor/pty_relay.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace supervise {
namespace {

constexpr std::size_t kChunk = 65536;
constexpr int kBackgroundPollMs = 250;

// Leaves only these descriptors open.
void keep_only(std::vector<int> keep) {
  std::sort(keep.begin(), keep.end());
  unsigned from = 0;
  for (int fd : keep) {
    if (fd < 0 || static_cast<unsigned>(fd) < from) continue;
    if (static_cast<unsigned>(fd) > from) close_range(from, static_cast<unsigned>(fd) - 1, 0);
    from = static_cast<unsigned>(fd) + 1;
  }
  close_range(from, ~0U, 0);
}

// The child of a relay's fork: no handler of the supervisor runs in it.
void settle(const char* name) {
  prctl(PR_SET_NAME, name);
  if (chdir("/") != 0) _exit(1);
  for (int signo = 1; signo < 65; ++signo) {
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    sigaction(signo, &action, nullptr);
  }
  sigset_t blocked;
  sigfillset(&blocked);
  for (int signo : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) sigdelset(&blocked, signo);
  sigprocmask(SIG_SETMASK, &blocked, nullptr);
}

// Bytes on their way in one direction.
struct Flow {
  int from = -1;
  int to = -1;
  std::array<char, kChunk> bytes;
  std::size_t at = 0;
  std::size_t end = 0;
  bool closed = false;

  bool empty() const { return at == end; }
  // What poll should wait for.
  short read_events() const { return !closed && empty() ? POLLIN : 0; }
  short write_events() const { return empty() ? 0 : POLLOUT; }

  // False at an end of file or an error.
  bool fill() {
    ssize_t n = read(from, bytes.data(), bytes.size());
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n <= 0) return false;
    at = 0;
    end = static_cast<std::size_t>(n);
    return true;
  }
  bool flush() {
    // Descriptors of ours may block, and their flags are shared with others: small steps after
    // POLLOUT do not.
    std::size_t step = std::min<std::size_t>(end - at, PIPE_BUF);
    ssize_t n = write(to, bytes.data() + at, step);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    at += static_cast<std::size_t>(n);
    return true;
  }
};

[[noreturn]] void copy_pipe(int from, int to) {
  auto flow = std::make_unique<Flow>();
  flow->from = from;
  flow->to = to;
  for (;;) {
    pollfd waits[2] = {{from, flow->read_events(), 0}, {to, flow->write_events(), 0}};
    if (!waits[0].events) waits[0].fd = -1;
    poll(waits, 2, -1);
    if (waits[1].revents & (POLLERR | POLLNVAL)) _exit(0);
    if (waits[1].revents && !flow->empty() && !flow->flush()) _exit(0);
    if (waits[0].revents && flow->empty() && !flow->fill()) _exit(0);
  }
}

Result<pid_t> fork_quietly() {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid != 0) {
    int err = errno;
    sigprocmask(SIG_SETMASK, &before, nullptr);
    if (pid < 0) return errno_error(err, "fork a relay");
  }
  return pid;
}

bool in_foreground(int terminal) {
  pid_t group = tcgetpgrp(terminal);
  return group < 0 || group == getpgrp();
}

class PtyCopier {
 public:
  PtyCopier(int terminal, int in, int out, int master, int control, const termios& original)
      : terminal_(terminal), control_(control), master_(master), original_(original) {
    to_pty_->from = in;
    to_pty_->to = master;
    from_pty_->from = master;
    from_pty_->to = out;
    if (in < 0) to_pty_->closed = true;
  }

  [[noreturn]] void run() {
    sigset_t winch;
    sigemptyset(&winch);
    sigaddset(&winch, SIGWINCH);
    int signals = signalfd(-1, &winch, SFD_CLOEXEC | SFD_NONBLOCK);
    if (terminal_ < 0) plain();
    update_mode();
    window();
    for (;;) {
      bool reading = !to_pty_->closed && active_;
      pollfd waits[5] = {
          {to_pty_->from, reading ? to_pty_->read_events() : short(0), 0},
          {master_, static_cast<short>(from_pty_->read_events() | to_pty_->write_events()), 0},
          {from_pty_->to, from_pty_->write_events(), 0},
          {control_, POLLIN, 0},
          {signals, POLLIN, 0},
      };
      if (!waits[0].events) waits[0].fd = -1;
      if (!waits[1].events) waits[1].fd = -1;
      if (!waits[2].events) waits[2].fd = -1;
      poll(waits, 5, terminal_ >= 0 && !suspended_ && !active_ ? kBackgroundPollMs : -1);
      if (waits[4].revents) {
        signalfd_siginfo info;
        while (read(signals, &info, sizeof info) > 0) {
        }
        window();
      }
      if (waits[3].revents) obey();
      update_mode();
      step(waits);
    }
  }

 private:
  void step(const pollfd* waits) {
    if (waits[2].revents && !from_pty_->empty() && !from_pty_->flush()) finish();
    if (waits[1].revents & (POLLIN | POLLHUP | POLLERR)) {
      if (from_pty_->empty() && !from_pty_->fill()) finish();  // EIO: every slave is closed
      if (from_pty_->to < 0) from_pty_->at = from_pty_->end;
    }
    if ((waits[1].revents & POLLOUT) && !to_pty_->empty() && !to_pty_->flush()) finish();
    if (waits[0].revents && active_ && to_pty_->empty() && !to_pty_->fill()) end_of_input();
  }

  // Nobody types: no echo and no carriage returns among the bytes.
  void plain() {
    termios mode{};
    if (tcgetattr(master_, &mode) != 0) return;
    mode.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHONL);
    mode.c_oflag &= ~static_cast<tcflag_t>(OPOST);
    tcsetattr(master_, TCSANOW, &mode);
  }

  // A terminal that is gone hangs the pty up; the end of another input is an end of file there.
  void end_of_input() {
    if (terminal_ >= 0) {
      // Put into the background between poll and read (EIO, as SIGTTIN is blocked).
      if (!in_foreground(terminal_)) return;
      finish();
    }
    to_pty_->closed = true;
    termios mode{};
    if (tcgetattr(master_, &mode) != 0) return;
    char eof = static_cast<char>(mode.c_cc[VEOF]);
    if (!(mode.c_lflag & ICANON)) return;
    to_pty_->bytes[0] = eof;
    to_pty_->at = 0;
    to_pty_->end = 1;
  }

  void obey() {
    char what = 0;
    ssize_t n = recv(control_, &what, 1, MSG_DONTWAIT);
    if (n < 0) return;
    if (n == 0) {
      // The supervisor is gone: the terminal is the shell's again, the application gets a hang-up.
      finish();
    }
    if (what == 'w') window();
    if (what == 'r') suspended_ = false;
    if (what == 's') {
      suspended_ = true;
      set_cooked();
      send(control_, &what, 1, MSG_NOSIGNAL);
    }
    if (what == 'f') finish();
  }

  void update_mode() {
    if (terminal_ < 0) {
      active_ = !suspended_;
      return;
    }
    bool front = !suspended_ && in_foreground(terminal_);
    if (front && !active_) {
      set_raw();
      window();
    }
    if (!front && active_) raw_ = false;  // whoever is in front now has set it as they like
    active_ = front;
  }

  void set_raw() {
    termios mode = original_;
    cfmakeraw(&mode);
    if (tcsetattr(terminal_, TCSADRAIN, &mode) == 0) raw_ = true;
  }

  void set_cooked() {
    if (terminal_ >= 0 && raw_) tcsetattr(terminal_, TCSADRAIN, &original_);
    raw_ = false;
    active_ = false;
  }

  void window() {
    winsize size{};
    if (terminal_ >= 0 && ioctl(terminal_, TIOCGWINSZ, &size) == 0)
      ioctl(master_, TIOCSWINSZ, &size);
  }

  [[noreturn]] void finish() {
    while (from_pty_->to >= 0 && !from_pty_->empty() && from_pty_->flush()) {
    }
    set_cooked();
    _exit(0);
  }

  int terminal_;
  int control_;
  int master_;
  termios original_;
  bool active_ = false;
  bool raw_ = false;
  bool suspended_ = false;
  std::unique_ptr<Flow> to_pty_ = std::make_unique<Flow>();
  std::unique_ptr<Flow> from_pty_ = std::make_unique<Flow>();
};

}  // namespace

Result<std::unique_ptr<PipeRelay>> PipeRelay::start(int from, int to) {
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) return errno_error("pipe for a relay");
  UniqueFd ours(pipe_ends[0]);
  UniqueFd theirs(pipe_ends[1]);
  pid_t pid;
  ASSIGN_OR_RETURN(pid, fork_quietly());
  if (pid == 0) {
    settle("supervise-relay");
    keep_only({from, to, theirs.get()});
    copy_pipe(from, to);
  }
  return std::unique_ptr<PipeRelay>(new PipeRelay(pid, std::move(ours)));
}

PipeRelay::~PipeRelay() { stop(); }

void PipeRelay::finish(Deadline deadline) {
  if (pid_ <= 0) return;
  pollfd wait{alive_.get(), POLLIN, 0};
  while (poll(&wait, 1, deadline.left_ms()) < 0 && errno == EINTR) {
  }
  stop();
}

void PipeRelay::stop() {
  if (pid_ <= 0) return;
  pollfd wait{alive_.get(), POLLIN, 0};
  if (poll(&wait, 1, 0) == 0) kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

Result<std::unique_ptr<PtyRelay>> PtyRelay::start(int terminal, int in, int out) {
  std::unique_ptr<PtyRelay> relay(new PtyRelay());
  relay->master_.reset(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!relay->master_) return errno_error("open /dev/ptmx for the application's terminal");
  int master = relay->master_.get();
  char name[64];
  fcntl(master, F_SETFL, fcntl(master, F_GETFL) | O_NONBLOCK);
  if (grantpt(master) != 0 || unlockpt(master) != 0 || ptsname_r(master, name, sizeof name) != 0)
    return errno_error("set up a pty for the application's terminal");
  relay->slave_name_ = name;
  // A slave that stays open until the application has its own: without any, reads say EIO.
  UniqueFd slave;
  ASSIGN_OR_RETURN(slave, relay->open_slave());
  if (terminal >= 0) {
    winsize size{};
    if (tcgetattr(terminal, &relay->original_) != 0) return errno_error("tcgetattr of the terminal");
    tcsetattr(slave.get(), TCSANOW, &relay->original_);
    if (ioctl(terminal, TIOCGWINSZ, &size) == 0) ioctl(master, TIOCSWINSZ, &size);
  }
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return errno_error("socketpair for the terminal's relay");
  relay->control_.reset(pair[0]);
  UniqueFd theirs(pair[1]);
  pid_t pid;
  ASSIGN_OR_RETURN(pid, fork_quietly());
  if (pid == 0) {
    settle("supervise-pty");
    // Held until the application has opened the slave: the supervisor says so by 'o'.
    keep_only({terminal, in, out, master, theirs.get(), slave.get()});
    char opened = 0;
    while (recv(theirs.get(), &opened, 1, 0) < 0 && errno == EINTR) {
    }
    slave.reset();
    if (opened != 'o') _exit(0);
    PtyCopier(terminal, in, out, master, theirs.get(), relay->original_).run();
  }
  relay->pid_ = pid;
  relay->terminal_ = terminal;
  return relay;
}

Result<UniqueFd> PtyRelay::open_slave() const {
  int fd = ioctl(master_.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) fd = open(slave_name_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return errno_error("open " + slave_name_);
  return UniqueFd(fd);
}

PtyRelay::~PtyRelay() { finish(Deadline::in(Millis(200))); }

void PtyRelay::command(char what) {
  if (control_) send(control_.get(), &what, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool PtyRelay::wait_byte(Deadline deadline) {
  for (;;) {
    pollfd wait{control_.get(), POLLIN, 0};
    int n = poll(&wait, 1, deadline.left_ms());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    char byte;
    return recv(control_.get(), &byte, 1, MSG_DONTWAIT) == 1;
  }
}

void PtyRelay::opened() {
  command('o');
  master_.reset();
}

void PtyRelay::window_changed() { command('w'); }

void PtyRelay::suspend(Deadline deadline) {
  command('s');
  if (pid_ > 0 && !wait_byte(deadline)) restore_terminal();
}

void PtyRelay::resume() { command('r'); }

void PtyRelay::restore_terminal() {
  if (terminal_ < 0) return;
  sigset_t ttou;
  sigset_t before;
  sigemptyset(&ttou);
  sigaddset(&ttou, SIGTTOU);
  sigprocmask(SIG_BLOCK, &ttou, &before);
  if (in_foreground(terminal_)) tcsetattr(terminal_, TCSADRAIN, &original_);
  sigprocmask(SIG_SETMASK, &before, nullptr);
}

void PtyRelay::finish(Deadline deadline) {
  if (pid_ <= 0) return;
  master_.reset();
  // It ends by itself when the application's side is closed and all is copied.
  bool ended = false;
  while (!ended && !deadline.passed()) {
    pollfd wait{control_.get(), POLLIN, 0};
    if (poll(&wait, 1, deadline.left_ms()) > 0) {
      char byte;
      ssize_t n = recv(control_.get(), &byte, 1, MSG_DONTWAIT);
      ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    }
  }
  if (!ended) {
    command('f');
    pollfd wait{control_.get(), POLLIN, 0};
    if (poll(&wait, 1, 500) == 0) kill(pid_, SIGKILL);
  }
  control_.reset();
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
  restore_terminal();
}

}  // namespace supervise
