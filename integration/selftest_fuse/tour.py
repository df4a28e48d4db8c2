"""Uses a directory in every way that the fault file system supports and prints what it saw; the same
tour of an ordinary directory must print the same."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
root = sys.argv[1]
os.chdir(root)
os.umask(0o022)


def show(what, call):
    try:
        print(what, call())
    except OSError as error:
        print(what, errno.errorcode[error.errno])


def files():
    fd = os.open("a", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    show("exclusive again", lambda: os.open("a", os.O_CREAT | os.O_EXCL))
    show("write", lambda: os.write(fd, b"0123456789" * 1000))
    show("pwrite", lambda: os.pwrite(fd, b"xyz", 5000))
    show("pread", lambda: os.pread(fd, 10, 4998))
    show("preadv", lambda: os.preadv(fd, [bytearray(3), bytearray(4)], 9995))
    show("size", lambda: os.fstat(fd).st_size)
    show("mode", lambda: oct(os.fstat(fd).st_mode))
    show("ftruncate", lambda: os.ftruncate(fd, 8000))
    show("size", lambda: os.fstat(fd).st_size)
    show("fallocate", lambda: os.posix_fallocate(fd, 0, 20000))
    show("size", lambda: os.fstat(fd).st_size)
    show("punch", lambda: libc.fallocate(fd, 3, ctypes.c_long(4096), ctypes.c_long(4096)))
    show("hole reads", lambda: os.pread(fd, 4, 5000))
    show("fsync", lambda: os.fsync(fd))
    show("fdatasync", lambda: os.fdatasync(fd))
    os.close(fd)
    fd = os.open("sparse", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"d", 512 << 10)
    os.fsync(fd)
    show("data", lambda: os.lseek(fd, 0, os.SEEK_DATA))
    show("hole", lambda: os.lseek(fd, 512 << 10, os.SEEK_HOLE))
    target = os.open("copy", os.O_RDWR | os.O_CREAT)
    show("copy_file_range", lambda: os.copy_file_range(fd, target, 4096, 512 << 10, 0))
    show("copied", lambda: os.pread(target, 2, 0))
    show("sendfile", lambda: os.sendfile(target, fd, 512 << 10, 100))
    os.close(fd)
    os.close(target)
    show("truncate by name", lambda: os.truncate("copy", 10))
    show("open truncates", lambda: os.close(os.open("copy", os.O_WRONLY | os.O_TRUNC)))
    show("size", lambda: os.stat("copy").st_size)


def appending():
    one, two = (os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for _ in range(2))
    for fd, text in ((one, b"a\n"), (two, b"b\n"), (one, b"c\n")):
        os.write(fd, text)
    show("append order", lambda: open("log").read())
    fcntl.fcntl(one, fcntl.F_SETFL, fcntl.fcntl(one, fcntl.F_GETFL) & ~os.O_APPEND)
    os.pwrite(one, b"X", 0)
    show("append off", lambda: open("log").read())
    os.close(one)
    os.close(two)


def names():
    os.makedirs("d/e")
    show("rmdir full", lambda: os.rmdir("d"))
    show("rename", lambda: os.rename("a", "d/e/b"))
    show("gone", lambda: os.stat("a"))
    show("link", lambda: os.link("d/e/b", "hard"))
    show("links", lambda: os.stat("hard").st_nlink)
    show("same inode", lambda: os.stat("hard").st_ino == os.stat("d/e/b").st_ino)
    show("symlink", lambda: os.symlink("d/e/b", "soft"))
    show("readlink", lambda: os.readlink("soft"))
    show("through it", lambda: os.stat("soft").st_size)
    show("lstat", lambda: stat.S_ISLNK(os.lstat("soft").st_mode))
    libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p] * 2 + [ctypes.c_uint]
    show("noreplace", lambda: (libc.renameat2(-100, b"hard", -100, b"log", 1), ctypes.get_errno() == errno.EEXIST))
    show("exchange", lambda: libc.renameat2(-100, b"hard", -100, b"log", 2))
    show("exchanged", lambda: os.stat("log").st_nlink)
    show("mkfifo", lambda: os.mkfifo("fifo"))
    show("fifo", lambda: stat.S_ISFIFO(os.stat("fifo").st_mode))
    for i in range(300):
        os.close(os.open(f"d/file-{i:03}", os.O_CREAT))
    show("listing", lambda: sorted(os.listdir("d")) == sorted(["e"] + [f"file-{i:03}" for i in range(300)]))
    fd = os.open("doomed", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"still here")
    show("unlink open", lambda: os.unlink("doomed"))
    show("read unlinked", lambda: os.pread(fd, 20, 0))
    os.close(fd)
    show("top", lambda: sorted(os.listdir(".")))


def attributes():
    show("chmod", lambda: os.chmod("log", 0o4711))
    show("mode", lambda: oct(os.stat("log").st_mode))
    show("chown", lambda: os.chown("log", 12, 34))
    show("owner", lambda: (os.stat("log").st_uid, os.stat("log").st_gid))
    show("utime", lambda: os.utime("log", ns=(1_000_000_123, 2_000_000_456)))
    show("times", lambda: (os.stat("log").st_atime_ns, os.stat("log").st_mtime_ns))
    show("utime symlink", lambda: os.utime("soft", ns=(7, 9), follow_symlinks=False))
    show("symlink mtime", lambda: os.lstat("soft").st_mtime_ns)
    show("setxattr", lambda: os.setxattr("log", "user.note", b"value"))
    show("getxattr", lambda: os.getxattr("log", "user.note"))
    show("listxattr", lambda: "user.note" in os.listxattr("log"))
    show("removexattr", lambda: os.removexattr("log", "user.note"))
    show("no xattr", lambda: os.getxattr("log", "user.note"))
    show("statvfs", lambda: os.statvfs(".").f_bsize > 0)


def as_another_user():
    sys.stdout.flush()
    os.chmod(".", 0o777)
    child = os.fork()
    if child == 0:
        os.setgid(1234)
        os.setuid(1234)
        show("denied", lambda: os.open("log", os.O_WRONLY))
        os.close(os.open("theirs", os.O_CREAT, 0o600))
        show("owner of a new file", lambda: (os.stat("theirs").st_uid, os.stat("theirs").st_gid))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)


def mappings_and_locks():
    fd = os.open("mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 65536)
    shared = mmap.mmap(fd, 65536)
    shared[40000:40005] = b"hello"
    shared.flush()
    show("seen by pread", lambda: os.pread(fd, 5, 40000))
    os.pwrite(fd, b"world", 100)
    show("seen by the mapping", lambda: shared[100:105])
    private = mmap.mmap(fd, 65536, flags=mmap.MAP_PRIVATE)
    private[0:1] = b"P"
    show("private stays", lambda: os.pread(fd, 1, 0))
    fcntl.lockf(fd, fcntl.LOCK_EX)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        other = os.open("mapped", os.O_RDWR)
        show("posix lock held", lambda: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
        show("flock free", lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(fd)


for part in (files, appending, names, attributes, as_another_user, mappings_and_locks):
    print("#", part.__name__)
    part()
    sys.stdout.flush()
