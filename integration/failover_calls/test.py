"""Each call fails on the first path, with each of the errors of a failing path in turn, and is completed
on the second: same results, same tree as without any fault."""

import subprocess
import sys
from pathlib import Path

import harness

GUEST = ["/usr/bin/python3", str(Path(__file__).resolve().parent / "calls.py")]
TREE = "find . -printf '%P %y %m %s %l\\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum"
AT_ONCE = 16  # storage paths in one run


def run(t, host, names, index):
    plain = f"/srv/plain{index}"
    host.run(["mkdir", "-p", *(f"{plain}/{name}" for name in names)])
    expected = host.run([*GUEST, plain, "-", *names], 30)
    first, second = f"/srv/first{index}", f"/srv/second{index}"
    directory = harness.FuseDirectory(t, host, first)
    for name in names:
        (directory.lower / name).mkdir()
    directory.mount_direct(host, second)
    paths = [word for name in names for word in ("--path", f"{name}={first}/{name},{second}/{name}")]
    app = host.supervise(["--name", "app", "--on", "*:*:*=retry(1,5ms),alternate,report", *paths, "--", *GUEST,
                          first, directory.daemon.socket, *names], stdio="files")
    t.equal(app.wait(60), 0, "its exit status")
    # Which block size statfs tells is the file system's own.
    wanted = [line for line in expected.stdout.splitlines() if not line.startswith("statfs ")]
    found = app.stdout.text.splitlines()
    t.check(not any(line.startswith("statfs FAIL") for line in found), "statfs")
    found = [line for line in found if not line.startswith("statfs ")]
    for mine, other in zip(found, wanted):
        t.equal(mine, other, f"{other.split()[0]} has the result of an undisturbed run")
    t.equal(len(found), len(wanted), "cases that ran")
    for name in names:
        t.check(f"path {name} goes over {second}/{name} now" in app.stderr.text, f"{name} failed and went over")
    t.equal(host.shell(f"cd {second} && {TREE}").stdout, host.shell(f"cd {plain} && {TREE}").stdout, "the tree")
    host.umount(first)
    t.say("ok: nothing keeps the first path busy")


def main(t):
    host = t.host("a")
    names = subprocess.run([*GUEST, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for index in range(0, len(names), AT_ONCE):
        run(t, host, names[index:index + AT_ONCE], index)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
