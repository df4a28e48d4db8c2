"""Where measurements run: directories in memory and on ext4, commands with deadlines, and nothing left afterwards.

All mounts are in a mount namespace of the bench's own, loop devices clear themselves, and orphans become its children
(PR_SET_CHILD_SUBREAPER): it ends them after each measurement, and the kernel takes the rest should it be killed."""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import system

PR_SET_CHILD_SUBREAPER = 36
LOOP_SIZE = 8 << 30  # sparse


class Failed(Exception):
    """A workload did not do what it should; says what its programs said."""


def file_system(directory):
    return subprocess.run(["stat", "-f", "-c", "%T", str(directory)], stdout=subprocess.PIPE, text=True, timeout=20, check=True).stdout.strip()


def children(pid):
    try:
        return [int(word) for name in os.listdir(f"/proc/{pid}/task") for word in Path(f"/proc/{pid}/task/{name}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid):
    """From the top down."""
    found = children(pid)
    for one in found:
        found.extend(children(one))
    return found


class Place:
    """`directory(kind)` is a fresh one, "memory" (tmpfs) or "disk" (ext4: below `disk`, or on a loop device there)."""

    def __init__(self, disk, loop):
        for old in Path(disk).glob("supervise-bench-[0-9]*-*"):  # of one that was killed
            if not os.path.exists(f"/proc/{old.name.split('-')[2]}"):
                shutil.rmtree(old, ignore_errors=True)
        self.root = Path(tempfile.mkdtemp(prefix=f"supervise-bench-{os.getpid()}-", dir=disk))
        self.mounted, self.loop = [], None
        try:
            os.chmod(self.root, 0o755)  # PostgreSQL runs as another user
            for name in ("memory", "disk", "run", "logs", "tools"):
                (self.root / name).mkdir()
            (self.root / "run").chmod(0o700)
            os.environ["SUPERVISE_RUNDIR"] = str(self.root / "run")
            system._check(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
            system.unshare(system.CLONE_NEWNS)
            system.mount("none", "/", None, system.MS_REC | system.MS_PRIVATE)
            self._mount("tmpfs", self.root / "memory", "tmpfs", "size=2g,mode=755")
            self.disk = f"ext4 of {disk}"
            if loop or file_system(disk) != "ext2/ext3":
                self._mount_loop()
                self.disk = f"ext4 on a loop device in {disk}"
        except BaseException:
            self.close()
            raise

    def _mount(self, source, target, kind, data=None):
        system.mount(source, target, kind, data=data)
        self.mounted.append(target)

    def _mount_loop(self):
        image = self.root / "image"
        with open(image, "wb") as file:
            file.truncate(LOOP_SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True, timeout=120)
        self.loop = system.LoopDevice(image, f"supervise-bench {os.getpid()}")
        self._mount(self.loop.path, self.root / "disk", "ext4")

    def directory(self, kind):
        directory = self.root / kind / "work"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return directory

    def sweep(self):
        """Ends what a measurement has left; returns the names."""
        left = []
        for _ in range(100):
            found = descendants(os.getpid())
            if not found:
                break
            for pid in found:
                state = system.process_state(pid)
                if state and state[1] != "Z":
                    left.append(state[0])
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            time.sleep(0.02)
        return sorted(set(left))

    def close(self):
        self.sweep()
        for target in reversed(self.mounted):
            try:
                system.umount(target)
            except OSError:
                system.umount(target, system.MNT_DETACH)
        self.mounted.clear()
        if self.loop:
            self.loop.release()
        shutil.rmtree(self.root, ignore_errors=True)


class Command:
    """A program with its output in files of its own, in a session of its own. Ends with the bench."""

    def __init__(self, place, argv, directory, what):
        self.what = what
        number = len(list((place.root / "logs").iterdir()))
        self.out, self.err = place.root / f"logs/{number}.out", place.root / f"logs/{number}.err"
        self.began = time.monotonic()
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen([str(word) for word in argv], cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                            start_new_session=True, preexec_fn=system.die_with_parent,
                                            env={**os.environ, "LC_ALL": "C"})

    def said(self):
        tail = lambda path: path.read_text(errors="replace").strip()[-800:]
        return f"{tail(self.err)} {tail(self.out)}".strip() or "(it said nothing)"

    def fail(self, why):
        raise Failed(f"{self.what}: {why}: {self.said()}")

    def end(self, seconds):
        """Waits for it; milliseconds that the command took, its output."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.fail(f"did not end within {seconds} s")
        took = (time.monotonic() - self.began) * 1000
        if status != 0:
            self.fail(f"ended with {status}")
        return took, self.out.read_text(errors="replace")

    def kill(self):
        for pid in [*descendants(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(30)

    def first(self, name):
        """The PID of the first process of that name below it, whatever traces it and in whatever namespace it is."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            state = system.process_state(pid)
            if state and state[0] == name and state[1] != "Z":
                return pid
        return None
