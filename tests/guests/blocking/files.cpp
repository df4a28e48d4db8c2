// Pipes, FIFOs, terminals and other descriptors; polls; locks of files; asynchronous I/O.
#include <linux/aio_abi.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

#include "../blocking.h"

namespace blocking {

void add_descriptors() {
  static int fds[2];
  must(pipe(fds) == 0, "pipe");
  released("read(pipe)", 0, [] { char c = 0; long r = read(fds[0], &c, 1); return r == 1 && c == 'P' ? 1 : r; },
           returns(1), [] { must(write(fds[1], "P", 1) == 1, "write"); });

  static int full[2];
  must(pipe(full) == 0, "pipe");
  fill_nonblocking(full[1]);
  released("write(full pipe)", 0, [] { return write(full[1], "x", 1); }, returns(1),
           [] { drain(full[0], 8192); });

  static int source[2], sink[2];
  must(pipe(source) == 0 && pipe(sink) == 0, "pipe");
  released("splice(pipe)", 0, [] { return splice(source[0], nullptr, sink[1], nullptr, 64, 0); },
           returns(3), [] { must(write(source[1], "abc", 3) == 3, "write"); });

  static int child_pipe[2];
  must(pipe(child_pipe) == 0, "pipe");
  released("readv(pipe)", 1, [] {
    char a, b;
    iovec v[2] = {{&a, 1}, {&b, 1}};
    return readv(child_pipe[0], v, 2);
  }, returns(2), [] { must(write(child_pipe[1], "QQ", 2) == 2, "write"); });

  static std::string fifo = dir + "/fifo", opened = dir + "/fifo-open";
  unlink(fifo.c_str()), unlink(opened.c_str());
  must(mkfifo(fifo.c_str(), 0600) == 0 && mkfifo(opened.c_str(), 0600) == 0, "mkfifo");
  static int fifo_fd = open(fifo.c_str(), O_RDWR);
  must(fifo_fd >= 0, "open fifo");
  released("read(fifo)", 0, [] { char c; return read(fifo_fd, &c, 1); }, returns(1),
           [] { must(write(fifo_fd, "F", 1) == 1, "write"); });
  released("open(fifo)", 2, [] { return open(opened.c_str(), O_RDONLY); }, at_least_zero(),
           [] { must(open(opened.c_str(), O_RDWR | O_NONBLOCK) >= 0, "open"); });

  static int event = eventfd(0, 0);
  released("read(eventfd)", 0, [] { uint64_t v = 0; long r = read(event, &v, 8); return v == 7 ? r : -1; },
           returns(8), [] { uint64_t v = 7; must(write(event, &v, 8) == 8, "write"); });

  static int timer = timerfd_create(CLOCK_MONOTONIC, 0);
  must(timer >= 0, "timerfd_create");
  static auto expire_in = [](timespec t) {
    itimerspec once{{0, 0}, t};
    must(timerfd_settime(timer, 0, &once, nullptr) == 0, "timerfd_settime");
  };
  static auto read_timer = [] {
    uint64_t v = 0;
    expire_in(span());
    return read(timer, &v, 8);
  };
  if (timed_mode) timed("read(timerfd)", 0, read_timer, 8);
  else released("read(timerfd)", 0, read_timer, returns(8), [] { expire_in({0, 1000}); });

  static int watch = inotify_init1(0);
  static std::string watched = dir + "/watched";
  mkdir(watched.c_str(), 0700);
  unlink((watched + "/new").c_str());
  must(inotify_add_watch(watch, watched.c_str(), IN_CREATE) >= 0, "inotify");
  released("read(inotify)", 0, [] { char b[512]; return read(watch, b, sizeof b); },
           [](long r) { return r >= (long)sizeof(inotify_event); },
           [] { must(creat((watched + "/new").c_str(), 0600) >= 0, "creat"); });

  static int master, slave;
  must(openpty(&master, &slave, nullptr, nullptr, nullptr) == 0, "openpty");
  released("read(pty)", 0, [] { char b[16]; return read(slave, b, sizeof b); }, returns(3),
           [] { must(write(master, "hi\n", 3) == 3, "write"); });
}

void add_polls() {
  static int ready = eventfd(0, 0);
  static auto release = [] { uint64_t v = 1; must(write(ready, &v, 8) == 8, "write"); };
  static int ep = epoll_create1(0), idle = epoll_create1(0);
  epoll_event e{EPOLLIN, {}};
  must(epoll_ctl(ep, EPOLL_CTL_ADD, ready, &e) == 0, "epoll_ctl");
  static sigset_t mask;  // as before, but without SIGURG: it has to be put in place and taken back
  sigprocmask(SIG_BLOCK, nullptr, &mask);
  sigdelset(&mask, SIGURG);

  released("epoll_wait", 0, [] { epoll_event x; return epoll_wait(ep, &x, 1, -1); }, returns(1), release);
  released("epoll_pwait", 0, [] { epoll_event x; return epoll_pwait(ep, &x, 1, -1, &mask); }, returns(1), release);
  released("poll", 0, [] { pollfd p{ready, POLLIN, 0}; return poll(&p, 1, -1); }, returns(1), release);
  released("ppoll", 0, [] { pollfd p{ready, POLLIN, 0}; return ppoll(&p, 1, nullptr, &mask); }, returns(1), release);
  released("select", 0, [] {
    fd_set s;
    FD_ZERO(&s);
    FD_SET(ready, &s);
    return select(ready + 1, &s, nullptr, nullptr, nullptr);
  }, returns(1), release);
  released("pselect", 3, [] {
    fd_set s;
    FD_ZERO(&s);
    FD_SET(ready, &s);
    return pselect(ready + 1, &s, nullptr, nullptr, nullptr, &mask);
  }, returns(1), release);

  timed("epoll_wait(timed)", 0, [] { epoll_event x; return epoll_wait(idle, &x, 1, (int)(wait_seconds * 1000)); });
  timed("epoll_pwait2(timed)", 3, [] {
    epoll_event x;
    timespec t = span();
    return syscall(SYS_epoll_pwait2, idle, &x, 1, &t, nullptr, 0);
  });
  timed("poll(timed)", 0, [] { return poll(nullptr, 0, (int)(wait_seconds * 1000)); });
  timed("ppoll(timed)", 3, [] { timespec t = span(); return ppoll(nullptr, 0, &t, nullptr); });
  timed("select(timed)", 0, [] {
    timespec s = span();
    timeval t{s.tv_sec, s.tv_nsec / 1000};
    return select(0, nullptr, nullptr, nullptr, &t);
  });
  timed("pselect(timed)", 0, [] { timespec t = span(); return pselect(0, nullptr, nullptr, nullptr, &t, nullptr); });
}

void add_locks() {
  static std::string posix = dir + "/lock-posix", ofd = dir + "/lock-ofd", whole = dir + "/lock-flock";
  static int posix_fd = open(posix.c_str(), O_RDWR | O_CREAT, 0600), ofd_fd = open(ofd.c_str(), O_RDWR | O_CREAT, 0600),
             whole_fd = open(whole.c_str(), O_RDWR | O_CREAT, 0600);
  must(posix_fd >= 0 && ofd_fd >= 0 && whole_fd >= 0, "open lock files");
  static struct flock range{};
  range.l_type = F_WRLCK, range.l_whence = SEEK_SET, range.l_start = 100, range.l_len = 50;
  struct flock own = range;
  must(fcntl(posix_fd, F_SETLK, &own) == 0, "F_SETLK");
  own = range;
  must(fcntl(ofd_fd, F_OFD_SETLK, &own) == 0, "F_OFD_SETLK");
  must(flock(whole_fd, LOCK_EX) == 0, "flock");
  static auto unlocked = [] { struct flock f = range; f.l_type = F_UNLCK; return f; };
  released("fcntl(F_SETLKW)", 8, [] {
    int fd = open(posix.c_str(), O_RDWR);
    struct flock f = range;
    return (long)fcntl(fd, F_SETLKW, &f);
  }, returns(0), [] { auto f = unlocked(); must(fcntl(posix_fd, F_SETLK, &f) == 0, "unlock"); });
  released("fcntl(F_OFD_SETLKW)", 0, [] {
    int fd = open(ofd.c_str(), O_RDWR);
    struct flock f = range;
    return (long)fcntl(fd, F_OFD_SETLKW, &f);
  }, returns(0), [] { auto f = unlocked(); must(fcntl(ofd_fd, F_OFD_SETLK, &f) == 0, "unlock"); });
  released("flock", 0, [] { return (long)flock(open(whole.c_str(), O_RDWR), LOCK_EX); }, returns(0),
           [] { must(flock(whole_fd, LOCK_UN) == 0, "unlock"); });
}

void add_aio() {
  static aio_context_t context = 0;
  if (syscall(SYS_io_setup, 4, &context) != 0) {
    line("skip io_getevents: %s", strerror(errno));
    return;
  }
  timed("io_getevents(timed)", 0, [] {
    io_event e;
    timespec t = span();
    return syscall(SYS_io_getevents, context, 1, 1, &e, &t);
  });
}

}  // namespace blocking
