"""A FUSE file system with a write-back cache fails, or its daemon dies; the directory below it is the
second path, on which what was not written back is truly absent."""

import sys
from pathlib import Path

import harness

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fault_shutdown.test import fail_over  # noqa: E402


def main(t):
    for what in ("EIO", "EREMOTEIO", "killed"):
        host = t.host(what.lower())
        directory = harness.FuseDirectory(t, host, "/srv/first", writeback=True)
        directory.mount_direct(host, "/srv/second")
        app = fail_over(t, host, "/srv/first",
                        directory.kill_daemon if what == "killed" else lambda: directory.fail("all", what))
        # What is written back later fails with EIO, whatever the server said.
        wanted = "ENOTCONN|ECONNABORTED|EIO" if what == "killed" else f"{what}|EIO"
        app.wait_line(f"failed with ({wanted})", 1, "stderr")
        host.umount("/srv/first")
        t.say(f"ok: {what}: nothing keeps the first path busy")


if __name__ == "__main__":
    harness.run(main)
