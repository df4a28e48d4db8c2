"""Everything that hangs on an open file, set up before the fault and looked at after it.

    state.py DIR GO END      it writes until GO exists, checks, and holds its locks until END exists
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import time

BASE, GO, END = sys.argv[1:]
F_OFD_SETLK, O_TMPFILE = 37, getattr(os, "O_TMPFILE", 0o20200000)
failures = []


def same(what, found, wanted):
    if found != wanted:
        failures.append(what)
        print(f"FAIL {what}: {found!r} instead of {wanted!r}", flush=True)


def wait_for(path):
    end = time.monotonic() + 50
    while not os.path.exists(path):
        if time.monotonic() > end:
            sys.exit(f"FAIL {path} never came")
        time.sleep(0.01)


def lock(kind, start, length):
    return struct.pack("hhqqi", kind, os.SEEK_SET, start, length, 0)


def record(number):
    return b"%08d\n" % number


os.makedirs(f"{BASE}/work/inner")
os.mkdir(f"{BASE}/dir")
os.chdir(f"{BASE}/work")
dirfd = os.open(f"{BASE}/dir", os.O_RDONLY | os.O_DIRECTORY)
pathfd = os.open(f"{BASE}/dir", os.O_PATH)
append = os.open("append", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
sync = os.open("sync", os.O_WRONLY | os.O_CREAT | os.O_SYNC, 0o600)
shared = os.open("shared", os.O_RDWR | os.O_CREAT, 0o600)
first_dup = os.dup(shared)
os.set_inheritable(first_dup, True)
other = os.open("shared", os.O_RDONLY)

posix = os.open("posix.lock", os.O_RDWR | os.O_CREAT)
fcntl.fcntl(posix, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 10, 10))
fcntl.fcntl(posix, fcntl.F_SETLK, lock(fcntl.F_RDLCK, 100, 0))
ofd = os.open("ofd.lock", os.O_RDWR | os.O_CREAT)
fcntl.fcntl(ofd, F_OFD_SETLK, lock(fcntl.F_WRLCK, 5, 5))
flocked = os.open("flock.lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(flocked, fcntl.LOCK_EX)

unlinked = os.open("unlinked", os.O_RDWR | os.O_CREAT)
os.write(unlinked, b"durable once")
os.fsync(unlinked)
os.unlink("unlinked")
os.write(unlinked, b" and not any more")
nameless = os.open(".", os.O_RDWR | O_TMPFILE, 0o600)
os.write(nameless, b"never had a name")

with open("mapped", "wb") as file:
    file.write(bytes(3 * 4096))
    file.flush()
    os.fsync(file.fileno())
    file.close()
mapped = os.open("mapped", os.O_RDWR)
shared_map = mmap.mmap(mapped, 3 * 4096)
private_map = mmap.mmap(mapped, 3 * 4096, flags=mmap.MAP_PRIVATE)
private_map[4096:4103] = b"private"
os.close(mapped)

# Parent and child share the offset of `shared`, turn by turn.
to_child, to_parent = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(to_child[1])
    while word := os.read(to_child[0], 8):
        os.write(shared, record(int(word)))
        os.write(to_parent[1], b"+")
    os._exit(0)
os.close(to_child[0])

print("ready", flush=True)
number = 0
while number < 20 or not os.path.exists(GO):
    os.write(append, record(number))
    os.write(sync, record(number))
    os.write((shared, first_dup)[number // 2 % 2], record(2 * number))
    os.write(to_child[1], b"%8d" % (2 * number + 1))
    os.read(to_parent[0], 1)
    shared_map[number % 8192:number % 8192 + 1] = b"m"
    if number % 3 == 2:
        os.fsync(append)
    if number % 10 == 0:
        with open(f"inner/{number}", "w") as file:
            file.write(str(number))
        os.close(os.open(f"in-dir-{number}", os.O_CREAT | os.O_WRONLY, dir_fd=dirfd))
    number += 1
    time.sleep(0.01)
os.close(to_child[1])
same("the child's end", os.waitpid(child, 0)[1], 0)
print(f"rounds {number}", flush=True)

same("working directory", os.getcwd(), f"{BASE}/work")
same("files in it", sorted(map(int, os.listdir("inner"))), list(range(0, number, 10)))
same("files through the directory's descriptor", len(os.listdir(dirfd)), len(range(0, number, 10)))
same("name through an O_PATH descriptor", os.stat("in-dir-0", dir_fd=pathfd).st_size, 0)
size = 9 * number
same("O_APPEND", fcntl.fcntl(append, fcntl.F_GETFL) & os.O_APPEND, os.O_APPEND)
same("O_SYNC", fcntl.fcntl(sync, fcntl.F_GETFL) & os.O_SYNC, os.O_SYNC)
same("shared offset", [os.lseek(fd, 0, os.SEEK_CUR) for fd in (shared, first_dup)], [2 * size] * 2)
same("another description's offset", os.lseek(other, 0, os.SEEK_CUR), 0)
same("one description", os.lseek(first_dup, 9, os.SEEK_SET), os.lseek(shared, 0, os.SEEK_CUR))
same("close-on-exec", [os.get_inheritable(fd) for fd in (shared, first_dup)], [False, True])
same("shared", os.pread(other, 4 * size, 0), b"".join(record(n) for n in range(2 * number)))
for name in ("append", "sync"):
    with open(name, "rb") as file:
        same(name, file.read(), b"".join(record(n) for n in range(number)))
same("unlinked file", os.pread(unlinked, 100, 0), b"durable once and not any more")
same("its offset", os.lseek(unlinked, 0, os.SEEK_CUR), 29)
same("links of it", os.fstat(unlinked).st_nlink, 0)
same("file that never had a name", os.pread(nameless, 100, 0), b"never had a name")
same("private pages", private_map[4096:4103], b"private")
same("shared pages", shared_map[:min(number, 8192)], b"m" * min(number, 8192))
with open("mapped", "rb") as file:
    same("file of the mapping", file.read(3 * 4096), shared_map[:])
    same("private pages stay private", shared_map[4096:4103] != b"private" or number > 4096, True)
print("checked", flush=True)
wait_for(END)
sys.exit(1 if failures else 0)
