"""The fault machinery proves itself, without supervise: errors appear where the kernel really gives
them, what was lost is absent on the other way to the storage, and nothing is left behind."""

import harness

# Writes FILE, fsyncs twice, and prints what each call said.
WRITER = r"""
import os, sys, errno
def say(what, call):
    try:
        call()
        print(what, "ok")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
say("write", lambda: os.write(fd, sys.argv[2].encode() * 4096))
say("fsync1", lambda: os.fsync(fd))
say("fsync2", lambda: os.fsync(fd))
say("close", lambda: os.close(fd))
"""


def python(host, script, *arguments, check=True):
    return host.run(["/usr/bin/python3", "-c", script, *arguments], 30, check)


def failing_disk(t, fs):
    host = t.host(f"disk-{fs}")
    disk = t.failing_disk(fs)
    disk.mount_first(host, "/srv/first")
    healthy = python(host, WRITER, "/srv/first/before", "a").stdout.split("\n")[:3]
    t.equal(healthy, ["write ok", "fsync1 ok", "fsync2 ok"], f"{fs}: a healthy device takes a write")
    python(host, WRITER, "/srv/first/file", "old-")

    rule = disk.fail("write", "EIO", times=1)
    lines = python(host, WRITER, "/srv/first/file", "new-").stdout.splitlines()
    t.equal(lines, ["write ok", "fsync1 EIO", "fsync2 ok", "close ok"],
            f"{fs}: the write succeeds, the first fsync says EIO, the second 0")
    t.equal(disk.daemon.count("write", "failed"), 1, f"{fs}: the device refused one write")
    disk.clear(rule)

    disk.fail("all", "EIO")
    lines = python(host, WRITER, "/srv/first/file", "new-").stdout.splitlines()
    t.equal(lines[:2], ["write ok", "fsync1 EIO"], f"{fs}: on a dead device a write still succeeds, fsync says EIO")

    disk.mount_second(host, "/srv/second")
    text = host.path("/srv/second/file").read_bytes()
    t.equal(text, b"old-" * 4096, f"{fs}: the bytes are absent by way of the second path")
    python(host, WRITER, "/srv/second/file", "good")
    host.umount("/srv/first")
    disk.wait_released("first")
    host.umount("/srv/second")

    other = t.host(f"disk-{fs}-b")
    disk.mount_third(other, "/srv/third")
    t.equal(other.path("/srv/third/file").read_bytes(), b"good" * 4096,
            f"{fs}: the third path on another host sees what the second wrote")
    t.equal(other.path("/srv/third/before").read_bytes(), b"a" * 4096, f"{fs}: and what was durable before")
    host.power_off()
    other.power_off()


def main(t):
    for fs in ("ext4", "xfs", "btrfs"):
        failing_disk(t, fs)


harness.run(main)
