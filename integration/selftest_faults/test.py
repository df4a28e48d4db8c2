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
    host.run(["sync", "-f", "/srv/first"], 30)  # else the one refused may be btrfs's commit of what was before

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


# Makes calls on FILE and DIRECTORY and prints each outcome on one line.
CALLS = r"""
import errno, os, sys
directory = sys.argv[1]
fd = os.open(directory + "/held", os.O_RDWR)
print("ready", flush=True)
sys.stdin.readline()
def outcome(call):
    try:
        call()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
def buffered():
    os.pwrite(fd, b"z" * 100, 0)
for name, call in (("read", lambda: os.pread(fd, 10, 0)), ("write", buffered), ("fsync", lambda: os.fsync(fd)),
                   ("open", lambda: os.close(os.open(directory + "/held", os.O_RDONLY))),
                   ("open-rw", lambda: os.close(os.open(directory + "/held", os.O_RDWR))),
                   ("rename", lambda: os.rename(directory + "/held", directory + "/other")),
                   ("truncate", lambda: os.ftruncate(fd, 10)), ("close", lambda: os.close(fd))):
    print(name, outcome(call))
"""


def outcomes(host, directory, fault):
    """{call: outcome} of a program that had its file open before the fault."""
    host.shell(f"head -c 8192 /dev/zero > {directory}/held; sync -f {directory}; cat {directory}/held >/dev/null")
    process = host.start(["/usr/bin/python3", "-c", CALLS, directory], name="calls")
    process.wait_line("^ready$", 10)
    fault()
    process.write("\n")
    process.wait(20)
    return dict(line.split() for line in process.stdout.text.splitlines()[1:])


def file_system_faults(t):
    host = t.host("fs")
    for fs in ("ext4", "xfs"):
        disk = t.failing_disk(fs)
        directory = f"/srv/{fs}"
        disk.mount_first(host, directory)
        seen = outcomes(host, directory, lambda: harness.shutdown_file_system(host.path(directory)))
        for call in ("write", "fsync", "open", "open-rw", "rename", "truncate"):
            t.equal(seen[call], "EIO", f"{fs} shut down: {call}")
        t.equal(seen["close"], "ok", f"{fs} shut down: close")
    disk = t.failing_disk("ext4", options="errors=remount-ro")
    disk.mount_first(host, "/srv/ro")
    seen = outcomes(host, "/srv/ro", lambda: harness.emergency_read_only(disk.way("first").loop))
    for call, expected in (("read", "ok"), ("write", "EROFS"), ("open", "ok"), ("open-rw", "EROFS"), ("rename", "EROFS")):
        t.equal(seen[call], expected, f"ext4 emergency read-only: {call}")


def no_space(t):
    host = t.host("full")
    for fs in ("ext4", "tmpfs"):
        directory = f"/srv/{fs}"
        small = harness.SmallFileSystem(t, host, directory, fs)
        small.fill(leave=64 << 10)
        write = ["dd", "if=/dev/zero", f"of={directory}/more", "bs=1k", "count=1024", "conv=fsync", "status=none"]
        done = host.run(write, check=False)
        t.check(done.status != 0 and "No space left" in done.stderr, f"{fs}: ENOSPC on a full file system")
        small.free()
        t.equal(host.run(write, check=False).status, 0, f"{fs}: and room again after free()")


def operator_scripts(t):
    for fs in ("ext4", "xfs", "btrfs"):
        one, two = t.host(f"{fs}-one"), t.host(f"{fs}-two")
        disk = t.failing_disk(fs)
        disk.mount_first(one, "/srv/first")
        python(one, WRITER, "/srv/first/file", "old-")

        def script(host, path, directory, check=True):
            return host.run([path], 30, check, env={"SUPERVISE_PATH": "data", "SUPERVISE_DIR": directory,
                                                    "SUPERVISE_FROM": "/srv/first", "SUPERVISE_REASON": "EIO"})
        script(one, disk.path_up_script("second", "/srv/second"), "/srv/second")
        lines = python(one, WRITER, "/srv/first/file", "late").stdout.splitlines()
        t.equal(lines[1], "fsync1 EIO", f"{fs}: path-up has fenced the first path")
        t.equal(one.path("/srv/second/file").read_bytes(), b"old-" * 4096, f"{fs}: and mounted the second")
        busy = one.start(["/bin/sh", "-c", "cd /srv/first && echo in && exec sleep 60"], name="busy")
        busy.wait_line("^in$")
        down = disk.path_down_script("first", "/srv/first", seconds=1)
        t.check(script(one, down, "/srv/first", False).status != 0, f"{fs}: path-down fails while the path is busy")
        busy.kill()
        busy.wait(5)
        script(one, down, "/srv/first")
        t.check(not one.mounted("/srv/first"), f"{fs}: path-down unmounts a path that nothing uses")
        python(one, WRITER, "/srv/second/file", "good")
        up = disk.path_up_script("third", "/srv/third", seconds=1)
        t.check(script(two, up, "/srv/third", False).status != 0,
                f"{fs}: the third path does not come up while the second is mounted elsewhere")
        one.power_off()
        script(two, up, "/srv/third")
        t.equal(two.path("/srv/third/file").read_bytes(), b"good" * 4096, f"{fs}: it does after the first host is off")
        t.check("path-up-third exit 0" in disk.scripts_log(), f"{fs}: the scripts log says so")
        two.power_off()


def hanging_device(t):
    host = t.host("hang")
    disk = t.failing_disk("ext4")
    disk.mount_first(host, "/srv/first")
    disk.hang("write,fsync")
    process = host.start(["/usr/bin/python3", "-u", "-c", WRITER, "/srv/first/file", "new-"], name="writer")
    harness.wait_until(lambda: disk.stats()["hanging"] > 0, 10, "a write hangs in the device")
    process.wait_line("^write ok$")
    t.check(process.poll() is None, "fsync on a device that hangs does not return")
    disk.fail("all", "EIO")
    disk.unhang()
    t.equal(process.wait_line(r"^fsync1 (\w+)$", 10).group(1), "EIO", "the device comes back with an error")

    other = t.failing_disk("xfs")
    other.mount_first(host, "/srv/other")
    other.hang("all")
    host.start(["/usr/bin/python3", "-u", "-c", WRITER, "/srv/other/file", "new-"], name="left hanging")
    harness.wait_until(lambda: other.stats()["hanging"] > 0, 10, "a write hangs in the second device")
    t.say("a caller in a device that hangs is left to the end of the scenario")


def main(t):
    for fs in ("ext4", "xfs", "btrfs"):
        failing_disk(t, fs)
    file_system_faults(t)
    no_space(t)
    operator_scripts(t)
    hanging_device(t)


harness.run(main)
