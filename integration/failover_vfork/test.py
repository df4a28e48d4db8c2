"""The call that fails is made by a vfork child (posix_spawn opens a file on the path): its parent can't be
held meanwhile, and what it has open moves when it comes back. Neither sees an error, and nothing keeps the
first path busy."""

import harness

PROGRAM = r"""
import os, sys
d = sys.argv[1]
os.chdir(d)
log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
for i in range(40):
    os.write(log, b"before %d\n" % i)
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"echo line {i}; sleep 0.02"], os.environ,
                         file_actions=[(os.POSIX_SPAWN_OPEN, 1, f"out{i}", os.O_WRONLY | os.O_CREAT, 0o644)])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.write(log, b"after %d\n" % i)
    print("spawned", i, flush=True)
os.fsync(log)
"""


def main(t):
    a = t.host("a")
    (t.shared / "program.py").write_text(PROGRAM)
    a.run(["mkdir", "-p", "/srv/second"])
    fuse = harness.FuseDirectory(t, a, "/srv/first")
    fuse.mount_direct(a, "/srv/second")
    app = a.supervise(["--name", "app", "--path", "data=/srv/first,/srv/second", "--",
                       "/usr/bin/python3", "/srv/shared/program.py", "/srv/first"], stdio="files")
    app.wait_line("spawned 5", 20, "stdout")
    fuse.fail("open,create", "EIO")
    t.equal(app.wait(40), 0, "neither parent nor child saw an error")
    t.check("path.switched" in app.stderr.text, "the path was switched")
    t.check("not_moved" not in app.stderr.text, "everything moved")
    log = (a.path("/srv/second") / "log").read_text()
    t.equal(log, "".join(f"before {i}\nafter {i}\n" for i in range(40)), "the parent's log is whole")
    for i in range(40):
        t.equal((a.path("/srv/second") / f"out{i}").read_text(), f"line {i}\n", f"output {i}")


if __name__ == "__main__":
    harness.run(main)
