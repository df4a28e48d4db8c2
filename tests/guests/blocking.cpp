// Processes and threads in every kind of blocking call. A call must return neither early, nor with
// EINTR, nor with a wrong result, whatever is done to the tree in between (stop, dump, restore).
//
//   blocking --log FILE --dir DIR (--timed SECONDS | --kick FILE)
//            [--slack SECONDS] [--limit SECONDS] [--only A,B] [--without A,B] [--tick FILE] [--list]
//
// --timed: calls with a timeout wait SECONDS and must take that long; the others are released then.
// --kick:  everything waits until FILE appears, then everybody is released.
// --tick:  meanwhile main appends numbered records to FILE, with fsync, and checks them at the end.
// DIR holds the FIFO, the lock files and the watched directory. Errors: log lines "ERR" and exit 1.
#include <algorithm>
#include <arpa/inet.h>
#include <fcntl.h>
#include <functional>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <semaphore.h>
#include <signal.h>
#include <sstream>
#include <string>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include "guest.h"

namespace {

using guest::line;
using guest::seconds;

struct Outcome {
  long result;
  int error;
  double elapsed;
  bool good;
};

struct Slot {
  volatile pid_t pid, tid;
  volatile int entered, done;
};

struct Shared {
  volatile int kicked, errors, futex_shared, futex_infinite, busy_stop;
  volatile int futexes[16];
  sem_t semaphore;
  Slot slots[128];
};

// How a wait ends: by its release alone, after its time in timed mode (by a signal in kick mode),
// or always by a signal.
enum class Ends { released, timeout, signalled };

struct Kind {
  std::string name;
  int process;  // 0: a thread of main
  Ends ends;
  std::function<long()> wait;      // returns the call's result, errno set
  std::function<bool(long)> good;  // is this result as expected after the release
  std::function<void()> release;
  long timeout_result = 0;  // what a timed wait returns when its time is over
  int timeout_error = 0;
  double slack = 0;
  clockid_t clock = CLOCK_MONOTONIC;
};

Shared* shared;
std::vector<Kind> kinds;
double wait_seconds = 3600;
double slack_seconds = 2;
bool timed_mode = false;
std::string dir, log_path, kick_path, tick_path;

timespec after(clockid_t clock, double add) {
  timespec t;
  clock_gettime(clock, &t);
  t.tv_sec += (long)add;
  t.tv_nsec += (long)((add - (long)add) * 1e9);
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  return t;
}

timespec span() { return {(long)wait_seconds, (long)((wait_seconds - (long)wait_seconds) * 1e9)}; }

long futex(volatile int* word, int op, int value, const timespec* timeout = nullptr, int bits = 0) {
  return syscall(SYS_futex, word, op, value, timeout, nullptr, bits);
}

void must(bool good, const char* what) {
  if (good) return;
  line("ERR setup %s: %s", what, strerror(errno));
  _exit(97);
}

int listener(sockaddr_in& address) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  must(bind(fd, (sockaddr*)&address, sizeof address) == 0 && listen(fd, 5) == 0, "listen");
  socklen_t size = sizeof address;
  getsockname(fd, (sockaddr*)&address, &size);
  return fd;
}

int fill_nonblocking(int fd) {
  std::vector<char> block(4096, 'f');
  int old = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, old | O_NONBLOCK);
  while (write(fd, block.data(), block.size()) > 0) {
  }
  while (write(fd, block.data(), 1) > 0) {
  }
  fcntl(fd, F_SETFL, old);
  return fd;
}

void drain(int fd, size_t bytes) {
  std::vector<char> block(bytes);
  must(read(fd, block.data(), block.size()) > 0, "drain");
}

auto returns(long want) {
  return [want](long r) { return r == want; };
}
auto at_least_zero() {
  return [](long r) { return r >= 0; };
}

void released(const char* name, int process, std::function<long()> wait,
              std::function<bool(long)> good, std::function<void()> release) {
  kinds.push_back({name, process, Ends::released, wait, good, release});
}

