"""Storage that fails: a block device with several ways to the same image, and small full disks."""

import os
import shlex
import subprocess

from . import system
from .daemon import FaultDaemon

_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
_SIZES = {"ext4": "64M", "xfs": "320M", "btrfs": "256M"}


def parse_size(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def make_image(scenario, size):
    path = scenario.work / f"image-{scenario.next_index()}"
    with open(path, "wb") as file:
        file.truncate(parse_size(size))
    return path


def make_file_system(fs, device, extra=()):
    done = subprocess.run([*_MKFS[fs], *extra, device], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"mkfs of {fs} on {device}: {done.stderr}{done.stdout}")


class Way:
    """One way to the image: a loop device, either straight on it or over a faultdisk of its own."""

    def __init__(self, disk, name, failable):
        self.disk, self.name = disk, name
        self.daemon = None
        backing = disk.image
        if failable:
            scenario = disk.scenario
            point = scenario.work / f"faultdisk-{scenario.next_index()}"
            point.mkdir()
            self.daemon = FaultDaemon(scenario, "faultdisk", "--image", disk.image, point)
            backing = point / "disk.img"
        self.loop = system.LoopDevice(backing, disk.scenario.marker)
        disk.scenario.loops.append(self.loop)
        if failable:
            # The loop device holds the file; without the mount nothing else can walk into it.
            system.umount(point, system.MNT_DETACH)

    @property
    def device(self):
        return self.loop.path

    def fence(self):
        """From here on nothing of what was or is written this way reaches the image."""
        self.daemon.fail("all", "EIO")


class FailingDisk:
    """An image with a file system and honest paths to it (first, second, third).

    The first goes over a faultdisk; the others are loop devices straight on the image, so what the
    first lost is absent there. A later way is mounted only after the earlier ones are fenced or
    unmounted: mount_second() and the path-up script see to it.
    """

    def __init__(self, scenario, fs="ext4", size=None, mkfs=(), failable=("first",), options=None):
        self.scenario, self.fs, self._failable = scenario, fs, failable
        self._options = options
        self.image = make_image(scenario, size or _SIZES[fs])
        self.ways = {}
        make_file_system(fs, self.way("first").device, mkfs)

    def way(self, name):
        """A way by name; made when first asked for."""
        if name not in self.ways:
            self.ways[name] = Way(self, name, name in self._failable)
        return self.ways[name]

    # The first way's faults, in short ----------------------------------------------------------

    @property
    def daemon(self):
        return self.way("first").daemon

    def fail(self, ops="all", errno="EIO", byte_range=None, **more):
        return self.daemon.fail(ops, errno, byte_range, **more)

    def hang(self, ops="all", **more):
        return self.daemon.hang(ops, **more)

    def unhang(self):
        self.daemon.unhang()

    def clear(self, rule=None):
        self.daemon.clear(rule)

    def fence(self):
        self.way("first").fence()

    def stats(self):
        return self.daemon.stats()

    # Mounting ----------------------------------------------------------------------------------

    def mount_options(self, name):
        options = [self._options] if self._options else []
        if self.fs == "xfs" and name != "first":
            options.append("nouuid")
        return ",".join(options) or None

    def mount(self, host, directory, name="first"):
        way = self.way(name)
        if name != "first":
            way.loop.flush_buffers()
        host.mount(way.device, directory, self.fs, self.mount_options(name))

    def mount_first(self, host, directory):
        self.mount(host, directory, "first")

    def mount_second(self, host, directory, seconds=10):
        self._give_up_before("second", seconds)
        self.mount(host, directory, "second")

    def mount_third(self, host, directory, seconds=10):
        self._give_up_before("third", seconds)
        self.mount(host, directory, "third")

    def _earlier(self, name):
        order = ["first", "second", "third"]
        return [self.ways[n] for n in order[:order.index(name)] if n in self.ways]

    def _give_up_before(self, name, seconds):
        for way in self._earlier(name):
            if way.daemon and way.daemon._popen.poll() is None:
                way.fence()
            elif not way.daemon:
                self.wait_released(way.name, seconds)

    def wait_released(self, name="first", seconds=10):
        """Until no mount namespace has it mounted."""
        loop = self.way(name).loop
        system.wait_until(lambda: not loop.mounted(), seconds, f"{loop.path} ({name} way) is unmounted everywhere")

    # The operator's scripts --------------------------------------------------------------------

    def path_up_script(self, name, directory, seconds=10):
        """A program for --path-up: fences what can be fenced, waits until the rest is unmounted, then
        mounts this way on `directory` (and only there). What it did is in scripts_log()."""
        way = self.way(name)
        tool = shlex.quote(self.scenario.tool("faultdisk"))
        lines = []
        order = ["first", "second", "third"]
        for earlier in order[:order.index(name)]:
            before = self.way(earlier)
            if before.daemon:
                lines.append(f"{tool} ctl {shlex.quote(before.daemon.socket)} fail all EIO || exit 1")
            else:
                lines.append(f"{tool} released {seconds} {before.device} || exit 1")
        options = self.mount_options(name)
        lines += [
            f"[ \"$SUPERVISE_DIR\" = {shlex.quote(directory)} ] || {{ echo unexpected directory; exit 2; }}",
            f"mkdir -p {shlex.quote(directory)} || exit 1",
            f"blockdev --flushbufs {way.device} || exit 1",
            f"mount -t {self.fs} {'-o ' + options if options else ''} {way.device} {shlex.quote(directory)} || exit 1",
        ]
        return self._script(f"path-up-{name}", lines)

    def path_down_script(self, name, directory, seconds=10):
        """A program for --path-down: unmounts this way, and fails when something keeps it busy."""
        tool = shlex.quote(self.scenario.tool("faultdisk"))
        return self._script(f"path-down-{name}", [
            f"umount {shlex.quote(directory)} || exit 1",
            f"{tool} released {seconds} {self.way(name).device} || exit 1",
        ])

    def _script(self, kind, lines):
        path = self.scenario.work / f"{kind}-{self.scenario.next_index()}"
        log = shlex.quote(str(self._scripts_log_path()))
        say = (f"echo \"{kind} path=$SUPERVISE_PATH dir=$SUPERVISE_DIR from=$SUPERVISE_FROM "
               "reason=$SUPERVISE_REASON\"")
        body = ["#!/bin/sh", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"exec >>{log} 2>&1",
                f"trap 'echo \"{kind} exit $?\"' EXIT", say, *lines]
        path.write_text("\n".join(body) + "\n")
        path.chmod(0o755)
        return str(path)

    def _scripts_log_path(self):
        return self.scenario.logs / f"{self.image.name}-scripts.log"

    def scripts_log(self):
        path = self._scripts_log_path()
        return path.read_text() if path.exists() else ""


class SmallFileSystem:
    """A file system that is soon full: ext4, XFS or btrfs on a loop device, or a tmpfs."""

    def __init__(self, scenario, host, directory, fs="ext4", size="16M"):
        self.host, self.directory, self.loop = host, directory, None
        if fs == "tmpfs":
            host.mount("tmpfs", directory, "tmpfs", f"size={parse_size(size)}")
            return
        image = make_image(scenario, size)
        self.loop = system.LoopDevice(image, scenario.marker)
        scenario.loops.append(self.loop)
        make_file_system(fs, self.loop.path, ["-m", "0"] if fs == "ext4" else [])
        host.mount(self.loop.path, directory, fs)

    def fill(self, leave=0):
        """Writes `filler` until ENOSPC, then gives `leave` bytes back."""
        path = f"{self.directory}/filler"
        script = f"dd if=/dev/zero of={path} bs=64k status=none; dd if=/dev/zero of={path}.rest bs=1k status=none"
        self.host.shell(f"{script}; sync -f {self.directory}; truncate -s -{leave} {path}", 60)

    def free(self):
        self.host.shell(f"rm -f {self.directory}/filler {self.directory}/filler.rest; sync -f {self.directory}")


class FuseDirectory:
    """A directory seen through faultfs, and the directory below it as the other path. With writeback,
    what was written and not flushed is truly absent below; without, only the errors are honest."""

    def __init__(self, scenario, host, directory, writeback=False, lower=None, options=()):
        self.scenario, self.host, self.directory = scenario, host, directory
        self.lower = lower or scenario.work / f"lower-{scenario.next_index()}"
        os.makedirs(self.lower, exist_ok=True)
        host.mkdir(directory)
        words = (["--writeback"] if writeback else []) + list(options)
        self.daemon = FaultDaemon(scenario, "faultfs", "--source", self.lower, directory, host, words)

    def mount_direct(self, host, directory):
        host.bind(self.lower, directory)

    def fail(self, ops="all", errno="EIO", **more):
        return self.daemon.fail(ops, errno, **more)

    def clear(self, rule=None):
        self.daemon.clear(rule)

    def kill_daemon(self):
        self.daemon.kill()
