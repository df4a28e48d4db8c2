"""Fail-over without a standby: offsets, flags, shared descriptions, directories, mappings, files without a
name and locks of all three kinds are on the second path; the first can be unmounted while it all runs on."""

import re
import sys
from pathlib import Path

import harness

GUEST = ["/usr/bin/python3", str(Path(__file__).resolve().parent / "state.py")]
TRY = """
import fcntl, os, struct
def ranges(file, command):
    fd = os.open(file, os.O_RDWR)
    free = []
    for start in (0, 7, 15, 50, 100, 5000):
        for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
            try:
                fcntl.fcntl(fd, command, struct.pack("hhqqi", kind, 0, start, 1, 0))
                free.append(f"{start}{'rw'[kind]}")
            except OSError:
                pass
    return " ".join(free)
print("posix", ranges("posix.lock", fcntl.F_SETLK))
print("ofd", ranges("ofd.lock", 37))
try:
    fcntl.flock(os.open("flock.lock", os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB)
    print("flock free")
except OSError:
    print("flock held")
"""


def main(t):
    host = t.host("a")
    host.run(["mkdir", "-p", "/srv/second"])
    disk = t.failing_disk("ext4")
    disk.mount_first(host, "/srv/first")
    up = disk.path_up_script("second", "/srv/second")
    app = host.supervise(["--name", "app", "--path", "data=/srv/first,/srv/second", "--path-up", f"data={up}", "--",
                          *GUEST, "/srv/first/base", "/srv/shared/go", "/srv/shared/end"], stdio="files")
    app.wait_line("^ready", 20, "stdout")
    disk.fail("all", "EIO")
    app.wait_line("path.switched", 20, "stderr")
    host.umount("/srv/first")
    disk.wait_released("first", 5)
    t.say("ok: the first path is unmounted while the application goes on")
    (t.shared / "go").touch()
    app.wait_line("^checked", 20, "stdout")
    t.check("FAIL" not in app.stdout.text, "all is as it was on the first path")
    locks = host.run(["/usr/bin/python3", "-c", TRY], cwd="/srv/second/base/work").stdout.splitlines()
    t.equal(locks, ["posix 0r 0w 7r 7w 50r 50w 100r 5000r", "ofd 0r 0w 15r 15w 50r 50w 100r 100w 5000r 5000w",
                    "flock held"], "what of the locks others can get on the second path")
    (t.shared / "end").touch()
    t.equal(app.wait(20), 0, "its exit status")
    t.check("not_moved" not in app.stderr.text, "everything was moved")
    number = int(re.search(r"^rounds (\d+)", app.stdout.text, re.MULTILINE).group(1))
    records = b"".join(b"%08d\n" % n for n in range(2 * number))
    base = host.path("/srv/second/base/work")
    t.equal((base / "shared").read_bytes(), records, "the shared file on the storage")
    t.equal((base / "append").read_bytes(), records[:9 * number], "the appended file on the storage")
    t.equal((base / "mapped").read_bytes()[:min(number, 8192)], b"m" * min(number, 8192), "the mapped file on the storage")
    t.equal(sorted(p.name for p in base.iterdir()),
            ["append", "flock.lock", "inner", "mapped", "ofd.lock", "posix.lock", "shared", "sync"],
            "names on the storage (nothing temporary is left)")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
