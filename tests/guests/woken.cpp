// Threads that seldom get a processor wait in epoll_wait, while children of the process end and nobody handles that:
// their wait must not end early. Natively it never does; a tracer that resumes one thread while another one was woken
// for the signal makes it return EINTR.
//
//   woken MILLISECONDS
//
// Prints how many children ended, and how many waits were cut short.
#include <atomic>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <thread>
#include <vector>

#include "guest.h"

int main(int argc, char** argv) {
  const double span = (argc > 1 ? atof(argv[1]) : 3000) / 1000;
  alarm(static_cast<unsigned>(span) + 60);
  std::vector<pid_t> hogs;
  for (long i = 0; i < sysconf(_SC_NPROCESSORS_ONLN); ++i) {
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (std::atomic<long> n{0};; ++n) {
      }
    }
    hogs.push_back(pid);
  }
  std::atomic<bool> stop{false};
  std::atomic<long> cut{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      sched_param none{};
      sched_setscheduler(0, SCHED_IDLE, &none);
      const int ep = epoll_create1(0);
      epoll_event event;
      while (!stop)
        if (epoll_wait(ep, &event, 1, 500) != 0) ++cut;
      close(ep);
    });
  long children = 0;
  for (const double end = guest::seconds() + span; guest::seconds() < end;) {
    pid_t some[6];
    for (pid_t& pid : some)
      if ((pid = fork()) == 0) _exit(0);
    for (pid_t pid : some)
      if (waitpid(pid, nullptr, 0) == pid) ++children;
  }
  stop = true;
  for (auto& t : threads) t.join();
  for (pid_t pid : hogs) kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
  guest::line("%ld children, %ld waits cut short", children, cut.load());
  return 0;
}
