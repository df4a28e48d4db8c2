"""The image store has no room for an image: the application goes on, the log says that the store is full, which one,
and how much is needed and free; nothing of the attempt stays. With room again the hand-over succeeds."""

import os
import re
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402

STORE = "/srv/store"
FULL = (rf"the image store {STORE}/app is full: an image needs about (\d+\.\d) MiB there, "
        r"(\d+\.\d) MiB were free.*ENOSPC")


def main(t):
    pair = steps.Pair(t, rounds=60, delay=50, store=STORE)
    small = harness.SmallFileSystem(t, pair.a, STORE, "ext4", "32M")
    pair.b.mount(small.loop.path, STORE, "ext4")  # the same file system, as a shared one would be
    standby = pair.standby()
    pair.start()

    for kib in (1500, 160, 0):
        fill(pair.a.path(STORE), kib << 10)
        seen = len(pair.app.stderr.text)
        done = pair.hand_over()
        t.check(done.status != 0, f"the hand-over fails with {kib} KiB of room")
        why = pair.app.wait_line(r"handover.failed: (.*)\n", 10, "stderr", seen).group(1)
        said = re.search(FULL, why)
        t.check(said or (kib == 0 and STORE in why and "ENOSPC" in why), f"the log says that the store is full: {why}")
        t.check(not said or float(said.group(1)) > float(said.group(2)), "and that it needs more than there is")
        left = [name for name in os.listdir(pair.a.path(f"{STORE}/app")) if re.match(r"gen-|\.tmp|\.new|draft", name)]
        t.equal(left, [], "nothing of the attempt stays")
        pair.goes_on(pair.app, f"on A with {kib} KiB of room")

    pair.a.path(f"{STORE}/filler").unlink()
    done = pair.hand_over()
    t.equal(done.status, 0, f"with room it succeeds {done.stderr}")
    t.equal(pair.app.wait(30), 113, "A has handed the application over")
    pair.goes_on(standby, "on B")
    pair.whole(standby.wait(60))


def fill(store, room):
    """Leaves about `room` bytes free."""
    with open(store / "filler", "ab") as file:
        while True:
            fs = os.statvfs(store)
            left = fs.f_bavail * fs.f_frsize - room
            if left <= 0:
                return
            try:
                file.write(b"x" * min(left, 1 << 20))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                return


harness.run(main)
