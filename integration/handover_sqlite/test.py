"""SQLite in the middle of transactions, with a rollback journal and with a write-ahead log: the device
fails, the application is handed over and goes on over the third path; each transaction is there once."""

import re
import sys

import harness
from harness import ledger

COUNT, DELAY_MS = 60, 30


def hand_over(t, command, ready, fs="ext4", size=None, ready_seconds=30, options=()):
    """Runs `command` (which uses /srv/first) on A until it printed `ready`, lets the device fail, and
    returns A's and B's processes, when both have ended as they should."""
    a, b = t.host("a"), t.host("b")
    images = "/srv/shared/images"
    (t.shared / "images").mkdir()
    a.run(["mkdir", "-p", "/srv/second"])
    b.run(["mkdir", "-p", "/srv/third"])
    disk = t.failing_disk(fs, size)
    disk.mount_first(a, "/srv/first")
    up2 = disk.path_up_script("second", "/srv/second")
    down = disk.path_down_script("second", "/srv/second")
    up3 = disk.path_up_script("third", "/srv/third")
    standby = b.supervise(["standby", "--name", "app", "--path", "data=/srv/third", "--path-up", f"data={up3}",
                           "--from", f"dir:{images}"], stdio="files")
    app = a.supervise(["--name", "app", "--path", "data=/srv/first,/srv/second", "--path-up", f"data={up2}",
                       "--path-down", f"data=if [ \"$SUPERVISE_REASON\" = handover ]; then {down}; fi",
                       "--standby", f"dir:{images}", *options, "--", *command], stdio="files")
    app.wait_line(ready, ready_seconds, "stdout")
    disk.fail("all", "EIO")
    t.equal(app.wait(60), 113, "A says that it handed the application over")
    t.equal(standby.wait(ready_seconds + 30), 0, "on B the application ended as it would have")
    t.check(re.search(r"handover.resumed", standby.stderr.text), "the first good I/O on B was seen")
    for process in (app, standby):
        t.check("FAIL" not in process.stdout.text, f"{process.host.name}: no error was seen")
    t.check("path-up-third exit 0" in disk.scripts_log(), "the third path was brought up")
    return app, standby, b


def compare(t, count, delay_ms, mib=0, **more):
    app, standby, b = hand_over(t, [*ledger.COMMAND, "/srv/first/db", str(count), str(delay_ms), str(mib)], rf"^wal {count // 4}$", **more)
    found = ledger.whole(t, b, "/srv/third/db", count, app.stdout.text + standby.stdout.text)
    b.run([*ledger.COMMAND, "--expect", "/srv/shared/expected", str(count), str(mib)], 120)
    expected = b.run([*ledger.COMMAND, "--verify", "/srv/shared/expected", str(count)], 60)
    t.equal(found, expected.stdout, "both are, byte by byte, those of an undisturbed run")
    return [int(line.split()[2]) for line in found.splitlines()]


def main(t):
    compare(t, COUNT, DELAY_MS)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