void timed(const char* name, int process, std::function<long()> wait, long result = 0,
           int error = 0, clockid_t clock = CLOCK_MONOTONIC) {
  kinds.push_back({name, process, Ends::timeout, wait, nullptr, nullptr, result, error, 0, clock});
}

void signalled(const char* name, int process, std::function<long()> wait) {
  kinds.push_back({name, process, Ends::signalled, wait, nullptr, nullptr});
}

// ---- the kinds ------------------------------------------------------------------------------

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

void add_sleeps() {
  timed("nanosleep", 0, [] { timespec t = span(), rest{}; return nanosleep(&t, &rest); });
  timed("nanosleep(child)", 4, [] { timespec t = span(), rest{}; return nanosleep(&t, &rest); });
  auto sleep_as = [](clockid_t clock, int flags) {
    timespec t = flags ? after(clock, wait_seconds) : span();
    int r = clock_nanosleep(clock, flags, &t, nullptr);
    errno = r;
    return r ? -1L : 0L;
  };
  timed("clock_nanosleep(rel)", 0, [=] { return sleep_as(CLOCK_MONOTONIC, 0); });
  timed("clock_nanosleep(abs)", 0, [=] { return sleep_as(CLOCK_MONOTONIC, TIMER_ABSTIME); });
  timed("clock_nanosleep(abs real)", 4, [=] { return sleep_as(CLOCK_REALTIME, TIMER_ABSTIME); }, 0, 0, CLOCK_REALTIME);
  timed("clock_nanosleep(abs boot)", 4, [=] { return sleep_as(CLOCK_BOOTTIME, TIMER_ABSTIME); }, 0, 0, CLOCK_BOOTTIME);
}

void add_futexes() {
  static auto word = [](int i) { return &shared->futexes[i]; };
  static auto wake = [](int i) {
    *word(i) = 1;
    futex(word(i), FUTEX_WAKE, 100);
  };
  // A waiter that comes after the wake sees the changed word: EAGAIN is its right answer.
  static auto woken = [](long r) { return r == 0 || (r == -1 && errno == EAGAIN); };
  released("futex(thread)", 0, [] { return futex(word(0), FUTEX_WAIT, 0); }, woken, [] { wake(0); });
  released("futex(shared)", 1, [] { return futex(word(1), FUTEX_WAIT, 0); }, woken, [] { wake(1); });
  released("futex(bitset)", 0, [] { return futex(word(2), FUTEX_WAIT_BITSET, 0, nullptr, 4); }, woken, [] {
    *word(2) = 1;
    futex(word(2), FUTEX_WAKE_BITSET, 100, nullptr, 4);
  });
  timed("futex(timed)", 0, [] { timespec t = span(); return futex(word(3), FUTEX_WAIT, 0, &t); }, -1, ETIMEDOUT);
  timed("futex(bitset abs)", 5, [] {
    timespec t = after(CLOCK_MONOTONIC, wait_seconds);
    return futex(word(4), FUTEX_WAIT_BITSET, 0, &t, -1);
  }, -1, ETIMEDOUT);
  released("futex_waitv", 0, [] {
    struct { uint64_t value, address; uint32_t flags, reserved; } v{0, (uint64_t)word(5), FUTEX_32, 0};
    return syscall(449, &v, 1, 0, nullptr, CLOCK_MONOTONIC);
  }, woken, [] { wake(5); });

  static pthread_mutex_t pi;
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
  must(pthread_mutex_init(&pi, &a) == 0 && pthread_mutex_lock(&pi) == 0, "pi mutex");
  released("futex(pi mutex)", 0, [] { return pthread_mutex_lock(&pi); }, returns(0), [] { pthread_mutex_unlock(&pi); });

  static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
  static pthread_cond_t c = PTHREAD_COND_INITIALIZER, never = PTHREAD_COND_INITIALIZER;
  static bool flag = false;
  released("pthread_cond_wait", 0, [] {
    pthread_mutex_lock(&m);
    long r = 0;
    while (!flag && r == 0) r = pthread_cond_wait(&c, &m);
    pthread_mutex_unlock(&m);
    return r;
  }, returns(0), [] {
    pthread_mutex_lock(&m);
    flag = true;
    pthread_cond_broadcast(&c);
    pthread_mutex_unlock(&m);
  });
  if (timed_mode) {
    timed("pthread_cond_timedwait", 0, [] {
      static pthread_mutex_t own = PTHREAD_MUTEX_INITIALIZER;
      timespec t = after(CLOCK_REALTIME, wait_seconds);
      pthread_mutex_lock(&own);
      int r = 0;
      while (r == 0) r = pthread_cond_timedwait(&never, &own, &t);
      pthread_mutex_unlock(&own);
      return r;
    }, ETIMEDOUT, 0, CLOCK_REALTIME);
  }
  must(sem_init(&shared->semaphore, 1, 0) == 0, "sem_init");
  released("sem_wait", 5, [] { return sem_wait(&shared->semaphore); }, returns(0), [] { sem_post(&shared->semaphore); });
}

