#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "seccomp/filter.h"
#include "supervisor/base/unique_fd.h"
#include "supervisor/doctor.h"
#include "supervisor/doctor_child.h"
#include "tracer/ptrace_raw.h"
#include "tracer/stop.h"
#include "tracer/stub/stub.h"

namespace supervise {
namespace {

constexpr Millis kLimit{5000};
constexpr unsigned long kSuspendSeccomp = 1ul << 21;  // PTRACE_O_SUSPEND_SECCOMP

int sleep_on() {
  while (true) ::pause();
}

std::string ptrace_remedy() {
  std::string text = "grant CAP_SYS_PTRACE (container: --cap-add SYS_PTRACE)";
  int scope = 0;
  if (std::ifstream("/proc/sys/kernel/yama/ptrace_scope") >> scope && scope > 1)
    text += fmt::format(", and set kernel.yama.ptrace_scope to 1 (it is {}{})", scope,
                        scope == 3 ? "; 3 stays until a reboot" : "");
  return text + "; a program that is traced already (a debugger, strace) can't be supervised";
}

Result<Stop> next_stop(const ProbeChild& child) {
  ASSIGN_OR_RETURN(const int status, child.next_status());
  return classify(status);
}

Result<std::string> try_seize() {
  const ProbeChild child(sleep_on);
  RETURN_IF_ERROR(ptrace_raw::seize(child.pid(), ptrace_raw::kOptions));
  RETURN_IF_ERROR(ptrace_raw::interrupt(child.pid()));
  ASSIGN_OR_RETURN(const auto stop, next_stop(child));
  if (stop.kind != StopKind::Interrupted)
    return plain_error(fmt::format("an interrupted child reported {}", name_of(stop.kind)));
  ASSIGN_OR_RETURN([[maybe_unused]] const auto regs, ptrace_raw::get_regs(child.pid()));
  ASSIGN_OR_RETURN([[maybe_unused]] const auto info, ptrace_raw::call_info(child.pid()));
  RETURN_IF_ERROR(ptrace_raw::detach(child.pid()));
  return std::string("a child was seized, interrupted, read and let go");
}

// A child under the filter that run installs: a traced call, one of the 32-bit table, one refused.
Result<std::string> try_filter() {
  ASSIGN_OR_RETURN(auto program, filter_build(filter_plan({})));
  const sock_fprog fprog{static_cast<unsigned short>(program.size()), program.data()};
  const ProbeChild child([&] {
    ::raise(SIGSTOP);
    if (const int err = filter_install(&fprog); err != 0) return err;
    char params[256] = {};
    if (::syscall(SYS_io_uring_setup, 1, params) != -1 || errno != ENOSYS) return 1;
    ::syscall(SYS_fsync, -1);
    return 0;
  });
  RETURN_IF_ERROR(ptrace_raw::seize(child.pid(), ptrace_raw::kOptions | ptrace_raw::kExitKill));
  int traced = 0;
  while (true) {
    ASSIGN_OR_RETURN(const auto stop, next_stop(child));
    if (stop.kind == StopKind::Exited && stop.code != 0)
      return errno_error(stop.code, "install the filter in a child");
    if (stop.is_end()) break;
    if (stop.kind == StopKind::Seccomp) {
      ASSIGN_OR_RETURN(const auto info, ptrace_raw::call_info(child.pid()));
      ASSIGN_OR_RETURN(const auto tag, ptrace_raw::event_message(child.pid()));
      if (info.nr == SYS_fsync && tag == kTagNative) ++traced;
    }
    if (stop.kind == StopKind::GroupStop) ::kill(child.pid(), SIGCONT);
    RETURN_IF_ERROR(ptrace_raw::cont(child.pid()));
  }
  if (traced != 1) return plain_error(fmt::format("a traced call stopped {} times instead of once", traced));
  return fmt::format("{} instructions; a traced call stopped, io_uring_setup said ENOSYS",
                     program.size());
}

Result<std::string> try_suspend_seccomp() {
  const ProbeChild child(sleep_on);
  RETURN_IF_ERROR(ptrace_raw::seize(child.pid(), 0));
  RETURN_IF_ERROR(ptrace_raw::interrupt(child.pid()));
  ASSIGN_OR_RETURN([[maybe_unused]] const auto stop, next_stop(child));
  if (auto status = ptrace_raw::set_options(child.pid(), kSuspendSeccomp); !status)
    return status.error().with("PTRACE_O_SUSPEND_SECCOMP");
  return std::string("a child's filter can be suspended for a dump");
}

Result<std::string> try_memory() {
  static volatile long word = 4711;
  const ProbeChild child(sleep_on);
  long seen = 0;
  iovec local{&seen, sizeof seen}, remote{const_cast<long*>(&word), sizeof word};
  if (::process_vm_readv(child.pid(), &local, 1, &remote, 1, 0) != sizeof seen || seen != 4711)
    return errno_error("process_vm_readv");
  seen = 42;
  if (::process_vm_writev(child.pid(), &local, 1, &remote, 1, 0) != sizeof seen)
    return errno_error("process_vm_writev");
  return std::string("a child's memory was read and written");
}

Result<std::string> try_kcmp() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_error("pipe");
  const UniqueFd a(ends[0]), b(ends[1]);
  const ProbeChild child(sleep_on);
  const auto compare = [&](int ours, int theirs) {
    return ::syscall(SYS_kcmp, ::getpid(), child.pid(), KCMP_FILE, ours, theirs);
  };
  const long same = compare(a.get(), a.get());
  if (same < 0) return errno_error("kcmp");
  if (same != 0 || compare(a.get(), b.get()) == 0) return plain_error("kcmp compares wrongly");
  return std::string("shared open files are told from separate ones");
}

Result<std::string> try_pidfd_getfd() {
  int ends[2];
  if (::pipe2(ends, 0) != 0) return errno_error("pipe");
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const ProbeChild child(sleep_on);
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child.pid(), 0)));
  if (!pidfd) return errno_error("pidfd_open");
  const UniqueFd got(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), write_end.get(), 0)));
  if (!got) return errno_error("pidfd_getfd");
  char byte = 'x';
  if (::write(got.get(), &byte, 1) != 1 || ::read(read_end.get(), &byte, 1) != 1)
    return errno_error("use of the descriptor");
  return std::string("a child's descriptor was taken and used");
}

