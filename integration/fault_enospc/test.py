"""A full file system and an exhausted quota: the writer is held until there is room, and then goes on with
exactly its bytes; when the time of `wait` is over, it is told the error."""

import sys
import time
from pathlib import Path

import harness

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from fill import chunk  # noqa: E402

CHUNKS = 40


def held(t, host, directory, errno, make_room):
    app = host.supervise(["--name", "app", "--path", f"data={directory}", "--", "/usr/bin/python3", str(HERE / "fill.py"),
                          directory, str(CHUNKS)], stdio="files")
    app.wait_line(f"failed with {errno}", 30, "stderr")
    time.sleep(0.3)
    before = app.stdout.text
    time.sleep(0.7)
    t.equal((app.stdout.text, app.poll()), (before, None), f"{errno}: the writer is held, and told nothing")
    make_room()
    t.equal(app.wait(30), 0, f"{errno}: with room it goes on to its end")
    t.check("short" not in app.stdout.text, f"{errno}: no write was short")
    content = host.path(f"{directory}/file").read_bytes()
    t.check(content == b"".join(map(chunk, range(CHUNKS))), f"{errno}: its bytes are there exactly once")


def main(t):
    host = t.host("a")
    small = harness.SmallFileSystem(t, host, "/srv/small")
    small.fill(leave=700_000)
    held(t, host, "/srv/small", "ENOSPC", small.free)

    tiny = harness.SmallFileSystem(t, host, "/srv/tmpfs", "tmpfs", "6M")
    tiny.fill(leave=300_000)
    held(t, host, "/srv/tmpfs", "ENOSPC", tiny.free)
    host.shell("rm /srv/tmpfs/file")
    tiny.fill(leave=100_000)
    app = host.supervise(["--name", "app", "--path", "data=/srv/tmpfs", "--on", "data:write:ENOSPC=wait(1s),report", "--",
                          "/usr/bin/python3", str(HERE / "fill.py"), "/srv/tmpfs", str(CHUNKS)], stdio="files")
    began = time.monotonic()
    t.equal(app.wait(30), 1, "the application's own exit status after an error")
    # As without a supervisor: what still fitted is told first, the error with the rest.
    t.check("short" in app.stdout.text and "got ENOSPC" in app.stdout.text, "it was told ENOSPC")
    t.check(time.monotonic() - began >= 1, "after the time of wait, not earlier")
    t.check("error.reported" in app.stderr.text, "the log says so")

    limited = harness.SmallFileSystem(t, host, "/srv/quota", "btrfs", "128M")
    t.check(limited.loop, "btrfs is on a loop device")
    host.shell("btrfs quota enable /srv/quota && btrfs qgroup limit 1M 0/5 /srv/quota && sync -f /srv/quota")
    held(t, host, "/srv/quota", "EDQUOT", lambda: host.shell("btrfs qgroup limit none 0/5 /srv/quota"))


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
