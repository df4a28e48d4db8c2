"""The supervisor on A is killed at each step of a planned hand-over. Before the commit its keeper takes the
application back and it goes on on A; after it the application runs on B. One copy, and the data is whole."""

import re
import shutil
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402

BEFORE = ["handover.6.prepare", "handover.7.park", "handover.8.dump", "criu.dumped", "handover.9.manifest", "image.renamed",
          "handover.9.commit", "commit.before"]
AFTER = ["commit.linked", "handover.10.end", "handover.11.wait"]


def one(t, point, after):
    for name in ("images", "data", "expected"):
        shutil.rmtree(t.shared / name, ignore_errors=True)
    pair = steps.Pair(t, rounds=40, delay=30)
    standby = pair.standby()
    pair.start(points=f"{point}=kill")
    asked = pair.ask()
    # Not wait(): what the application says afterwards is still to be read.
    harness.wait_until(lambda: pair.app.poll() is not None, 30, f"the supervisor is killed at {point}")
    t.equal(pair.app.poll(), 137, f"the supervisor is killed at {point}")
    t.check(asked.wait(30) != 0, "who asked for the hand-over is told that it is gone")
    if point == "commit.linked":  # whoever is first: the standby's claim, or the keeper who takes the commit back
        harness.wait_until(lambda: re.search("after the commit|takes the application back", pair.app.stderr.text), 30,
                           "it is decided")
        after = "after the commit" in pair.app.stderr.text
    if after:
        pair.goes_on(standby, f"on B after {point}")
        pair.whole(standby.wait(60))
    else:
        pair.goes_on(pair.app, f"on A after {point}")
        harness.wait_until(lambda: not pair.copies(), 60, "the application ends")
        pair.whole(0)
    for host in (pair.a, pair.b):
        host.power_off()


def main(t):
    for point in BEFORE + AFTER:
        t.say(f"--- {point}")
        one(t, point, point in AFTER)


harness.run(main)
