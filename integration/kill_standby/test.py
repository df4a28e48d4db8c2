"""The standby is killed at each of its steps, a new one is started, and the application runs there once;
CRIU is killed and hangs at the restore."""

import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402


def one(t, point, mode=""):
    with_new = point.split("=")[0]
    for name in ("images", "data", "expected"):
        harness_clean(t, name)
    pair = steps.Pair(t, rounds=50, delay=10)
    env = steps.criu_wrapper(t)
    first = pair.standby("" if mode else f"{point}=kill", env)
    pair.start(env)
    if mode:
        steps.criu_mode(t, mode)
    asked = pair.ask()
    last = first
    if not mode:
        t.equal(first.wait(40), 137, f"the standby is killed at {with_new}")
        t.check(len(pair.copies()) <= 1, f"at most one copy runs after {with_new}")
        last = pair.standby("", env)
    t.equal(asked.wait(60), 0, f"the hand-over is completed ({point or mode})")
    t.equal(pair.app.wait(60), 113, "A has handed the application over")
    pair.goes_on(last, f"on B after {point or mode}")
    pair.whole(last.wait(60))
    for host in (pair.a, pair.b):
        host.power_off()


def harness_clean(t, name):
    import shutil
    shutil.rmtree(t.shared / name, ignore_errors=True)


def main(t):
    for point in ("standby.prepare", "standby.verify", "handover.11.claimed", "handover.11.world", "criu.restore",
                  "criu.restored", "handover.11.restored"):
        t.say(f"--- {point}")
        one(t, point)
    for mode in ("kill-restore-0.05", "hang-restore"):
        t.say(f"--- CRIU: {mode}")
        one(t, "", mode)


harness.run(main)
