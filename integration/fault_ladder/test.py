"""Rules and rungs: retry over the same path after a lying fsync, report, --observe, the journal's limit, and
what a program wrote and left behind without fsync."""

import re
import sys
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
from steps import PIECE, content  # noqa: E402


class Case:
    """A disk, and `steps.py WHAT` on its first way under supervise."""

    def __init__(self, t, name, what, options, second=False, status=0):
        self.t, self.host = t, t.host(name)
        self.host.run(["mkdir", "-p", "/srv/second"])
        self.disk = t.failing_disk("ext4")
        self.disk.mount_first(self.host, "/srv/first")
        where = "/srv/first,/srv/second" if second else "/srv/first"
        up = ["--path-up", f"data={self.disk.path_up_script('second', '/srv/second')}"] if second else []
        self.second = second
        self.app = self.host.supervise(["--name", name, "--path", f"data={where}", *up, *options, "--", "/usr/bin/python3",
                                        str(HERE / "steps.py"), what, "/srv/first", self.disk.daemon.socket],
                                       stdio="files")
        t.equal(self.app.wait(40), status, f"{name}: the application's exit status")
        self.app.stderr.close()
        self.said = self.app.stderr.text

    def stored(self, name="file"):
        """What is on the storage, not in a cache of the first way."""
        if not self.second:
            self.disk.mount_second(self.host, "/srv/second")
        return self.host.path(f"/srv/second/{name}").read_bytes()


def main(t):
    case = Case(t, "once", "once", ["--on", "data:*:EIO=retry(3,20ms),report"])
    t.check("failed with EIO" in case.said and "error.reported" not in case.said, "a retry was enough")
    t.check(case.stored() == content(PIECE), "what the failed fsync had lost is on the storage")

    case = Case(t, "report", "told", ["--on", "data:fsync,fdatasync:EIO=report", "--on", "*:*:*=alternate"], second=True)
    t.check("got EIO" in case.app.stdout.text, "the first rule that matches says report: the application is told")
    t.check("error.reported" in case.said, "the log says so")

    case = Case(t, "observe", "told", ["--observe"], second=True)
    t.check("got EIO" in case.app.stdout.text, "--observe: the application is told")
    t.check(re.search(r"error.observed: fsync on .* EIO; the ladder would have been retry\(2,20ms\),alternate,handover,report",
                      case.said), "--observe: the log says what would have been done")
    t.check("path.switched" not in case.said, "--observe: nothing is changed")
    t.equal(case.disk.scripts_log(), "", "--observe: no hook has run")

    case = Case(t, "limit", "never", ["--journal-limit", "1M", "--log-level", "debug"], second=True)
    moved = [int(n) for n in re.findall(r"journal.(?:replayed|synced): (\d+) bytes of [1-9]", case.said)]
    t.check(len(moved) >= 4, f"the supervisor made it durable again and again: {moved}")
    # The piece that goes over the limit, and one that comes between a sync that fails and the switch.
    t.check(max(moved) <= (1 << 20) + 2 * PIECE, "the journal never held much more than its limit")
    t.check(case.stored() == content(96 * PIECE), "all bytes are on the second path")

    case = Case(t, "leaves", "leaves", [], second=True, status=7)
    t.check(case.stored("directory/renamed") == content(4 * PIECE), "what was never fsynced is on the second path")


if __name__ == "__main__":
    harness.run(main)
