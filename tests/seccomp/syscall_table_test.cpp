#include "seccomp/syscall_table.h"

#include <gtest/gtest.h>
#include <seccomp.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <string>

namespace supervise {
namespace {

std::string libseccomp_name(int number) {
  char* name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);
  if (name == nullptr) return {};
  std::string text(name);
  std::free(name);
  return text;
}

TEST(SyscallTable, NumbersAndNamesAreTheKernels) {
  for (const auto& row : syscall_table()) {
    const auto name = libseccomp_name(row.number);
    EXPECT_TRUE(name.empty() || row.name == name) << row.number << " is " << name;
  }
  EXPECT_EQ(find_syscall("openat2")->number, SYS_openat2);
  EXPECT_EQ(find_syscall("io_uring_setup")->number, SYS_io_uring_setup);
  EXPECT_EQ(find_syscall("copy_file_range")->number, SYS_copy_file_range);
  EXPECT_EQ(find_syscall("pwritev2")->number, SYS_pwritev2);
}

TEST(SyscallTable, LookupsAgree) {
  for (const auto& row : syscall_table()) {
    EXPECT_EQ(find_syscall(row.number), &row);
    EXPECT_EQ(find_syscall(row.name), &row);
    EXPECT_EQ(syscall_name(row.number), row.name);
  }
  EXPECT_EQ(find_syscall(SYS_futex), nullptr);
  EXPECT_EQ(find_syscall(-1), nullptr);
  EXPECT_EQ(find_syscall(1 << 30), nullptr);
  EXPECT_EQ(find_syscall("no such call"), nullptr);
}

// The calls whose errors the application must never see.
TEST(SyscallTable, EveryCallOfTheContractIsTrapped) {
  const std::map<IoClass, std::vector<const char*>> promised = {
      {IoClass::Read, {"read", "pread64", "readv", "preadv", "preadv2"}},
      {IoClass::Write, {"write", "pwrite64", "writev", "pwritev", "pwritev2"}},
      {IoClass::Open, {"open", "openat", "openat2", "creat"}},
      {IoClass::Sync, {"fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync"}},
      {IoClass::Resize, {"ftruncate", "truncate", "fallocate"}},
      {IoClass::Seek, {"lseek"}},
      {IoClass::Close, {"close"}},
      {IoClass::Names,
       {"rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "link",
        "linkat", "symlink", "symlinkat", "mknod", "mknodat"}},
      {IoClass::Stat,
       {"stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat",
        "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getxattr", "lgetxattr",
        "fgetxattr", "listxattr", "llistxattr", "flistxattr", "chdir", "fchdir"}},
      {IoClass::Attributes,
       {"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime",
        "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "removexattr",
        "lremovexattr", "fremovexattr"}},
      {IoClass::Copy, {"copy_file_range", "sendfile", "splice"}},
      {IoClass::Aio, {"io_setup", "io_submit", "io_getevents", "io_pgetevents"}},
      {IoClass::Lock, {"flock", "fcntl"}},
      {IoClass::Map, {"mmap"}},
  };
  for (const auto& [io, names] : promised) {
    for (const char* name : names) {
      const auto* row = find_syscall(std::string_view(name));
      ASSERT_NE(row, nullptr) << name;
      EXPECT_EQ(row->io, io) << name;
      EXPECT_EQ(row->trap, Trap::Always) << name;
      EXPECT_TRUE(row->exit_stop) << name;
    }
  }
  for (const char* name : {"io_uring_setup", "io_uring_enter", "io_uring_register"})
    EXPECT_EQ(find_syscall(std::string_view(name))->trap, Trap::Errno) << name;
}

TEST(SyscallTable, HotCallsThatCannotConcernUsHaveNoRow) {
  for (int number : {SYS_futex, SYS_brk, SYS_poll, SYS_epoll_wait, SYS_gettimeofday,
                     SYS_clock_gettime, SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_getpid,
                     SYS_gettid, SYS_sched_yield, SYS_nanosleep, SYS_madvise, SYS_select})
    EXPECT_EQ(find_syscall(number), nullptr) << syscall_name(number);
}

TEST(SyscallTable, ArgumentsArePlausible) {
  for (const auto& row : syscall_table()) {
    bool ended = false;
    for (std::size_t i = 0; i < row.args.size(); ++i) {
      if (row.args[i] == ArgKind::None) ended = true;
      EXPECT_FALSE(ended && row.args[i] != ArgKind::None) << row.name << ": hole in the arguments";
      if (row.args[i] == ArgKind::DirFd) {
        ASSERT_LT(i + 1, row.args.size());
        EXPECT_EQ(row.args[i + 1], ArgKind::Path) << row.name;
      }
    }
    if (row.io == IoClass::Read || row.io == IoClass::Write) {
      EXPECT_EQ(arg_index(row, ArgKind::Fd), 0) << row.name;
    }
    if (row.io == IoClass::Names) {
      EXPECT_GE(arg_index(row, ArgKind::Path), 0) << row.name;
    }
    for (const auto& match : row.when) {
      EXPECT_LT(match.arg, 6u) << row.name;
      EXPECT_EQ(match.value & ~match.mask, 0u) << row.name << ": can never match";
    }
  }
  EXPECT_EQ(arg_index(*find_syscall("mmap"), ArgKind::Fd), 4);
  EXPECT_EQ(arg_index(*find_syscall("symlinkat"), ArgKind::Path), 2);
  EXPECT_EQ(arg_index(*find_syscall("fsync"), ArgKind::Path), -1);
}

TEST(SyscallTable, NamesOfCallsWithoutRow) {
  EXPECT_EQ(syscall_name(SYS_futex), "futex");
  EXPECT_EQ(syscall_name(462), "mseal");
  EXPECT_EQ(syscall_name(5000), "syscall_5000");
  EXPECT_EQ(syscall_name(-7), "syscall_-7");
  for (int i = 10000; i < 20000; ++i) EXPECT_FALSE(syscall_name(i).empty());
  EXPECT_EQ(syscall_name(19999), "syscall_unknown");
  EXPECT_EQ(syscall_name(SYS_futex), "futex");
}

}  // namespace
}  // namespace supervise