// Microseconds that a stop takes from the tracee's call to its going on, with both on one processor or wherever they run.
Result<double> time_stops(bool one_processor) {
  constexpr int kWarm = 50, kStops = 400;
  cpu_set_t all, one;
  CPU_ZERO(&all);
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(std::max(0, ::sched_getcpu())), &one);
  if (::sched_getaffinity(0, sizeof all, &all) != 0) return errno_error("sched_getaffinity");
  if (one_processor && ::sched_setaffinity(0, sizeof one, &one) != 0) return errno_error("sched_setaffinity");
  ASSIGN_OR_RETURN(auto program, filter_build(filter_plan({})));
  const sock_fprog fprog{static_cast<unsigned short>(program.size()), program.data()};
  const ProbeChild child([&] {
    ::raise(SIGSTOP);
    if (const int err = filter_install(&fprog); err != 0) return err;
    for (int i = 0; i < kWarm + kStops; ++i) ::syscall(SYS_fsync, -1);
    return 0;
  });
  RETURN_IF_ERROR(ptrace_raw::seize(child.pid(), ptrace_raw::kOptions | ptrace_raw::kExitKill));
  auto began = Clock::now();
  for (int seen = 0; seen < kWarm + kStops;) {
    ASSIGN_OR_RETURN(const auto stop, next_stop(child));
    if (stop.is_end()) return plain_error("the child ended before its last call");
    if (stop.kind == StopKind::Seccomp && ++seen == kWarm) began = Clock::now();
    if (stop.kind == StopKind::GroupStop) ::kill(child.pid(), SIGCONT);
    RETURN_IF_ERROR(ptrace_raw::cont(child.pid()));
  }
  if (one_processor) ::sched_setaffinity(0, sizeof all, &all);
  return ms_between(began, Clock::now()) * 1000 / kStops;
}

