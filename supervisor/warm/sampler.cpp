#include "supervisor/warm/sampler.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>

#include "seccomp/syscall_table.h"
#include "tracer/proc_info.h"

namespace supervise {
namespace {

constexpr std::size_t kMostSamples = 64;

std::uint64_t status_number(const std::string& status, std::string_view key) {
  const auto at = status.find(key);
  return at == std::string::npos ? 0 : strtoull(status.c_str() + at + key.size(), nullptr, 10);
}

std::string of_descriptor(pid_t tid, int nr, int fd) {
  auto link = fd_link(tid, fd);
  return fmt::format("{} of descriptor {} ({})", syscall_name(nr), fd, link ? *link : "?");
}

std::string describe(pid_t tid, int nr, const std::uint64_t (&args)[6]) {
  switch (nr) {
    case SYS_futex:
    case SYS_futex_waitv: return "a lock or condition of another thread (futex)";
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_poll:
    case SYS_ppoll:
    case SYS_select:
    case SYS_pselect6: return fmt::format("events on its descriptors ({})", syscall_name(nr));
    case SYS_wait4:
    case SYS_waitid: return fmt::format("the end of a child ({})", syscall_name(nr));
    case SYS_pause:
    case SYS_rt_sigsuspend:
    case SYS_rt_sigtimedwait: return fmt::format("a signal ({})", syscall_name(nr));
    case SYS_read:
    case SYS_readv:
    case SYS_write:
    case SYS_writev:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_flock: return of_descriptor(tid, nr, static_cast<int>(args[0]));
    default: return std::string(syscall_name(nr));
  }
}

}  // namespace

WaitKind wait_kind(int nr, const std::uint64_t (&args)[6]) {
  const auto timed = [](bool yes) { return yes ? WaitKind::Timed : WaitKind::Event; };
  switch (nr) {
    case SYS_nanosleep:
    case SYS_clock_nanosleep: return WaitKind::Sleep;
    case SYS_poll:
      if (args[1] == 0 && static_cast<int>(args[2]) >= 0) return WaitKind::Sleep;
      return timed(static_cast<int>(args[2]) >= 0);
    case SYS_ppoll: return args[1] == 0 && args[2] ? WaitKind::Sleep : timed(args[2] != 0);
    case SYS_select:
    case SYS_pselect6: return args[0] == 0 && args[4] ? WaitKind::Sleep : timed(args[4] != 0);
    case SYS_epoll_wait:
    case SYS_epoll_pwait: return timed(static_cast<int>(args[3]) >= 0);
    case SYS_futex: {
      const auto op = static_cast<int>(args[1]) & FUTEX_CMD_MASK;
      return timed(args[3] != 0 && (op == FUTEX_WAIT || op == FUTEX_WAIT_BITSET || op == FUTEX_LOCK_PI ||
                                    op == FUTEX_WAIT_REQUEUE_PI));
    }
    case SYS_epoll_pwait2:
    case SYS_futex_waitv:
    case SYS_semtimedop: return timed(args[3] != 0);
    case SYS_rt_sigtimedwait: return timed(args[2] != 0);
    case SYS_recvmmsg:
    case SYS_io_getevents:
    case SYS_mq_timedsend:
    case SYS_mq_timedreceive: return timed(args[4] != 0);
    case SYS_restart_syscall: return WaitKind::Timed;
    default: return WaitKind::Event;
  }
}

bool parse_proc_syscall(std::string_view text, int& nr, std::uint64_t (&args)[6], std::uint64_t& sp,
                        std::uint64_t& pc) {
  const std::string line(text);
  if (line.starts_with("running")) return false;
  if (line.starts_with("-1")) {
    nr = -1;
    return sscanf(line.c_str(), "-1 %" SCNx64 " %" SCNx64, &sp, &pc) == 2;
  }
  return sscanf(line.c_str(),
                "%d %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64
                " %" SCNx64,
                &nr, &args[0], &args[1], &args[2], &args[3], &args[4], &args[5], &sp, &pc) == 9;
}

WaitSample sample_thread(pid_t tid) {
  WaitSample s;
  s.at = Clock::now();
  auto status = read_proc_file(fmt::format("/proc/{}/status", tid));
  if (!status) {
    s.kind = WaitKind::Stopped;
    s.detail = "ended";
    return s;
  }
  s.switches = status_number(*status, "\nvoluntary_ctxt_switches:") +
               status_number(*status, "\nnonvoluntary_ctxt_switches:");
  if (auto sched = read_proc_file(fmt::format("/proc/{}/schedstat", tid)))
    s.cpu_ns = strtoull(sched->c_str(), nullptr, 10);
  const auto at = status->find("\nState:\t");
  const char state = at == std::string::npos ? '?' : (*status)[at + 8];
  std::uint64_t args[6] = {};
  auto call = read_proc_file(fmt::format("/proc/{}/syscall", tid));
  const bool blocked = call && parse_proc_syscall(*call, s.nr, args, s.sp, s.pc);
  switch (state) {
    case 'S':
      if (!blocked || s.nr < 0) break;  // it woke in between, or sleeps in a page fault
      s.kind = wait_kind(s.nr, args);
      s.detail = describe(tid, s.nr, args);
      break;
    case 'D': s.kind = WaitKind::Disk; break;
    case 'T':
      s.kind = WaitKind::Stopped;
      s.detail = "stopped by job control";
      break;
    case 'Z':
    case 'X':
      s.kind = WaitKind::Stopped;
      s.detail = "ended, not yet waited for";
      break;
    default: break;
  }
  return s;
}

void add_sample(std::deque<WaitSample>& samples, WaitSample s) {
  const auto same = [&](const WaitSample& o) {
    return o.kind == s.kind && o.nr == s.nr && o.sp == s.sp && o.pc == s.pc && o.switches == s.switches;
  };
  if (samples.size() >= 2 && same(samples.back()) && same(samples[samples.size() - 2])) samples.pop_back();
  samples.push_back(std::move(s));
  if (samples.size() > kMostSamples) samples.pop_front();
}

}  // namespace supervise
