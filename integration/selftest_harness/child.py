"""Scenarios that end badly, run by test.py: child.py MODE. Each first prints its marker and directory."""

import os
import signal
import subprocess
import sys
import time

import harness

WRITER = "import os; f=os.open('/srv/first/f', os.O_RDWR|os.O_CREAT); os.write(f, b'x'*9999); os.fsync(f)"


def furnish(t):
    """A host with a mounted failing disk and a faultfs, a program in each, one of them in a hung device."""
    host = t.host("a")
    disk = t.failing_disk("ext4")
    disk.mount_first(host, "/srv/first")
    harness.FuseDirectory(t, host, "/srv/fuse", writeback=True)
    host.start(["/bin/sh", "-c", "cd /srv/fuse && trap '' TERM INT HUP && sleep 300"], name="stubborn")
    disk.hang("write,fsync")
    host.start(["/usr/bin/python3", "-c", WRITER], name="in the device")
    harness.wait_until(lambda: disk.stats()["hanging"] > 0, 10, "a write hangs")
    print("furnished", t.marker, t.work, flush=True)
    return host


def killed(t):
    furnish(t)
    os.kill(os.getpid(), signal.SIGKILL)


def waiting(t):
    furnish(t)
    time.sleep(300)


def failing(t):
    host = furnish(t)
    process = host.start(["/bin/sh", "-c", "echo what it printed"], name="talker")
    process.wait(5)
    t.equal(1, 2, "one is two")


def leaking_process(t):
    null = subprocess.DEVNULL
    subprocess.Popen(["sleep", "20"], env=t.environment(None), stdin=null, stdout=null, stderr=null)
    print("furnished", t.marker, t.work, flush=True)


def leaking_loop(t):
    path = t.work / "leak"
    path.write_bytes(bytes(1 << 20))
    t.leak = harness.LoopDevice(path, t.marker)
    print("furnished", t.marker, t.work, flush=True)


def skipping(t):
    t.skip("for the sake of it")


harness.run(globals()[sys.argv[1]])
