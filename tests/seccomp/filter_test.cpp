#include "seccomp/filter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <vector>

namespace supervise {
namespace {

bool has(const std::vector<int>& list, long number) {
  return std::find(list.begin(), list.end(), static_cast<int>(number)) != list.end();
}

TEST(FilterPlan, FollowsTheTable) {
  const auto plan = filter_plan({});
  const auto all =
      filter_plan({.sockets_and_ipc = true, .mappings = true, .processes = true});
  for (const auto& row : syscall_table()) {
    EXPECT_EQ(has(plan.traced, row.number), row.trap == Trap::Always) << row.name;
    EXPECT_EQ(has(plan.enosys, row.number), row.trap == Trap::Errno) << row.name;
    EXPECT_EQ(has(all.traced, row.number), row.trap != Trap::Errno) << row.name;
  }
  EXPECT_TRUE(has(filter_plan({.sockets_and_ipc = true}).traced, SYS_connect));
  EXPECT_FALSE(has(filter_plan({.sockets_and_ipc = true}).traced, SYS_munmap));
  EXPECT_TRUE(has(filter_plan({.mappings = true}).traced, SYS_munmap));
  EXPECT_TRUE(has(filter_plan({.processes = true}).traced, SYS_execve));
}

struct Trapped {
  unsigned tag;
  std::uint64_t number;
  std::uint32_t arch;
};

struct Outcome {
  std::vector<Trapped> stops;
  int exit_code = -1;
  int signal = 0;
};

// Runs `body` in a traced child under the filter and lists the RET_TRACE stops after its first
// getppid, which marks where the body begins.
Outcome run_filtered(const FilterOptions& options, const std::function<int()>& body) {
  auto program = filter_build(filter_plan(options));
  EXPECT_TRUE(program.ok()) << program.error().message();
  const sock_fprog fprog{static_cast<unsigned short>(program->size()), program->data()};
  int gate[2];
  EXPECT_EQ(::pipe2(gate, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);
    char byte;
    if (::read(gate[0], &byte, 1) != 1) ::_exit(90);
    if (filter_install(&fprog) != 0) ::_exit(91);
    ::_exit(body());
  }
  EXPECT_EQ(::ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL), 0);
  EXPECT_EQ(::write(gate[1], "x", 1), 1);
  ::close(gate[0]);
  ::close(gate[1]);

  Outcome outcome;
  for (int status; ::waitpid(child, &status, __WALL) == child;) {
    if (WIFEXITED(status)) {
      outcome.exit_code = WEXITSTATUS(status);
      break;
    }
    if (WIFSIGNALED(status)) {
      outcome.signal = WTERMSIG(status);
      break;
    }
    int deliver = 0;
    if (status >> 8 == (SIGTRAP | (PTRACE_EVENT_SECCOMP << 8))) {
      unsigned long tag = 0;
      __ptrace_syscall_info info{};
      ::ptrace(PTRACE_GETEVENTMSG, child, 0, &tag);
      ::ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info);
      outcome.stops.push_back({static_cast<unsigned>(tag), info.seccomp.nr, info.arch});
    } else if (status >> 16 == 0) {
      deliver = WSTOPSIG(status);
    }
    ::ptrace(PTRACE_CONT, child, 0, deliver);
  }
  return outcome;
}

int count(const Outcome& outcome, unsigned tag, std::uint64_t number) {
  return static_cast<int>(std::count_if(
      outcome.stops.begin(), outcome.stops.end(),
      [&](const Trapped& t) { return t.tag == tag && t.number == number; }));
}

constexpr std::uint32_t kArchX86_64 = 0xc000003e;
constexpr std::uint32_t kArchI386 = 0x40000003;

TEST(Filter, TracesListedCallsAndLeavesTheOthersAlone) {
  const auto outcome = run_filtered({}, [] {
    for (int i = 0; i < 3; ++i) ::syscall(SYS_fsync, -1);
    for (int i = 0; i < 5; ++i) ::syscall(SYS_getppid);
    ::syscall(SYS_connect, -1, nullptr, 0);
    return ::syscall(SYS_lseek, -1, 0, 0) == -1 && errno == EBADF ? 7 : 8;
  });
  EXPECT_EQ(outcome.exit_code, 7);
  EXPECT_EQ(count(outcome, kTagNative, SYS_fsync), 3);
  EXPECT_EQ(count(outcome, kTagNative, SYS_lseek), 1);
  EXPECT_EQ(count(outcome, kTagNative, SYS_getppid), 0);
  EXPECT_EQ(count(outcome, kTagNative, SYS_connect), 0);
  for (const auto& stop : outcome.stops) EXPECT_EQ(stop.arch, kArchX86_64);
}

TEST(Filter, EveryTracedNumberReallyStops) {
  // On fresh numbers only: a call with bad arguments must do no harm to the child.
  const std::vector<long> calls = {
      SYS_read,        SYS_write,     SYS_openat2,   SYS_pwritev2,  SYS_preadv2, SYS_copy_file_range,
      SYS_sendfile,    SYS_splice,    SYS_fallocate, SYS_msync,     SYS_statx,   SYS_getdents64,
      SYS_close_range, SYS_renameat2, SYS_utimensat, SYS_fchmodat,  SYS_flock,   SYS_io_submit,
      SYS_dup,         SYS_syncfs,    SYS_fsetxattr, SYS_faccessat2};
  const auto outcome = run_filtered({}, [&] {
    for (long number : calls) ::syscall(number, -1, -1, -1, -1, -1, -1);
    return 0;
  });
  EXPECT_EQ(outcome.exit_code, 0);
  for (long number : calls)
    EXPECT_EQ(count(outcome, kTagNative, static_cast<std::uint64_t>(number)), 1)
        << syscall_name(static_cast<int>(number));
}

