// A handler that does I/O of its own, what brings signals, and work that they meet.
#include <sys/time.h>
#include <sys/uio.h>

#include "../stub_stress.h"
#include "handlers.h"

namespace stress {

int handler_pipe[2] = {-1, -1};
int handler_file = -1;
std::atomic<long> handled{0}, handler_bytes{0};

void busy_handler(int signal, siginfo_t*, void*) {
  const int error = errno;
  ++handled;
  const char text[8] = "handler";
  if (write(handler_pipe[1], text, 8) == 8) handler_bytes += 8;
  char back[8];
  if (pwrite(handler_file, text, 8, 0) != 8) bad("pwrite in a handler", -1, 8);
  if (pread(handler_file, back, 8, 0) != 8 || memcmp(back, text, 8) != 0) bad("pread in a handler", -1, 8);
  const int fd = dup(handler_file);
  if (fd < 0 || close(fd) != 0) bad("dup and close in a handler", fd, 0);
  if (signal == SIGUSR1) raise(SIGUSR2);
  else if (signal != SIGUSR2) raise(SIGUSR1);
  errno = error;
}

void handle(int signal, void (*f)(int, siginfo_t*, void*), int flags) {
  struct sigaction a{};
  a.sa_sigaction = f;
  a.sa_flags = SA_SIGINFO | flags;
  sigaction(signal, &a, nullptr);
}

void every_ms(double ms) {
  const long us = (long)(ms * 1000);
  itimerval t{{0, us}, {0, us}};
  setitimer(ITIMER_REAL, &t, nullptr);
}

void open_handler_files() {
  MUST(pipe2(handler_pipe, O_NONBLOCK), 0);
  handler_file = open((options.dir + "/handler").c_str(), O_CREAT | O_RDWR | O_TRUNC, 0600);
  handled = handler_bytes = 0;
}
void close_handler_files() {
  for (int fd : {handler_pipe[0], handler_pipe[1], handler_file}) close(fd);
}

void plain_work(int id, const std::atomic<bool>& end) {
  const std::string name = options.dir + "/work-" + std::to_string(id);
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600), null = open("/dev/null", O_WRONLY);
  const int zero = open("/dev/zero", O_RDONLY);
  for (int n = 0; !end; ++n) {
    Item r = make_item(id, n), got{};
    const off_t at = (n % 100) * (off_t)sizeof r;
    MUST(pwrite(fd, &r, sizeof r, at), sizeof r);
    errno = 4711;
    MUST(pread(fd, &got, sizeof got, at), sizeof got);
    MUST(errno, 4711);
    must("what was written is read", memcmp(&r, &got, sizeof r), 0);
    MUST(write(null, &r, 8), 8);
    iovec v{&got, 8};
    MUST(readv(zero, &v, 1), 8);
    MUST(got.writer, 0);
    errno = 0;
    MUST(fsync(-1), -1);
    MUST(errno, EBADF);
  }
  for (int f : {fd, null, zero}) close(f);
  unlink(name.c_str());
}

}  // namespace stress