void add_sockets() {
  static sockaddr_in address{}, accepting{};
  static int udp = socket(AF_INET, SOCK_DGRAM, 0);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  must(bind(udp, (sockaddr*)&address, sizeof address) == 0, "bind");
  socklen_t size = sizeof address;
  getsockname(udp, (sockaddr*)&address, &size);
  released("recvfrom(udp)", 0, [] { char b[8]; return recv(udp, b, 8, 0); }, returns(1),
           [] { must(sendto(udp, "x", 1, 0, (sockaddr*)&address, sizeof address) == 1, "sendto"); });
  timed("recv(SO_RCVTIMEO)", 0, [] {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    sockaddr_in any{};
    any.sin_family = AF_INET;
    must(bind(s, (sockaddr*)&any, sizeof any) == 0, "bind");
    timespec t = span();
    timeval v{t.tv_sec, t.tv_nsec / 1000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &v, sizeof v);
    char b[8];
    return recv(s, b, 8, 0);
  }, -1, EAGAIN);

  static int tcp = listener(accepting);
  released("accept(tcp)", 0, [] { return accept(tcp, nullptr, nullptr); }, at_least_zero(), [] {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(s, (sockaddr*)&accepting, sizeof accepting) == 0, "connect");
  });

  static sockaddr_un local{AF_UNIX, {}};
  snprintf(local.sun_path, sizeof local.sun_path, "%s/socket", dir.c_str());
  unlink(local.sun_path);
  static int unix_listener = socket(AF_UNIX, SOCK_STREAM, 0);
  must(bind(unix_listener, (sockaddr*)&local, sizeof local) == 0 && listen(unix_listener, 5) == 0, "bind unix");
  released("accept4(unix)", 0, [] { return accept4(unix_listener, nullptr, nullptr, SOCK_CLOEXEC); }, at_least_zero(), [] {
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    must(connect(s, (sockaddr*)&local, sizeof local) == 0, "connect unix");
  });

  static auto receive = [](int fd, int flags) {
    char b[16];
    iovec v{b, sizeof b};
    msghdr m{};
    m.msg_iov = &v, m.msg_iovlen = 1;
    return recvmsg(fd, &m, flags);
  };
  static int stream[2], datagram[2], waitall[2], blocked[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram) == 0 &&
           socketpair(AF_UNIX, SOCK_SEQPACKET, 0, waitall) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, blocked) == 0,
       "socketpair");
  released("recvmsg(unix stream)", 0, [] { return receive(stream[0], 0); }, returns(5), [] { must(write(stream[1], "hello", 5) == 5, "write"); });
  released("recvmsg(unix dgram)", 6, [] { return receive(datagram[0], 0); }, returns(4), [] { must(write(datagram[1], "four", 4) == 4, "write"); });
  released("recvmmsg(seqpacket)", 6, [] {
    char b[16];
    iovec v{b, sizeof b};
    mmsghdr m{};
    m.msg_hdr.msg_iov = &v, m.msg_hdr.msg_iovlen = 1;
    return (long)recvmmsg(waitall[0], &m, 1, 0, nullptr);
  }, returns(1), [] { must(write(waitall[1], "ab", 2) == 2, "write"); });
  fill_nonblocking(blocked[1]);
  released("send(full unix)", 0, [] { return send(blocked[1], "z", 1, MSG_NOSIGNAL); }, returns(1), [] {
    int flags = fcntl(blocked[0], F_GETFL);
    fcntl(blocked[0], F_SETFL, flags | O_NONBLOCK);
    std::vector<char> b(65536);
    while (read(blocked[0], b.data(), b.size()) > 0) {
    }
  });
}