TEST(Filter, OnDemandCallsStopOnlyWhenAsked) {
  const auto body = [] {
    ::syscall(SYS_connect, -1, nullptr, 0);
    ::syscall(SYS_munmap, 1, 1);
    return 0;
  };
  EXPECT_EQ(count(run_filtered({}, body), kTagNative, SYS_connect), 0);
  const auto sockets = run_filtered({.sockets_and_ipc = true}, body);
  EXPECT_EQ(count(sockets, kTagNative, SYS_connect), 1);
  EXPECT_EQ(count(sockets, kTagNative, SYS_munmap), 0);
  EXPECT_EQ(count(run_filtered({.mappings = true}, body), kTagNative, SYS_munmap), 1);
}

TEST(Filter, IoUringSaysEnosysWithoutAStop) {
  const auto outcome = run_filtered({}, [] {
    char params[256] = {};
    if (::syscall(SYS_io_uring_setup, 8, params) != -1 || errno != ENOSYS) return 1;
    if (::syscall(SYS_io_uring_enter, 0, 0, 0, 0, nullptr, 0) != -1 || errno != ENOSYS) return 2;
    if (::syscall(SYS_io_uring_register, 0, 0, nullptr, 0) != -1 || errno != ENOSYS) return 3;
    return 0;
  });
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(count(outcome, kTagNative, SYS_io_uring_setup), 0);
}

TEST(Filter, MmapStopsOnlyForFiles) {
  const auto outcome = run_filtered({}, [] {
    constexpr unsigned long kJunk = 0xabcd00000000;
    for (int i = 0; i < 4; ++i)
      ::syscall(SYS_mmap, nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ::syscall(SYS_mmap, nullptr, 4096, PROT_READ, MAP_SHARED, -1, 0);
    ::syscall(SYS_mmap, nullptr, 4096, PROT_READ, kJunk | MAP_PRIVATE, -1, 0);
    return 0;
  });
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(count(outcome, kTagNative, SYS_mmap), 2);
}

TEST(Filter, FcntlAndIoctlStopForTheirListedCommands) {
  const auto outcome = run_filtered({}, [] {
    constexpr unsigned long kJunk = 0xabcd00000000;  // the kernel looks at 32 bits of the command
    for (long command : {F_GETFD, F_SETFD, F_GETFL, F_GETPIPE_SZ}) ::syscall(SYS_fcntl, -1, command, 0);
    for (long command : {F_DUPFD, F_SETLK, F_OFD_SETLKW, F_DUPFD_CLOEXEC, F_SETFL})
      ::syscall(SYS_fcntl, -1, command, 0);
    ::syscall(SYS_fcntl, -1, kJunk | F_SETLK, 0);
    ::syscall(SYS_ioctl, -1, 0x5401 /* TCGETS */, 0);
    ::syscall(SYS_ioctl, -1, 0x40049409 /* FICLONE */, 0);
    return 0;
  });
  EXPECT_EQ(count(outcome, kTagNative, SYS_fcntl), 6);
  EXPECT_EQ(count(outcome, kTagNative, SYS_ioctl), 1);
}

TEST(Filter, Int80IsTracedWithItsOwnTag) {
  const auto outcome = run_filtered({}, [] {
    long result = 0;
    // i386 number 3 is read, number 20 is getpid.
    asm volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
    return result == static_cast<long>(::syscall(SYS_getpid)) ? 0 : 1;
  });
  if (outcome.signal == SIGSEGV) GTEST_SKIP() << "this kernel has no 32-bit emulation";
  EXPECT_EQ(outcome.exit_code, 0);
  ASSERT_EQ(count(outcome, kTagForeignArch, 20), 1);
  for (const auto& stop : outcome.stops)
    EXPECT_EQ(stop.arch, stop.tag == kTagForeignArch ? kArchI386 : kArchX86_64);
}

TEST(Filter, X32NumbersAreTracedWithTheForeignTag) {
  constexpr long kX32 = 0x40000000;
  const auto outcome = run_filtered({}, [] {
    ::syscall(kX32 | SYS_write, -1, nullptr, 0);
    ::syscall(kX32 | SYS_getppid);
    return 0;
  });
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(count(outcome, kTagForeignArch, kX32 | SYS_write), 1);
  EXPECT_EQ(count(outcome, kTagForeignArch, kX32 | SYS_getppid), 1);
}

TEST(Filter, PrivilegedCallersKeepSetuidPrograms) {
  const auto outcome = run_filtered({}, [] {
    return ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
  });
  EXPECT_EQ(outcome.exit_code, ::geteuid() == 0 ? 0 : 1);
}

TEST(Filter, WithoutPrivilegesItIsInstalledToo) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to drop it";
  const auto outcome = run_filtered({}, [] { return 0; });
  ASSERT_EQ(outcome.exit_code, 0);
  auto program = filter_build(filter_plan({}));
  ASSERT_TRUE(program.ok());
  const sock_fprog fprog{static_cast<unsigned short>(program->size()), program->data()};
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(50);
    if (filter_install(&fprog) != 0) ::_exit(51);
    if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) ::_exit(52);
    // No tracer: a trapped call says ENOSYS.
    ::_exit(::syscall(SYS_fsync, -1) == -1 && errno == ENOSYS ? 0 : 53);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace supervise
