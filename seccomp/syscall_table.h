// THE table: one row a system call of x86-64 that the supervisor looks at. Filter, decoder,
// dispatch, `supervise list-syscalls` and the manual derive from it. Calls without a row run
// untouched at full speed.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace supervise {

// What an argument is, as far as the supervisor must understand it.
enum class ArgKind : std::uint8_t {
  None,
  Int,        // plain number
  Fd,
  DirFd,      // belongs to the Path argument that follows it; AT_FDCWD possible
  Path,       // NUL-terminated string
  OutBuf,     // filled by the kernel; its length is the next Len
  InBuf,      // read by the kernel
  Len,
  OutIovec, InIovec, IovCount,
  Offset,     // explicit file offset (pread, pwrite...)
  OffsetPtr,  // loff_t*, may be null (sendfile, splice, copy_file_range)
  Flags,
  Mode,
  Struct,     // pointer to something else
  Addr,       // memory address (mmap, msync...)
};

// What kind of I/O the call does: recovery and the journal are written against it.
enum class IoClass : std::uint8_t {
  None,
  Open,        // returns a descriptor for a path
  Read,        // moves bytes from a file
  Write,       // moves bytes into a file
  Copy,        // from a descriptor to a descriptor (sendfile, splice, copy_file_range, tee)
  Sync,        // makes data durable
  Resize,      // ftruncate, truncate, fallocate
  Seek,
  Close,
  Lock,        // flock, fcntl
  Stat,        // metadata by path or descriptor, getdents, statfs, readlink, access, xattr reads
  Names,       // changes names: rename, unlink, mkdir, link, symlink, mknod...
  Attributes,  // chmod, chown, utimens, setxattr...
  Descriptor,  // dup, fcntl F_DUPFD, close_range...
  Map,         // mmap, munmap, mremap, msync, mprotect
  Aio,         // io_setup, io_submit...
  Socket,
  Ipc,         // System V, POSIX mqueue
  Process,     // clone, fork, execve, kill...
  Refuse,      // the supervisor answers: io_uring_setup
};

enum class Trap : std::uint8_t {
  Always,   // RET_TRACE
  OnDemand, // only when an option asks for it (FilterOptions)
  Errno,    // the filter itself answers with ENOSYS
};

// The call is trapped only when (argument & mask) == value; the kernel tests it, so the others run
// at full speed.
struct ArgMatch {
  unsigned arg = 0;
  std::uint64_t mask = 0;
  std::uint64_t value = 0;
};

struct SyscallRow {
  int number;
  std::string_view name;
  std::array<ArgKind, 6> args;
  IoClass io;
  Trap trap;
  bool exit_stop;      // the result matters: an exit stop is asked for (when a storage path may be concerned)
  bool idempotent;     // running it again after an error has the effect of running it once
  std::string_view note;  // for the manual: what is done with it, or why not
  std::span<const ArgMatch> when = {};  // empty: always; otherwise trapped when any of them matches
};

std::span<const SyscallRow> syscall_table();           // by number, ascending
const SyscallRow* find_syscall(int number);            // O(1)
const SyscallRow* find_syscall(std::string_view name);
// Name of any system call (also those without a row), "syscall_462" when unknown.
std::string_view syscall_name(int number);
// Index of the first argument of that kind, -1 when none.
int arg_index(const SyscallRow& row, ArgKind kind);
// Names as `supervise list-syscalls` prints them.
std::string_view to_string(IoClass io);
std::string_view to_string(ArgKind kind);
std::string_view to_string(Trap trap);

}  // namespace supervise
