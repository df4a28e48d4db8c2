#include "seccomp/syscall_table.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>

namespace supervise {
namespace {

using A = ArgKind;
using C = IoClass;

constexpr Trap kTrap = Trap::Always;
constexpr Trap kDemand = Trap::OnDemand;

constexpr std::uint64_t k32 = 0xffffffff;

constexpr ArgMatch kFileMapping[] = {{3, MAP_ANONYMOUS, 0}};
constexpr ArgMatch kFcntlCommands[] = {
    {1, k32, F_DUPFD},     {1, k32, F_SETFL},       {1, k32, F_GETLK},
    {1, k32, F_SETLK},     {1, k32, F_SETLKW},      {1, k32, F_OFD_GETLK},
    {1, k32, F_OFD_SETLK}, {1, k32, F_OFD_SETLKW},  {1, k32, F_DUPFD_CLOEXEC},
};
constexpr ArgMatch kUnshareFiles[] = {{0, CLONE_FILES, CLONE_FILES}};
constexpr ArgMatch kOwnFilter[] = {{0, k32, PR_SET_SECCOMP}};
// FS_IOC_RESVSP and its relatives (vfs_ioctl) do what fallocate does; no public header has them all.
constexpr ArgMatch kFileIoctls[] = {
    {1, k32, FICLONE},         {1, k32, FICLONERANGE},   {1, k32, FIDEDUPERANGE},
    {1, k32, FS_IOC_SETFLAGS}, {1, k32, FS_IOC_FSSETXATTR},
    {1, k32, 0x40305828},  // FS_IOC_RESVSP
    {1, k32, 0x40305829},  // FS_IOC_UNRESVSP
    {1, k32, 0x4030582a},  // FS_IOC_RESVSP64
    {1, k32, 0x4030582b},  // FS_IOC_UNRESVSP64
    {1, k32, 0x40305839},  // FS_IOC_ZERO_RANGE
};

// Columns: number, name, arguments, class, trap, exit stop, idempotent, note, condition.
constexpr SyscallRow kTable[] = {
    {0, "read", {A::Fd, A::OutBuf, A::Len}, C::Read, kTrap, true, true, ""},
    {1, "write", {A::Fd, A::InBuf, A::Len}, C::Write, kTrap, true, false,
     "an O_APPEND write that failed half way is finished, not repeated"},
    {2, "open", {A::Path, A::Flags, A::Mode}, C::Open, kTrap, true, false,
     "O_CREAT|O_EXCL is not run twice when the name was made"},
    {3, "close", {A::Fd}, C::Close, kTrap, true, false,
     "the descriptor is gone whatever the result; the data is replayed from the journal"},
    {4, "stat", {A::Path, A::Struct}, C::Stat, kTrap, true, true, ""},
    {5, "fstat", {A::Fd, A::Struct}, C::Stat, kTrap, true, true, ""},
    {6, "lstat", {A::Path, A::Struct}, C::Stat, kTrap, true, true, ""},
    {8, "lseek", {A::Fd, A::Offset, A::Int}, C::Seek, kTrap, true, true,
     "SEEK_DATA and SEEK_HOLE read the device; SEEK_CUR moves only on success"},
    {9, "mmap", {A::Addr, A::Len, A::Int, A::Flags, A::Fd, A::Offset}, C::Map, kTrap, true, true,
     "only mappings of files; anonymous memory runs untouched", kFileMapping},
    {10, "mprotect", {A::Addr, A::Len, A::Int}, C::Map, kDemand, false, true,
     "mappings are read from /proc/PID/maps when they matter"},
    {11, "munmap", {A::Addr, A::Len}, C::Map, kDemand, false, true,
     "mappings are read from /proc/PID/maps when they matter"},
    {16, "ioctl", {A::Fd, A::Int, A::Struct}, C::Copy, kTrap, true, true,
     "only those that clone, reserve or punch file content or set file flags", kFileIoctls},
    {17, "pread64", {A::Fd, A::OutBuf, A::Len, A::Offset}, C::Read, kTrap, true, true, ""},
    {18, "pwrite64", {A::Fd, A::InBuf, A::Len, A::Offset}, C::Write, kTrap, true, true, ""},
    {19, "readv", {A::Fd, A::OutIovec, A::IovCount}, C::Read, kTrap, true, true, ""},
    {20, "writev", {A::Fd, A::InIovec, A::IovCount}, C::Write, kTrap, true, false, ""},
    {21, "access", {A::Path, A::Mode}, C::Stat, kTrap, true, true, ""},
    {25, "mremap", {A::Addr, A::Len, A::Len, A::Flags, A::Addr}, C::Map, kDemand, false, false,
     "mappings are read from /proc/PID/maps when they matter"},
    {26, "msync", {A::Addr, A::Len, A::Flags}, C::Sync, kTrap, true, true,
     "the second msync after a failed one says 0 and proves nothing: pages are saved first"},
    {29, "shmget", {A::Int, A::Len, A::Flags}, C::Ipc, kDemand, false, true, ""},
    {30, "shmat", {A::Int, A::Addr, A::Flags}, C::Ipc, kDemand, false, false, ""},
    {31, "shmctl", {A::Int, A::Int, A::Struct}, C::Ipc, kDemand, false, true, ""},
    {32, "dup", {A::Fd}, C::Descriptor, kTrap, true, false, ""},
    {33, "dup2", {A::Fd, A::Fd}, C::Descriptor, kTrap, true, true, "closes what was there"},
    {40, "sendfile", {A::Fd, A::Fd, A::OffsetPtr, A::Len}, C::Copy, kTrap, true, false,
     "target first, source second; either may fail"},
    {41, "socket", {A::Int, A::Int, A::Int}, C::Socket, kDemand, false, true, ""},
    {42, "connect", {A::Fd, A::Struct, A::Len}, C::Socket, kDemand, false, false, ""},
    {43, "accept", {A::Fd, A::Struct, A::Struct}, C::Socket, kDemand, false, false, ""},
    {44, "sendto", {A::Fd, A::InBuf, A::Len, A::Flags, A::Struct, A::Len}, C::Socket, kDemand, false,
     false, ""},
    {45, "recvfrom", {A::Fd, A::OutBuf, A::Len, A::Flags, A::Struct, A::Struct}, C::Socket, kDemand,
     false, false, ""},
    {46, "sendmsg", {A::Fd, A::Struct, A::Flags}, C::Socket, kDemand, false, false, ""},
    {47, "recvmsg", {A::Fd, A::Struct, A::Flags}, C::Socket, kDemand, false, false, ""},
    {48, "shutdown", {A::Fd, A::Int}, C::Socket, kDemand, false, true, ""},
    {49, "bind", {A::Fd, A::Struct, A::Len}, C::Socket, kDemand, false, false, ""},
    {50, "listen", {A::Fd, A::Int}, C::Socket, kDemand, false, true, ""},
    {53, "socketpair", {A::Int, A::Int, A::Int, A::Struct}, C::Socket, kDemand, false, true, ""},
    {56, "clone", {A::Flags, A::Addr, A::Struct, A::Struct, A::Addr}, C::Process, kDemand, false,
     false, "ptrace tells of new threads and processes"},
    {57, "fork", {}, C::Process, kDemand, false, false, "ptrace tells of new processes"},
    {58, "vfork", {}, C::Process, kDemand, false, false, "ptrace tells of new processes"},
    {59, "execve", {A::Path, A::Struct, A::Struct}, C::Process, kDemand, true, false,
     "ptrace tells of a new program"},
    {63, "uname", {A::Struct}, C::None, kDemand, false, true, "the host's name, for the portability report"},
    {64, "semget", {A::Int, A::Int, A::Flags}, C::Ipc, kDemand, false, true, ""},
    {65, "semop", {A::Int, A::Struct, A::Len}, C::Ipc, kDemand, false, false, ""},
    {66, "semctl", {A::Int, A::Int, A::Int, A::Struct}, C::Ipc, kDemand, false, true, ""},
    {67, "shmdt", {A::Addr}, C::Ipc, kDemand, false, false, ""},
    {68, "msgget", {A::Int, A::Flags}, C::Ipc, kDemand, false, true, ""},
    {69, "msgsnd", {A::Int, A::Struct, A::Len, A::Flags}, C::Ipc, kDemand, false, false, ""},
    {70, "msgrcv", {A::Int, A::Struct, A::Len, A::Int, A::Flags}, C::Ipc, kDemand, false, false, ""},
    {71, "msgctl", {A::Int, A::Int, A::Struct}, C::Ipc, kDemand, false, true, ""},
    {72, "fcntl", {A::Fd, A::Int, A::Struct}, C::Lock, kTrap, true, true,
     "only locks, F_SETFL and the F_DUPFD forms", kFcntlCommands},
    {73, "flock", {A::Fd, A::Int}, C::Lock, kTrap, true, true, ""},
    {74, "fsync", {A::Fd}, C::Sync, kTrap, true, true,
     "the second fsync after a failed one says 0 and proves nothing: the journal is replayed first"},
    {75, "fdatasync", {A::Fd}, C::Sync, kTrap, true, true, "as fsync"},
    {76, "truncate", {A::Path, A::Offset}, C::Resize, kTrap, true, true, ""},
    {77, "ftruncate", {A::Fd, A::Offset}, C::Resize, kTrap, true, true, ""},
    {78, "getdents", {A::Fd, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {80, "chdir", {A::Path}, C::Stat, kTrap, true, true, ""},
    {81, "fchdir", {A::Fd}, C::Stat, kTrap, true, true, ""},
    {82, "rename", {A::Path, A::Path}, C::Names, kTrap, true, false, ""},
    {83, "mkdir", {A::Path, A::Mode}, C::Names, kTrap, true, false, ""},
    {84, "rmdir", {A::Path}, C::Names, kTrap, true, false, ""},
    {85, "creat", {A::Path, A::Mode}, C::Open, kTrap, true, true, ""},
    {86, "link", {A::Path, A::Path}, C::Names, kTrap, true, false, ""},
    {87, "unlink", {A::Path}, C::Names, kTrap, true, false, ""},
    {88, "symlink", {A::Struct, A::Path}, C::Names, kTrap, true, false,
     "the first argument is the link's text, not a path that is looked up"},
    {89, "readlink", {A::Path, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {90, "chmod", {A::Path, A::Mode}, C::Attributes, kTrap, true, true, ""},
    {91, "fchmod", {A::Fd, A::Mode}, C::Attributes, kTrap, true, true, ""},
    {92, "chown", {A::Path, A::Int, A::Int}, C::Attributes, kTrap, true, true, ""},
    {93, "fchown", {A::Fd, A::Int, A::Int}, C::Attributes, kTrap, true, true, ""},
    {94, "lchown", {A::Path, A::Int, A::Int}, C::Attributes, kTrap, true, true, ""},
    {132, "utime", {A::Path, A::Struct}, C::Attributes, kTrap, true, true, ""},
    {133, "mknod", {A::Path, A::Mode, A::Int}, C::Names, kTrap, true, false, ""},
    {137, "statfs", {A::Path, A::Struct}, C::Stat, kTrap, true, true, ""},
    {138, "fstatfs", {A::Fd, A::Struct}, C::Stat, kTrap, true, true, ""},
    {157, "prctl", {A::Int, A::Int, A::Struct}, C::Process, kTrap, false, true,
     "only PR_SET_SECCOMP: under a filter of its own a process makes no calls in process", kOwnFilter},
    {161, "chroot", {A::Path}, C::Stat, kTrap, true, true, ""},
    {162, "sync", {}, C::Sync, kTrap, true, true, "has no result: its files are proven by fsync"},
    {187, "readahead", {A::Fd, A::Offset, A::Len}, C::Read, kTrap, true, true, "moves no bytes"},
    {188, "setxattr", {A::Path, A::Struct, A::InBuf, A::Len, A::Flags}, C::Attributes, kTrap, true,
     true, ""},
    {189, "lsetxattr", {A::Path, A::Struct, A::InBuf, A::Len, A::Flags}, C::Attributes, kTrap, true,
     true, ""},
    {190, "fsetxattr", {A::Fd, A::Struct, A::InBuf, A::Len, A::Flags}, C::Attributes, kTrap, true,
     true, ""},
    {191, "getxattr", {A::Path, A::Struct, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {192, "lgetxattr", {A::Path, A::Struct, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {193, "fgetxattr", {A::Fd, A::Struct, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {194, "listxattr", {A::Path, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {195, "llistxattr", {A::Path, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {196, "flistxattr", {A::Fd, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {197, "removexattr", {A::Path, A::Struct}, C::Attributes, kTrap, true, false, ""},
    {198, "lremovexattr", {A::Path, A::Struct}, C::Attributes, kTrap, true, false, ""},
    {199, "fremovexattr", {A::Fd, A::Struct}, C::Attributes, kTrap, true, false, ""},
    {206, "io_setup", {A::Int, A::Struct}, C::Aio, kTrap, true, false, ""},
    {207, "io_destroy", {A::Addr}, C::Aio, kTrap, true, false, ""},
    {208, "io_getevents", {A::Addr, A::Int, A::Int, A::Struct, A::Struct}, C::Aio, kTrap, true, false,
     "errors stand in the events, not in the result"},
    {209, "io_submit", {A::Addr, A::Int, A::Struct}, C::Aio, kTrap, true, false,
     "accepted is not done: the result comes with io_getevents"},
    {210, "io_cancel", {A::Addr, A::Struct, A::Struct}, C::Aio, kTrap, true, false, ""},
    {217, "getdents64", {A::Fd, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {220, "semtimedop", {A::Int, A::Struct, A::Len, A::Struct}, C::Ipc, kDemand, false, false, ""},
    {235, "utimes", {A::Path, A::Struct}, C::Attributes, kTrap, true, true, ""},
    {240, "mq_open", {A::Struct, A::Flags, A::Mode, A::Struct}, C::Ipc, kDemand, false, false, ""},
    {241, "mq_unlink", {A::Struct}, C::Ipc, kDemand, false, false, ""},
    {242, "mq_timedsend", {A::Fd, A::InBuf, A::Len, A::Int, A::Struct}, C::Ipc, kDemand, false, false,
     ""},
    {243, "mq_timedreceive", {A::Fd, A::OutBuf, A::Len, A::Struct, A::Struct}, C::Ipc, kDemand, false,
     false, ""},
    {244, "mq_notify", {A::Fd, A::Struct}, C::Ipc, kDemand, false, false, ""},
    {245, "mq_getsetattr", {A::Fd, A::Struct, A::Struct}, C::Ipc, kDemand, false, true, ""},
    {254, "inotify_add_watch", {A::Fd, A::Path, A::Flags}, C::Stat, kTrap, true, true,
     "the first descriptor is the inotify instance"},
    {257, "openat", {A::DirFd, A::Path, A::Flags, A::Mode}, C::Open, kTrap, true, false,
     "O_CREAT|O_EXCL is not run twice when the name was made"},
    {258, "mkdirat", {A::DirFd, A::Path, A::Mode}, C::Names, kTrap, true, false, ""},
    {259, "mknodat", {A::DirFd, A::Path, A::Mode, A::Int}, C::Names, kTrap, true, false, ""},
    {260, "fchownat", {A::DirFd, A::Path, A::Int, A::Int, A::Flags}, C::Attributes, kTrap, true, true,
     ""},
    {261, "futimesat", {A::DirFd, A::Path, A::Struct}, C::Attributes, kTrap, true, true, ""},
    {262, "newfstatat", {A::DirFd, A::Path, A::Struct, A::Flags}, C::Stat, kTrap, true, true, ""},
    {263, "unlinkat", {A::DirFd, A::Path, A::Flags}, C::Names, kTrap, true, false, ""},
    {264, "renameat", {A::DirFd, A::Path, A::DirFd, A::Path}, C::Names, kTrap, true, false, ""},
    {265, "linkat", {A::DirFd, A::Path, A::DirFd, A::Path, A::Flags}, C::Names, kTrap, true, false, ""},
    {266, "symlinkat", {A::Struct, A::DirFd, A::Path}, C::Names, kTrap, true, false,
     "the first argument is the link's text, not a path that is looked up"},
    {267, "readlinkat", {A::DirFd, A::Path, A::OutBuf, A::Len}, C::Stat, kTrap, true, true, ""},
    {268, "fchmodat", {A::DirFd, A::Path, A::Mode}, C::Attributes, kTrap, true, true, ""},
    {269, "faccessat", {A::DirFd, A::Path, A::Mode}, C::Stat, kTrap, true, true, ""},
    {272, "unshare", {A::Flags}, C::Process, kTrap, false, true,
     "only CLONE_FILES: a thread with descriptors of its own makes no calls in process", kUnshareFiles},
    {275, "splice", {A::Fd, A::OffsetPtr, A::Fd, A::OffsetPtr, A::Len, A::Flags}, C::Copy, kTrap, true,
     false, "source first, target second"},
    {276, "tee", {A::Fd, A::Fd, A::Len, A::Flags}, C::Copy, kDemand, false, false,
     "both ends are pipes"},
    {277, "sync_file_range", {A::Fd, A::Offset, A::Offset, A::Flags}, C::Sync, kTrap, true, true,
     "can eat the error that a later fsync should have told"},
    {278, "vmsplice", {A::Fd, A::InIovec, A::IovCount, A::Flags}, C::Copy, kDemand, false, false,
     "the target is a pipe"},
    {280, "utimensat", {A::DirFd, A::Path, A::Struct, A::Flags}, C::Attributes, kTrap, true, true,
     "without a path the descriptor itself is meant"},
    {285, "fallocate", {A::Fd, A::Flags, A::Offset, A::Len}, C::Resize, kTrap, true, false,
     "FALLOC_FL_COLLAPSE_RANGE and INSERT_RANGE are not run twice"},
    {288, "accept4", {A::Fd, A::Struct, A::Struct, A::Flags}, C::Socket, kDemand, false, false, ""},
    {292, "dup3", {A::Fd, A::Fd, A::Flags}, C::Descriptor, kTrap, true, true,
     "closes what was there"},
    {295, "preadv", {A::Fd, A::OutIovec, A::IovCount, A::Offset}, C::Read, kTrap, true, true, ""},
    {296, "pwritev", {A::Fd, A::InIovec, A::IovCount, A::Offset}, C::Write, kTrap, true, true, ""},
    {299, "recvmmsg", {A::Fd, A::Struct, A::Len, A::Flags, A::Struct}, C::Socket, kDemand, false, false,
     ""},
    {301, "fanotify_mark", {A::Fd, A::Flags, A::Int, A::DirFd, A::Path}, C::Stat, kTrap, true, true,
     ""},
    {303, "name_to_handle_at", {A::DirFd, A::Path, A::Struct, A::Struct, A::Flags}, C::Stat, kTrap,
     true, true, ""},
    {304, "open_by_handle_at", {A::Fd, A::Struct, A::Flags}, C::Open, kTrap, true, true,
     "the handle names an inode of one mount"},
    {306, "syncfs", {A::Fd}, C::Sync, kTrap, true, true, "as fsync, for the whole file system"},
    {307, "sendmmsg", {A::Fd, A::Struct, A::Len, A::Flags}, C::Socket, kDemand, false, false, ""},
    {316, "renameat2", {A::DirFd, A::Path, A::DirFd, A::Path, A::Flags}, C::Names, kTrap, true, false,
     "RENAME_EXCHANGE is not run twice"},
    {317, "seccomp", {A::Int, A::Flags, A::Struct}, C::Process, kTrap, false, true, "as prctl with PR_SET_SECCOMP"},
    {318, "getrandom", {A::OutBuf, A::Len, A::Flags}, C::None, kDemand, false, true,
     "counted for the portability report"},
    {322, "execveat", {A::DirFd, A::Path, A::Struct, A::Struct, A::Flags}, C::Process, kDemand, true,
     false, "ptrace tells of a new program"},
    {323, "userfaultfd", {A::Flags}, C::None, kDemand, false, true,
     "runs; a process that holds one can't be put into an image"},
    {326, "copy_file_range", {A::Fd, A::OffsetPtr, A::Fd, A::OffsetPtr, A::Len, A::Flags}, C::Copy,
     kTrap, true, false, "source first, target second"},
    {327, "preadv2", {A::Fd, A::OutIovec, A::IovCount, A::Offset, A::Offset, A::Flags}, C::Read, kTrap,
     true, true, "offset -1 means the file's own position"},
    {328, "pwritev2", {A::Fd, A::InIovec, A::IovCount, A::Offset, A::Offset, A::Flags}, C::Write,
     kTrap, true, false, "offset -1 means the file's own position; RWF_APPEND and RWF_DSYNC count"},
    {332, "statx", {A::DirFd, A::Path, A::Flags, A::Int, A::Struct}, C::Stat, kTrap, true, true, ""},
    {333, "io_pgetevents", {A::Addr, A::Int, A::Int, A::Struct, A::Struct, A::Struct}, C::Aio, kTrap,
     true, false, "errors stand in the events, not in the result"},
    {425, "io_uring_setup", {A::Int, A::Struct}, C::Refuse, Trap::Errno, false, true,
     "answered with ENOSYS: its I/O could not be seen; programs fall back to other calls"},
    {426, "io_uring_enter", {A::Fd, A::Int, A::Int, A::Flags, A::Struct, A::Len}, C::Refuse,
     Trap::Errno, false, true, "answered with ENOSYS"},
    {427, "io_uring_register", {A::Fd, A::Int, A::Struct, A::Int}, C::Refuse, Trap::Errno, false, true,
     "answered with ENOSYS"},
    {435, "clone3", {A::Struct, A::Len}, C::Process, kDemand, false, false,
     "ptrace tells of new threads and processes"},
    {436, "close_range", {A::Int, A::Int, A::Flags}, C::Descriptor, kTrap, true, true, ""},
    {437, "openat2", {A::DirFd, A::Path, A::Struct, A::Len}, C::Open, kTrap, true, false,
     "flags and mode stand in struct open_how"},
    {438, "pidfd_getfd", {A::Fd, A::Int, A::Flags}, C::Descriptor, kDemand, true, false, ""},
    {439, "faccessat2", {A::DirFd, A::Path, A::Mode, A::Flags}, C::Stat, kTrap, true, true, ""},
    {447, "memfd_secret", {A::Flags}, C::None, kDemand, false, true,
     "runs; a process that holds one can't be put into an image"},
    {451, "cachestat", {A::Fd, A::Struct, A::Struct, A::Flags}, C::Stat, kDemand, false, true,
     "reads no device"},
    {452, "fchmodat2", {A::DirFd, A::Path, A::Mode, A::Flags}, C::Attributes, kTrap, true, true, ""},
    {463, "setxattrat", {A::DirFd, A::Path, A::Flags, A::Struct, A::Struct, A::Len}, C::Attributes,
     kTrap, true, true, "value and flags stand in struct xattr_args"},
    {464, "getxattrat", {A::DirFd, A::Path, A::Flags, A::Struct, A::Struct, A::Len}, C::Stat, kTrap,
     true, true, "the value goes where struct xattr_args says"},
    {465, "listxattrat", {A::DirFd, A::Path, A::Flags, A::OutBuf, A::Len}, C::Stat, kTrap, true, true,
     ""},
    {466, "removexattrat", {A::DirFd, A::Path, A::Flags, A::Struct}, C::Attributes, kTrap, true, false,
     ""},
    {468, "file_getattr", {A::DirFd, A::Path, A::Struct, A::Len, A::Flags}, C::Stat, kTrap, true, true,
     ""},
    {469, "file_setattr", {A::DirFd, A::Path, A::Struct, A::Len, A::Flags}, C::Attributes, kTrap, true,
     true, ""},
};

constexpr bool ascending() {
  int last = -1;
  for (const auto& row : kTable) {
    if (row.number <= last) return false;
    last = row.number;
  }
  return true;
}
static_assert(ascending(), "rows are kept in ascending order of their numbers");

constexpr std::size_t kNumbers = 512;
static_assert(kTable[std::size(kTable) - 1].number < static_cast<int>(kNumbers));

constexpr auto make_index() {
  std::array<std::int16_t, kNumbers> index{};
  index.fill(-1);
  for (std::size_t i = 0; i < std::size(kTable); ++i)
    index[static_cast<std::size_t>(kTable[i].number)] = static_cast<std::int16_t>(i);
  return index;
}
constexpr auto kIndex = make_index();

}  // namespace

std::span<const SyscallRow> syscall_table() { return kTable; }

const SyscallRow* find_syscall(int number) {
  if (number < 0 || static_cast<std::size_t>(number) >= kNumbers) return nullptr;
  const int i = kIndex[static_cast<std::size_t>(number)];
  return i < 0 ? nullptr : &kTable[i];
}

const SyscallRow* find_syscall(std::string_view name) {
  for (const auto& row : kTable)
    if (row.name == name) return &row;
  return nullptr;
}

int arg_index(const SyscallRow& row, ArgKind kind) {
  for (std::size_t i = 0; i < row.args.size(); ++i)
    if (row.args[i] == kind) return static_cast<int>(i);
  return -1;
}

}  // namespace supervise
