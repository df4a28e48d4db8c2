"""What Python's library lacks: namespaces, mounts, loop devices, the shutdown ioctl, /proc readers."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
import time

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1

LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LOOP_GET_STATUS64, LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 0x4C05, 4
BLKFLSBUF = 0x1261
NS_GET_PARENT = 0xB702
FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32): ext4, XFS, f2fs


def _check(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags):
    _check(_libc.unshare(flags), "unshare")


def mount(source, target, fs=None, flags=0, data=None):
    encode = lambda text: None if text is None else os.fsencode(text)
    _check(_libc.mount(encode(source), encode(target), encode(fs), ctypes.c_ulong(flags), encode(data)),
           f"mount {source} on {target}")


def umount(target, flags=0):
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


def die_with_parent():
    _check(_libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def wait_until(condition, seconds, what, pause=0.005):
    """Returns the first true value of condition(); raises TimeoutError that names `what`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(pause)


class LoopDevice:
    """A loop device that the kernel takes away when its holder and its last mount are gone, even when
    this process is killed (autoclear). The label, up to 63 bytes, stays readable when the backing file's
    mount is gone."""

    def __init__(self, backing, label=""):
        self.backing, self.label = os.fspath(backing), label
        file = os.open(self.backing, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.path, self._holder = self._configure(file)
        finally:
            os.close(file)
        self.number = int(self.path[len("/dev/loop"):])
        self._listed = self._backing_file()

    def _configure(self, file):
        name = os.fsencode(self.label or self.backing)[-63:]
        info = struct.pack("=5Q4I64s64s32s2Q", 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, name, b"", b"", 0, 0)
        config = struct.pack("=2I", file, 0) + info + bytes(64)
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(100):
                number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
                path = f"/dev/loop{number}"
                if not os.path.exists(path):
                    os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, number))
                device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(device, LOOP_CONFIGURE, config)
                    # Held read-only: a writer would forbid the mount where the kernel is strict.
                    return path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                finally:
                    os.close(device)
        finally:
            os.close(control)
        raise OSError(errno.EBUSY, "no free loop device")

    def _backing_file(self):
        try:
            with open(f"/sys/block/loop{self.number}/loop/backing_file") as file:
                return file.read().strip()
        except OSError:
            return None

    def flush_buffers(self):
        """Drops what the block device caches, after someone else has written to the image."""
        fcntl.ioctl(self._holder, BLKFLSBUF)

    def release(self):
        """Lets go; the device vanishes with its last mount."""
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1

    def attached(self):
        return self._backing_file() == self._listed

    def mounted(self):
        """Whether a file system is mounted from it, in whatever namespace."""
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
            return False
        except OSError as error:
            if error.errno == errno.EBUSY:
                return True
            raise


def loop_devices():
    """{device name: (label, backing file as it can be seen now)} of the whole machine."""
    found = {}
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop"):
            continue
        try:
            with open(f"/sys/block/{name}/loop/backing_file") as file:
                backing = file.read().strip()
            device = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not attached
            continue
        try:
            status = fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(232))
            found[name] = (status[56:120].split(b"\0")[0].decode("utf-8", "replace"), backing)
        except OSError:
            pass
        finally:
            os.close(device)
    return found


def shutdown_file_system(directory, mode=2):
    """Shuts an ext4 or XFS down. 0: flush all first, 1: flush the log, 2: flush nothing, as a crash."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", mode))
    finally:
        os.close(fd)


def emergency_read_only(loop):
    """Makes ext4 act on an internal error; with errors=remount-ro every write says EROFS from then on."""
    with open(f"/sys/fs/ext4/{os.path.basename(loop.path)}/trigger_fs_error", "w") as file:
        file.write("requested by a test\n")


def pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def process_state(pid):
    """(command, state letter, parent), or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            text = file.read()
    except OSError:
        return None
    comm = text[text.index("(") + 1:text.rindex(")")]
    rest = text[text.rindex(")") + 2:].split()
    return comm, rest[0], int(rest[1])


def namespace(pid, kind):
    """The inode of a process's namespace, or None."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return None


def pid_namespaces_upwards(pid):
    """The inodes of a process's PID namespace and of those above it, as far as they can be seen."""
    found = []
    try:
        fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return found
    while True:
        found.append(os.fstat(fd).st_ino)
        try:
            above = fcntl.ioctl(fd, NS_GET_PARENT)
        except OSError:  # the caller's own namespace has no parent that it may see
            return found
        finally:
            os.close(fd)
        fd = above
