"""Further paths that can't be used: a --path-up that fails or hangs, a second path that vanished; and a second
path that fails later too. The next one is taken, and where none is left, the application is told."""

import sys
import time
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent
COUNT = 60


class Paths:
    """Two ways through faultfs and one direct to one directory, and a writer of records on the first."""

    def __init__(self, t, name, options, dirs=("first", "second"), before=None):
        self.t, self.name = t, name
        self.host = host = t.host(name)
        lower = t.work / f"lower-{name}"
        self.first = harness.FuseDirectory(t, host, "/srv/first", lower=lower)
        self.second = harness.FuseDirectory(t, host, "/srv/second", lower=lower)
        host.bind(lower, "/srv/third")
        where = ",".join(f"/srv/{d}" for d in dirs)
        self.app = host.supervise(["--name", name, "--path", f"data={where}", *options, "--", "/usr/bin/python3",
                                   str(HERE / "records.py"), "/srv/first", str(COUNT)], stdio="files")
        self.app.wait_line("record 5$", 20, "stdout")
        if before:
            before(self)
        self.first.fail("all", "EIO")

    def ends(self, status=0):
        self.t.equal(self.app.wait(40), status, f"{self.name}: the application's exit status")
        self.app.stderr.close()
        self.app.stdout.close()
        written = self.host.path("/srv/third/log").read_bytes()
        told = [int(line.split()[1]) for line in self.app.stdout.text.splitlines() if line.startswith("record ")]
        count = COUNT if status == 0 else len(told)
        self.t.equal(written[:9 * count], b"".join(b"%08d\n" % n for n in range(count)), f"{self.name}: its records")
        if status == 0:
            self.t.equal(len(written), 9 * COUNT, f"{self.name}: each record once")
        return self.app.stderr.text


def main(t):
    three = ("first", "second", "third")
    said = Paths(t, "up-fails", ["--path-up", 'data=test "$SUPERVISE_DIR" = /srv/third'], three).ends()
    t.check("path.unavailable" in said and "exit status 1" in said, "the log says that --path-up failed")
    t.check("goes over /srv/third now" in said, "the next path is taken")

    paths = Paths(t, "up-fails-no-other", ["--path-up", "data=echo no such device >&2; exit 3"])
    said = paths.ends(1)
    t.check("got EIO" in paths.app.stdout.text, "with no other path the application is told")
    t.check("path.unavailable" in said and "error.reported" in said, "the log says both")

    began = time.monotonic()
    said = Paths(t, "up-hangs", ["--path-deadline", "1s",
                                 "--path-up", 'data=test "$SUPERVISE_DIR" = /srv/third || sleep 100'], three).ends()
    t.check("path.unavailable" in said and "goes over /srv/third now" in said, "a --path-up that hangs is given up")
    t.check(time.monotonic() - began < 25, "at its deadline")

    said = Paths(t, "vanished", [], three, before=lambda p: p.host.umount("/srv/second")).ends()
    t.check("another file system is there" in said, "a second path that is unmounted is noticed")
    t.check("goes over /srv/third now" in said, "the third is taken instead")

    paths = Paths(t, "twice", [], three)
    paths.app.wait_line("goes over /srv/second now", 20, "stderr")
    paths.app.wait_line("record 30$", 20, "stdout")
    paths.second.fail("all", "ENXIO")
    said = paths.ends()
    t.check("goes over /srv/third now" in said, "the second path failed later, and the third is taken")
    for directory in ("/srv/first", "/srv/second"):
        paths.host.umount(directory)
    t.say("ok: nothing keeps the given up paths busy")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