int semaphores = -1, queues[2] = {-1, -1};

void add_sysv() {
  semaphores = semget(IPC_PRIVATE, 2, 0600);
  for (int& queue : queues) queue = msgget(IPC_PRIVATE, 0600);
  static const int sems = semaphores, in = queues[0], full = queues[1];
  must(sems >= 0 && in >= 0 && full >= 0, "sysv ipc");
  struct Message { long type; char text[512]; };
  released("semop", 7, [] { sembuf op{0, -1, 0}; return semop(sems, &op, 1); }, returns(0),
           [] { sembuf op{0, 1, 0}; must(semop(sems, &op, 1) == 0, "semop"); });
  timed("semtimedop", 7, [] { sembuf op{1, -1, 0}; timespec t = span(); return semtimedop(sems, &op, 1, &t); }, -1, EAGAIN);
  released("msgrcv", 7, [] { Message m; return msgrcv(in, &m, sizeof m.text, 0, 0); }, returns(2),
           [] { Message m{1, "z"}; must(msgsnd(in, &m, 2, 0) == 0, "msgsnd"); });
  Message m{1, ""};
  while (msgsnd(full, &m, sizeof m.text, IPC_NOWAIT) == 0) {
  }
  while (msgsnd(full, &m, 1, IPC_NOWAIT) == 0) {
  }
  released("msgsnd(full)", 0, [] { Message one{1, "q"}; return msgsnd(full, &one, 1, 0); }, returns(0),
           [] { Message one; must(msgrcv(full, &one, sizeof one.text, 0, 0) >= 0, "msgrcv"); });
}

void remove_sysv() {
  if (semaphores >= 0) semctl(semaphores, 0, IPC_RMID);
  for (int queue : queues)
    if (queue >= 0) msgctl(queue, IPC_RMID, nullptr);
}