Result<std::string> try_stop_cost() {
  constexpr double kSlow = 25;
  ASSIGN_OR_RETURN(const double anywhere, time_stops(false));
  ASSIGN_OR_RETURN(const double together, time_stops(true));
  if (anywhere < kSlow || anywhere < 2 * together) return fmt::format("one takes {:.1f} us", anywhere);
  return plain_error(fmt::format("one takes {:.1f} us, and {:.1f} where no idle processor has to be woken", anywhere, together));
}

// A child of ours has the low addresses free; a call from the stub's place passes the filter there.
Result<std::string> try_stub() {
  ASSIGN_OR_RETURN([[maybe_unused]] const auto stub, stub::Stub::create());
  ASSIGN_OR_RETURN(auto program, filter_build(filter_plan({.stub = true})));
  const sock_fprog fprog{static_cast<unsigned short>(program.size()), program.data()};
  ProbeChild child([&] {
    const auto at = reinterpret_cast<void*>(stub::kLastWindow * stub::kWindow + stub::kCode);
    auto* code = static_cast<unsigned char*>(::mmap(at, stub::kCodeSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    if (code != at) return errno ? errno : ENOMEM;
    static constexpr unsigned char kFsync[] = {0xb8, SYS_fsync, 0, 0, 0, 0xbf, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x05, 0xc3};
    memcpy(code, kFsync, sizeof kFsync);
    if (const int err = filter_install(&fprog); err != 0) return err;
    // Without a tracer a traced call says ENOSYS.
    const long passed = reinterpret_cast<long (*)()>(code)();
    return passed == -EBADF ? 0 : passed < 0 ? static_cast<int>(-passed) : EPROTO;
  });
  RETURN_IF_ERROR(child.finish("a call from the stub's place"));
  return std::string("a call from the stub's place passed the filter");
}

}  // namespace

void probe_tracing(const ProbeSink& sink) {
  const auto ptrace = ptrace_remedy();
  sink(run_probe("ptrace.seize", Need::Supervise, ptrace, kLimit, try_seize));
  sink(run_probe("seccomp.filter", Need::Supervise,
                 "the kernel needs CONFIG_SECCOMP_FILTER, and a container must not forbid seccomp(2) "
                 "or ptrace(2): --security-opt seccomp=unconfined",
                 kLimit, try_filter));
  sink(run_probe("calls.in_process", Need::Extra,
                 "every call stops then: it needs Linux 5.9 and a processor with FSGSBASE", kLimit, try_stub));
  sink(run_probe("calls.stop", Need::Extra,
                 "signals, new processes and calls that are not made in process take that much longer; let idle processors poll "
                 "before they sleep (KVM guest: echo 200000 >/sys/module/haltpoll/parameters/guest_halt_poll_ns; else a "
                 "low-latency profile: cpupower idle-set -D 10)",
                 kLimit, try_stop_cost));
  sink(run_probe("ptrace.suspend_seccomp", Need::Handover,
                 "grant CAP_SYS_ADMIN and start supervise itself without a seccomp filter (container: "
                 "--cap-add SYS_ADMIN --security-opt seccomp=unconfined)",
                 kLimit, try_suspend_seccomp));
  sink(run_probe("memory.process_vm", Need::Supervise, ptrace, kLimit, try_memory));
  sink(run_probe("descriptors.kcmp", Need::Paths,
                 "the kernel needs CONFIG_KCMP, and a container's seccomp profile must allow kcmp(2): "
                 "--security-opt seccomp=unconfined or --cap-add SYS_PTRACE",
                 kLimit, try_kcmp));
  sink(run_probe("descriptors.pidfd_getfd", Need::Paths,
                 "grant CAP_SYS_PTRACE; a container's seccomp profile must allow pidfd_getfd(2)",
                 kLimit, try_pidfd_getfd));
}

}  // namespace supervise
