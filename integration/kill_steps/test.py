"""Every step before the commit fails once, and CRIU is killed and hangs: each time the application goes on
where it was, and the log says why. The hand-over after all these succeeds."""

import re

import harness
import steps

POINTS = ["handover.6.prepare", "handover.7.park", "handover.8.dump", "criu.dump", "criu.dumped", "handover.9.manifest",
          "image.part", "image.parts", "image.manifest", "image.renamed", "image.synced", "handover.9.commit",
          "commit.before", "commit.linked", "commit.synced"]


def failed(pair, seen):
    """The one failure that the log tells since position `seen`: where it ends, and what it says."""
    match = pair.app.wait_line(r"handover.failed: (.*)\n", 10, "stderr", seen)
    pair.t.check(len(re.findall("handover.failed: ", pair.app.stderr.text[seen:])) == 1, "one failure, one message")
    return match.end(), match.group(1)


def main(t):
    pair = steps.Pair(t, rounds=200, delay=100)
    env = steps.criu_wrapper(t)
    pair.standby()
    pair.start(env, ",".join(f"{point}=fail" for point in POINTS))

    seen = 0
    for point in POINTS:
        done = pair.hand_over()
        t.check(done.status != 0, f"the hand-over fails at {point}: {done}")
        seen, why = failed(pair, seen)
        t.check(point in why, f"the log says so: {why}")
        pair.goes_on(pair.app, f"on A after {point}")

    for mode in ("kill-dump-0", "kill-dump-0.02", "kill-dump-0.1", "hang"):
        steps.criu_mode(t, mode)
        done = pair.hand_over()
        seen, why = failed(pair, seen)
        t.check(done.status != 0 and "criu dump" in why, f"CRIU, {mode}: {why}")
        pair.goes_on(pair.app, f"on A after CRIU, {mode}")

    done = pair.hand_over()
    t.equal(done.status, 0, "the last hand-over succeeds")
    t.equal(pair.app.wait(30), 113, "A has handed the application over")
    pair.goes_on(pair.standbys[0], "on B")
    pair.whole(pair.standbys[0].wait(90))


harness.run(main)
