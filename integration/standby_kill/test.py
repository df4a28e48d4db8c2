"""The standby is killed outright while it verifies, restores, parks, claims and wakes, and its helpers are: nothing
is left, and the next standby starts clean and can be activated. After the activation the application goes on
without the standby, and so does the command of --on-activate."""

import time
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standby_parked"))
from standby_support import STORE, Pair, empty, rounds_of  # noqa: E402

LOOKING = ("standby.look", "standby.verified", "handover.11.world", "criu.restore", "criu.restored", "handover.11.restored",
           "standby.parked")
WAKING = ("slot.before", "slot.linked", "standby.wake")


def kill_at(t, pair, point):
    standby = pair.standby(env={"SUPERVISE_FAULT_POINTS": f"{point}=hang"})
    standby.wait_line("standby.ready", 20, "stderr")
    if point in WAKING:
        standby.wait_line(r"standby\.parked", 60, "stderr")
        pair.b.start([t.supervise_binary(), "activate", "app"], name="activate")
    time.sleep(0.4)
    standby.kill()
    t.equal(standby.wait(20), 137, f"the standby is killed at {point}")
    empty(t, pair.b, f"nothing is left after {point}", True)


def main(t):
    pair = Pair(t, rounds=100)
    app = pair.origin()
    pair.checkpoint("--stop")
    t.equal(app.wait(30), 113, "the origin has stopped with its image")
    for point in LOOKING + WAKING:
        kill_at(t, pair, point)
    for delay in (10, 25, 40, 55, 65, 75, 85, 95, 105, 120, 140, 160, 200):
        standby = pair.standby()
        time.sleep(delay / 1000)
        standby.kill()
        standby.wait(20)
        empty(t, pair.b, f"nothing is left after a kill {delay} ms from the start", True)

    for point in ("standby.verified", "standby.parked"):
        standby = pair.standby(env={"SUPERVISE_FAULT_POINTS": f"{point}=kill"})
        line = standby.wait_line(r"standby\.refused.*", 60, "stderr").group(0)
        t.check("ended 3 times" in line, f"a copy that always ends at {point} is given up")
        t.equal(pair.activate(check=False).status, 1, "and not activated")
        standby.signal(15)
        t.equal(standby.wait(20), 143, "the standby itself goes on until it is told")
        empty(t, pair.b, f"nothing is left ({point})")
    hook, go = t.shared / "hook", t.shared / "go"
    standby = pair.standby("--on-activate", f"echo begun > {STORE}/../hook; until [ -e {STORE}/../go ]; do sleep 0.02; done; "
                           f"echo ended >> {STORE}/../hook", env={"SUPERVISE_FAULT_POINTS": "slot.linked=kill"})
    standby.wait_line(r"standby\.parked", 60, "stderr")
    pair.activate()
    standby.wait_line("round", 20, "stdout")
    t.check(True, "a helper that dies in the middle of a claim is replaced, and the claim is found")
    before = rounds_of(standby)[-1]
    harness.wait_until(lambda: hook.exists() and hook.read_text() == "begun\n", 20, "the command of --on-activate runs")
    pid = pair.status()["pid"]
    pair.b.run(["kill", "-9", str(pair.b.shell("pgrep -o -x supervise").stdout.split()[0])], 10)
    t.equal(standby.wait(20), 137, "the standby is killed after the activation")
    out = max(t.logs.glob("*-standby.out"), key=lambda p: int(p.name.split("-")[0]))
    harness.wait_until(lambda: f"round {before + 3}\n" in out.read_text(), 20, "the application goes on without it")
    t.equal(pair.status()["pid"], pid, "and is still supervised")
    go.touch()
    harness.wait_until(lambda: hook.read_text() == "begun\nended\n", 20, "the command of --on-activate comes to its end, too")
    harness.wait_until(lambda: not pair.guests(pair.b), 60, "to its end")
    pair.whole()
    empty(t, pair.b, "nothing is left in the end", True)


harness.run(main)