void add_mqueue() {
  static char name[64];
  snprintf(name, sizeof name, "/guest-blocking-%d", getpid());
  mq_attr attributes{};
  attributes.mq_maxmsg = 2, attributes.mq_msgsize = 32;
  static mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
  if (queue < 0) {
    line("skip mq_receive: %s", strerror(errno));
    return;
  }
  mq_unlink(name);
  released("mq_receive", 0, [] { char b[32]; return mq_receive(queue, b, sizeof b, nullptr); }, returns(3),
           [] { must(mq_send(queue, "abc", 3, 0) == 0, "mq_send"); });
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

void add_children() {
  struct Gate { int fds[2]; };
  static Gate gates[3];
  for (auto& g : gates) must(pipe(g.fds) == 0, "pipe");
  static auto child = [](int gate, int code) {
    pid_t pid = fork();
    if (pid == 0) {
      char c;
      _exit(read(gates[gate].fds[0], &c, 1) == 1 ? code : 90);
    }
    return pid;
  };
  static auto open_gate = [](int gate) { must(write(gates[gate].fds[1], "g", 1) == 1, "write"); };
  released("wait4", 9, [] {
    pid_t pid = child(0, 5);
    int status = 0;
    pid_t r = waitpid(pid, &status, 0);
    return r == pid && WIFEXITED(status) && WEXITSTATUS(status) == 5 ? 0L : -1L;
  }, returns(0), [] { open_gate(0); });
  released("waitid", 10, [] {
    pid_t pid = child(1, 6);
    siginfo_t info{};
    int r = waitid(P_PID, pid, &info, WEXITED);
    return r == 0 && info.si_pid == pid && info.si_status == 6 ? 0L : -1L;
  }, returns(0), [] { open_gate(1); });
  static pid_t watched = child(2, 7);
  static int pidfd = (int)syscall(SYS_pidfd_open, watched, 0);
  must(pidfd >= 0, "pidfd_open");
  released("poll(pidfd)", 0, [] {
    pollfd p{pidfd, POLLIN, 0};
    long r = poll(&p, 1, -1);
    int status = 0;
    if (waitpid(watched, &status, 0) != watched || WEXITSTATUS(status) != 7) return -1L;
    return r;
  }, returns(1), [] { open_gate(2); });
}

void add_signals() {
  signalled("pause", 11, [] { return pause(); });
  signalled("sigsuspend", 12, [] {
    sigset_t none;
    sigfillset(&none);
    sigdelset(&none, SIGUSR1);
    return sigsuspend(&none);
  });
  static sigset_t timed_set, wait_set, fd_set_;
  sigemptyset(&timed_set), sigaddset(&timed_set, SIGUSR2);
  sigemptyset(&wait_set), sigaddset(&wait_set, SIGRTMIN + 3);
  sigemptyset(&fd_set_), sigaddset(&fd_set_, SIGRTMIN + 4);
  timed("rt_sigtimedwait", 0, [] { timespec t = span(); return sigtimedwait(&timed_set, nullptr, &t); }, -1, EAGAIN);
  released("sigwaitinfo", 0, [] { return sigwaitinfo(&wait_set, nullptr); }, [](long r) { return r == SIGRTMIN + 3; },
           [] { kill(getpid(), SIGRTMIN + 3); });
  static int signal_fd = signalfd(-1, &fd_set_, 0);
  released("read(signalfd)", 0, [] { signalfd_siginfo i; return read(signal_fd, &i, sizeof i); },
           returns(sizeof(signalfd_siginfo)), [] { kill(getpid(), SIGRTMIN + 4); });
}

// ---- running them ---------------------------------------------------------------------------

bool judge(const Kind& k, long r, int error, double elapsed, std::string& why) {
  const bool kicked = shared->kicked;
  if (k.ends == Ends::released) {
    errno = error;
    if (!kicked) why = "returned before it was released";
    else if (!k.good(r)) why = "wrong result";
  } else if (k.ends == Ends::timeout && timed_mode) {
    if (r != k.timeout_result || (r == -1 && error != k.timeout_error)) why = "wrong result";
    else if (elapsed < wait_seconds - 0.01) why = "too early";
    else if (elapsed > wait_seconds + slack_seconds) why = "too late";
  } else {
    if (!kicked) why = "returned before it was released";
    else if (!(r == -1 && error == EINTR)) why = "expected EINTR after the release";
  }
  return why.empty();
}

void run_kind(size_t index) {
  const Kind& k = kinds[index];
  Slot& slot = shared->slots[index];
  slot.pid = getpid();
  slot.tid = (pid_t)syscall(SYS_gettid);
  const double start = seconds(k.clock);
  slot.entered = 1;
  errno = 0;
  const long r = k.wait();
  const int error = errno;
  const double elapsed = seconds(k.clock) - start;
  std::string why;
  if (judge(k, r, error, elapsed, why)) {
    line("ok  %-26s ret=%ld elapsed=%.3f", k.name.c_str(), r, elapsed);
  } else {
    __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    line("ERR %-26s %s: ret=%ld errno=%d (%s) elapsed=%.3f", k.name.c_str(), why.c_str(), r, error, strerror(error), elapsed);
  }
  slot.done = 1;
}

void* run_thread(void* index) {
  run_kind((size_t)index);
  return nullptr;
}

// Computes all the time, so that registers and vector registers are proven to survive.
void* busy_thread(void*) {
  uint64_t x = 1, n = 0;
  volatile double d = 1.0;
  while (!shared->busy_stop) {
    for (int i = 0; i < 1000; ++i, ++n) {
      x = x * 6364136223846793005ULL + 1442695040888963407ULL;
      d = d * 1.0000001 > 2 ? 1.0 : d * 1.0000001;
    }
    timespec t{0, 20000000};
    if (nanosleep(&t, nullptr) != 0) {
      line("ERR busy thread: nanosleep: %s", strerror(errno));
      __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    }
  }
  uint64_t y = 1;
  for (uint64_t i = 0; i < n; ++i) y = y * 6364136223846793005ULL + 1442695040888963407ULL;
  if (x != y) __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
  line("%s busy thread: %llu steps", x == y ? "ok " : "ERR", (unsigned long long)n);
  return nullptr;
}

int run_process(int process) {
  std::vector<pthread_t> threads;
  std::vector<size_t> mine;
  for (size_t i = 0; i < kinds.size(); ++i)
    if (kinds[i].process == process) mine.push_back(i);
  for (size_t i = 1; i < mine.size(); ++i) {
    threads.emplace_back();
    must(pthread_create(&threads.back(), nullptr, run_thread, (void*)mine[i]) == 0, "pthread_create");
  }
  run_kind(mine[0]);
  for (auto t : threads) pthread_join(t, nullptr);
  return 30 + process;
}

struct Ticker {
  int fd = -1;
  int count = 0;
  int errors = 0;
  std::string record(int i) {
    char b[64];
    snprintf(b, sizeof b, "tick %08d from the blocking guest\n", i);
    return b;
  }
  void complain(const char* what, long r) {
    ++errors;
    line("ERR tick %d: %s: ret=%ld errno=%d (%s)", count, what, r, errno, strerror(errno));
  }
  void start() {
    if (tick_path.empty()) return;
    fd = open(tick_path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0, "open tick file");
  }
  void tick() {
    if (fd < 0) return;
    std::string r = record(count);
    long n = write(fd, r.data(), r.size());
    if (n != (long)r.size()) complain("write", n);
    if (count % 3 == 0 && (n = fsync(fd)) != 0) complain("fsync", n);
    ++count;
  }
  void verify() {
    if (fd < 0) return;
    for (int i = 0; i < count; ++i) {
      std::string want = record(i), got(want.size(), 0);
      long n = pread(fd, got.data(), got.size(), i * (off_t)want.size());
      if (n != (long)want.size() || got != want) complain("read back", n), i = count;
    }
    if (lseek(fd, 0, SEEK_END) != (off_t)(count * record(0).size())) complain("size", 0);
    line("%s %d ticks", errors ? "ERR" : "ok ", count);
  }
};

std::vector<std::string> split(const char* text) {
  std::vector<std::string> out;
  std::stringstream in(text);
  for (std::string s; std::getline(in, s, ',');) out.push_back(s);
  return out;
}

void on_signal(int) {}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> only, without;
  double limit = 0;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    std::string a = argv[i];
    const char* v = i + 1 < argc ? argv[i + 1] : "";
    if (a == "--list") { list = true; continue; }
    ++i;
    if (a == "--log") log_path = v;
    else if (a == "--dir") dir = v;
    else if (a == "--timed") timed_mode = true, wait_seconds = atof(v);
    else if (a == "--kick") kick_path = v;
    else if (a == "--slack") slack_seconds = atof(v);
    else if (a == "--limit") limit = atof(v);
    else if (a == "--only") only = split(v);
    else if (a == "--without") without = split(v);
    else if (a == "--tick") tick_path = v;
    else { line("unknown option %s", a.c_str()); return 2; }
  }
  if (dir.empty() || (!timed_mode && kick_path.empty() && !list)) {
    line("usage: blocking --dir DIR (--timed SECONDS | --kick FILE) [--log FILE]");
    return 2;
  }
  if (limit == 0) limit = timed_mode ? wait_seconds + slack_seconds + 60 : 600;
  alarm((unsigned)limit);
  if (!log_path.empty()) {
    guest::out = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (guest::out < 0) return 2;
  }
  shared = (Shared*)mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct sigaction action{};
  action.sa_handler = on_signal;
  sigaction(SIGUSR1, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int s : {SIGUSR2, SIGRTMIN + 3, SIGRTMIN + 4}) sigaddset(&blocked, s);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);

  const auto wanted = [&](const char* group) {
    const auto in = [&](const std::vector<std::string>& v) { return std::find(v.begin(), v.end(), group) != v.end(); };
    return only.empty() ? !in(without) : in(only);
  };
  const std::pair<const char*, void (*)()> groups[] = {
      {"children", add_children}, {"descriptors", add_descriptors}, {"polls", add_polls}, {"sleeps", add_sleeps},
      {"futexes", add_futexes}, {"sockets", add_sockets}, {"sysv", add_sysv}, {"mqueue", add_mqueue},
      {"aio", add_aio}, {"locks", add_locks}, {"signals", add_signals}};
  if (list) {
    for (auto& [name, add] : groups) line("%s", name);
    return 0;
  }
  for (auto& [name, add] : groups)
    if (wanted(name)) add();
  // A group's names can be single kinds too.
  std::erase_if(kinds, [&](const Kind& k) { return std::find(without.begin(), without.end(), k.name) != without.end(); });
  must(kinds.size() <= std::size(shared->slots), "too many kinds");

  std::vector<std::pair<int, pid_t>> children;
  for (int p = 1; p <= 12; ++p) {
    if (std::none_of(kinds.begin(), kinds.end(), [&](const Kind& k) { return k.process == p; })) continue;
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) _exit(run_process(p));
    children.emplace_back(p, pid);
  }
  std::vector<pthread_t> threads;
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i].process != 0) continue;
    threads.emplace_back();
    must(pthread_create(&threads.back(), nullptr, run_thread, (void*)i) == 0, "pthread_create");
  }
  pthread_t busy;
  must(pthread_create(&busy, nullptr, busy_thread, nullptr) == 0, "pthread_create");
  Ticker ticker;
  ticker.start();

  const auto all = [&](volatile int Slot::*field) {
    for (size_t i = 0; i < kinds.size(); ++i)
      if (!(shared->slots[i].*field)) return false;
    return true;
  };
  const auto nap = [&](long ms) {
    timespec t{ms / 1000, ms % 1000 * 1000000};
    if (nanosleep(&t, nullptr) != 0) {
      line("ERR main: nanosleep: %s", strerror(errno));
      __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    }
  };
  const double start = seconds();
  while (!all(&Slot::entered) && seconds() - start < 30) nap(10);
  must(all(&Slot::entered), "some thread never started");
  nap(200);
  size_t waiting = 0;
  for (auto& c : children) waiting += c.second > 0;
  line("ready: %zu kinds, %zu processes, %zu threads in main", kinds.size(), waiting + 1, threads.size() + 2);

  if (timed_mode) {
    while (seconds() - start < wait_seconds) nap(50), ticker.tick();
    nap(300);
  } else {
    while (access(kick_path.c_str(), F_OK) != 0) nap(50), ticker.tick();
  }
  shared->kicked = 1;
  line("kick");
  for (auto& k : kinds)
    if (k.ends == Ends::released) k.release();
  // A thread may be between two tries of its call: signal it until it is done.
  for (const double since = seconds(); !all(&Slot::done) && seconds() - since < 20; nap(20)) {
    for (size_t i = 0; i < kinds.size(); ++i) {
      Slot& s = shared->slots[i];
      const bool by_signal = kinds[i].ends == Ends::signalled || (kinds[i].ends == Ends::timeout && !timed_mode);
      if (by_signal && !s.done) syscall(SYS_tgkill, s.pid, s.tid, SIGUSR1);
    }
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (shared->slots[i].done) continue;
    __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
    line("ERR %s: never returned", kinds[i].name.c_str());
  }
  remove_sysv();
  if (!all(&Slot::done)) {
    for (auto& c : children) kill(c.second, SIGKILL);
    _exit(1);
  }
  shared->busy_stop = 1;
  pthread_join(busy, nullptr);
  for (auto t : threads) pthread_join(t, nullptr);
  for (auto [p, pid] : children) {
    int status = 0;
    pid_t r = waitpid(pid, &status, 0);
    if (r != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 30 + p) {
      __atomic_add_fetch(&shared->errors, 1, __ATOMIC_SEQ_CST);
      line("ERR child %d: waitpid=%d status=%x", p, r, status);
    }
  }
  ticker.verify();
  const int errors = shared->errors + ticker.errors;
  line("END %zu kinds, %d errors", kinds.size(), errors);
  return errors ? 1 : 0;
}
