"""Each call on files and names, once, on a storage path of its own that begins to fail with this call.

    calls.py DIR SOCKET CASE...     DIR/CASE is the path; SOCKET commands the faults, `-` for none
    calls.py --list

What is printed does not depend on where and over which path it ran.
"""

import ctypes
import errno
import os
import socket
import stat
import sys

ERRORS = ["EIO", "ENXIO", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "EHOSTDOWN", "ENOTCONN", "EROFS", "EHOSTUNREACH",
          "ENODEV", "ESHUTDOWN"]
CASES = {}
libc = ctypes.CDLL(None, use_errno=True)
DATA = bytes(range(256)) * 40


def case(ops, subject="f", error=None):
    """`ops` fail for `subject` from the moment when the case calls its fault()."""
    def add(function):
        CASES[function.__name__.strip("_")] = (function, ops, subject, error)
        return function
    return add


def raw(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def made(content=DATA):
    with open("f", "wb") as file:
        file.write(content)
    return os.open("f", os.O_RDWR)


@case("read")
def read(fault):
    f = made()
    os.lseek(f, 100, os.SEEK_SET)
    fault()
    return os.read(f, 500), os.lseek(f, 0, os.SEEK_CUR)


@case("read")
def pread(fault):
    f = made()
    fault()
    return os.pread(f, 500, 1000), os.lseek(f, 0, os.SEEK_CUR)


@case("read")
def readv(fault):
    f, parts = made(), [bytearray(10), bytearray(90)]
    fault()
    return os.readv(f, parts), parts, os.lseek(f, 0, os.SEEK_CUR)


@case("read")
def preadv(fault):
    f, parts = made(), [bytearray(10), bytearray(90)]
    fault()
    return os.preadv(f, parts, 77), parts


@case("write")
def write(fault):
    f = made()
    os.lseek(f, 50, os.SEEK_SET)
    fault()
    return os.write(f, b"written" * 100), os.lseek(f, 0, os.SEEK_CUR)


@case("write")
def pwrite(fault):
    f = made()
    fault()
    return os.pwrite(f, b"written" * 100, 3), os.lseek(f, 0, os.SEEK_CUR)


@case("write")
def writev(fault):
    f = made()
    fault()
    return os.writev(f, [b"abc" * 50, b"defg" * 50]), os.lseek(f, 0, os.SEEK_CUR)


@case("write")
def pwritev(fault):
    f = made()
    fault()
    return os.pwritev(f, [b"abc" * 50, b"defg" * 50], 9000)


@case("write")
def append(fault):
    os.close(made())
    f = os.open("f", os.O_WRONLY | os.O_APPEND)
    fault()
    return os.write(f, b"the end"), os.write(f, b"and more"), os.lseek(f, 0, os.SEEK_CUR)


@case("fsync")
def fsync(fault):
    f = made()
    os.write(f, b"new")
    fault()
    return os.fsync(f)


@case("fsync")
def fdatasync(fault):
    f = made()
    os.write(f, b"new")
    fault()
    return os.fdatasync(f)


@case("fsyncdir", "")
def fsync_directory(fault):
    os.mkdir("d")
    d = os.open(".", os.O_RDONLY)
    fault()
    return os.fsync(d)


@case("truncate")
def ftruncate(fault):
    f = made()
    fault()
    os.ftruncate(f, 1234)
    return os.fstat(f).st_size


@case("truncate")
def truncate(fault):
    os.close(made())
    fault()
    os.truncate("f", 20000)
    return os.stat("f").st_size


@case("fallocate")
def fallocate(fault):
    f = made()
    fault()
    os.posix_fallocate(f, 0, 30000)
    return os.fstat(f).st_size


@case("lseek", error="EIO")
def lseek(fault):
    f = made()
    fault()
    return os.lseek(f, 0, os.SEEK_HOLE)


@case("flush")
def close(fault):
    f = made()
    os.write(f, b"last")
    fault()
    return os.close(f)


@case("rename")
def rename(fault):
    os.close(made())
    fault()
    os.rename("f", "g")
    return sorted(os.listdir("."))


@case("unlink")
def unlink(fault):
    os.close(made())
    fault()
    os.unlink("f")
    return sorted(os.listdir("."))


@case("mkdir")
def mkdir(fault):
    fault()
    os.mkdir("f", 0o750)
    return oct(os.stat("f").st_mode)


@case("rmdir")
def rmdir(fault):
    os.mkdir("f")
    fault()
    os.rmdir("f")
    return sorted(os.listdir("."))


@case("mknod")
def mknod(fault):
    fault()
    os.mkfifo("f", 0o640)
    return oct(os.stat("f").st_mode)


@case("link", "g")
def link(fault):
    os.close(made())
    fault()
    os.link("f", "g")
    return os.stat("f").st_nlink, os.stat("f").st_ino == os.stat("g").st_ino


@case("symlink")
def symlink(fault):
    fault()
    os.symlink("target", "f")
    return os.readlink("f")


@case("readlink")
def readlink(fault):
    os.symlink("target", "f")
    fault()
    return os.readlink("f")


@case("getattr,lookup")
def stat_(fault):
    os.close(made())
    fault()
    return os.stat("f").st_size


@case("getattr")
def fstat(fault):
    f = made()
    fault()
    return os.fstat(f).st_size


@case("lookup")
def access(fault):
    os.close(made())
    fault()
    return os.access("f", os.R_OK), os.access("missing", os.R_OK)


@case("chmod")
def chmod(fault):
    os.close(made())
    fault()
    os.chmod("f", 0o600)
    return oct(os.stat("f").st_mode)


@case("utimens")
def utimensat(fault):
    os.close(made())
    fault()
    os.utime("f", (1, 2))
    return os.stat("f").st_mtime


@case("open", error="EIO")
def open_(fault):
    os.close(made())
    fault()
    return os.read(os.open("f", os.O_RDONLY), 100)


@case("open", error="ESTALE")
def open_truncating(fault):
    os.close(made())
    fault()
    return os.fstat(os.open("f", os.O_RDWR | os.O_TRUNC)).st_size


@case("create,mknod", error="EIO")
def open_creating(fault):
    fault()
    f = os.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    return os.write(f, b"fresh"), stat.filemode(os.fstat(f).st_mode)


@case("create,mknod", error="ETIMEDOUT")
def creat(fault):
    fault()
    f = raw("creat", b"f", 0o604)
    return os.write(f, b"fresh"), stat.filemode(os.fstat(f).st_mode)


@case("readdir,opendir", "")
def getdents(fault):
    for number in range(40):
        os.mkdir(f"d{number}")
    fault()
    return sorted(os.listdir("."))


@case("statfs", "")
def statfs(fault):
    fault()
    return os.statvfs(".").f_bsize


@case("copy_file_range,write", "g")
def copy_file_range(fault):
    f, g = made(), os.open("g", os.O_RDWR | os.O_CREAT)
    fault()
    return os.copy_file_range(f, g, 3000, 10, 20), os.pread(g, 100, 20)


@case("read")
def sendfile_from(fault):
    f = made()
    a, b = socket.socketpair()
    fault()
    return os.sendfile(a.fileno(), f, 40, 1000), b.recv(1000)


@case("write", "g")
def sendfile_to(fault):
    f, g = made(), os.open("g", os.O_RDWR | os.O_CREAT)
    fault()
    return os.sendfile(g, f, 40, 1000), os.pread(g, 2000, 0), os.lseek(g, 0, os.SEEK_CUR)


@case("read")
def splice_from(fault):
    f, (r, w) = made(), os.pipe()
    fault()
    return os.splice(f, w, 1000, offset_src=64), os.read(r, 2000)


@case("write")
def splice_to(fault):
    f, (r, w) = made(b""), os.pipe()
    os.write(w, b"from a pipe")
    fault()
    return os.splice(r, f, 1000), os.pread(f, 100, 0), os.lseek(f, 0, os.SEEK_CUR)


def command(where, line):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(where)
        connection.sendall(line.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000).startswith(b"ok"), line


def run(base, where, names):
    for number, name in enumerate(names):
        function, ops, subject, error = CASES[name]
        error = error or ERRORS[number % len(ERRORS)]
        suffix = f"/{name}/{subject}" if subject else f"/{name}"

        def fault():
            if where != "-":
                command(where, f"fail {ops} {error} path={suffix}")
        os.chdir(f"{base}/{name}")
        try:
            print(name, function(fault), flush=True)
        except OSError as failed:
            print(name, "FAIL", errno.errorcode[failed.errno], flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(*CASES)
    else:
        run(sys.argv[1], sys.argv[2], sys.argv[3:])
