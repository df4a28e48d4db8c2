"""A hand-over across the network with something that ends at each step: the process that sends, the one that receives, the
standby, the supervisor itself, the link. Afterwards one copy runs, and the tree is that of an undisturbed run."""

import shutil
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402

PORT = 7410
KEYS = "/srv/shared/keys"
ONCE = "/srv/shared/once"


class NetPair(steps.Pair):
    def __init__(self, t, number):
        self.t, self.rounds, self.delay = t, 60, 25
        self.a, self.b = t.host(f"a{number}"), t.host(f"b{number}")
        self.here, self.there = t.network(self.a, self.b)
        if not (t.shared / "keys").exists():
            self.a.run([t.supervise_binary(), "keys", KEYS, self.here, self.there])
        shutil.rmtree(t.shared / "expected", ignore_errors=True)
        data = f"data-{number}"
        (t.shared / data).mkdir()
        self.a.bind(f"/srv/shared/{data}", steps.FIRST)
        self.b.bind(f"/srv/shared/{data}", steps.THIRD)
        self.standbys, self.writer = [], str(t.guest_path("writer"))

    def start(self, points=""):
        self.app = self.a.supervise(["--name", "app", "--path", f"data={steps.FIRST}", "--standby", f"{self.there}:{PORT}", "--tls",
                                     f"{KEYS}/{self.here}", "--images", "/srv/images", "--", self.writer, f"{steps.FIRST}/tree",
                                     str(self.rounds), str(steps.SEED), "--delay", str(self.delay)], stdio="files",
                                    name="origin", env=steps._points(points))
        self.app.wait_line("round 3", 30, "stdout")

    def standby(self, points=""):
        one = self.b.supervise(["standby", "--name", "app", "--path", f"data={steps.THIRD}", "--listen", f"{self.there}:{PORT}",
                                "--tls", f"{KEYS}/{self.there}", "--images", "/srv/images"], stdio="files",
                               name=f"standby-{len(self.standbys)}", env=steps._points(points))
        one.wait_line("standby.ready", 20, "stderr")
        self.standbys.append(one)
        return one

    def ends_on_b(self, what):
        self.t.equal(self.app.wait(60), 113, f"A has handed the application over: {what}")
        status = self.standbys[-1].wait(90)
        self.whole(status)

    def goes_on_here(self, what):
        """It was not handed over; the next hand-over succeeds."""
        self.goes_on(self.app, f"on A: {what}")
        for one in self.standbys:
            if one.poll() is None:
                one.signal(15)
                one.wait(20)
        self.standby()
        self.t.equal(self.hand_over().status, 0, "the next hand-over succeeds")
        self.ends_on_b(what)


def arm(t):
    (t.shared / "once").write_text("")


# Ended once and tried again: the hand-over succeeds.
GOES_THROUGH = [("A", "ship.data@2=fail:"), ("B", "receive.data@3=kill:"), ("B", "receive.whole=kill:"),
                ("B", "receive.finished=kill:"), ("B", "receive.commit=kill:"), ("B", "receive.committed=kill:")]
# The hand-over fails; the application goes on on A.
GOES_BACK = [("A", "ship.data@2=kill:"), ("A", "ship.finish=kill:"), ("B", "receive.data@2=fail:")]


def main(t):
    number = 0
    for where, point in GOES_THROUGH + GOES_BACK:
        number += 1
        arm(t)
        pair = NetPair(t, number)
        pair.standby(point + ONCE if where == "B" else "")
        pair.start(point + ONCE if where == "A" else "")
        done = pair.hand_over()
        t.check(not (t.shared / "once").exists(), f"{point} was reached on {where}")
        if (where, point) in GOES_THROUGH:
            t.equal(done.status, 0, f"the hand-over succeeds in spite of {point}")
            pair.ends_on_b(point)
        else:
            t.check(done.status != 0, f"the hand-over fails at {point}")
            pair.goes_on_here(point)
        pair.a.power_off()
        pair.b.power_off()

    # The supervisor dies: before the commit its keeper takes the application back, after it the keeper ends it.
    for point, handed in (("handover.9.commit", False), ("handover.9.asked", False), ("handover.10.end", True)):
        number += 1
        pair = NetPair(t, number)
        pair.standby()
        pair.start(f"{point}=kill")
        pair.hand_over()
        if handed:
            pair.goes_on(pair.standbys[0], f"on B after {point}")
            pair.whole(pair.standbys[0].wait(90))
        else:
            pair.goes_on(pair.app, f"on A after {point}")
            # A killed supervisor's keeper has no exit status to give to who started it.
            harness.wait_until(lambda: not pair.copies(), 60, "the application ends")
            pair.standbys[0].signal(15)
            t.equal(pair.standbys[0].wait(20), 143, "the standby ends when told")
            pair.whole(0)
        pair.a.power_off()
        pair.b.power_off()

    # The standby's host is lost while the commit is in doubt: neither runs it until the answer is known.
    number += 1
    arm(t)
    pair = NetPair(t, number)
    pair.standby("receive.commit=hang:" + ONCE)
    pair.start()
    asked = pair.ask()
    harness.wait_until(lambda: not (t.shared / "once").exists(), 30, "B was asked to commit")
    pair.standbys[0].signal(9)
    pair.standbys[0].wait(20)
    pair.app.wait_line("handover.in_doubt", 60, "stderr")
    rounds = pair.round_of(pair.app)
    pair.standby()
    pair.ends_on_b("B was away while the commit was in doubt")
    t.equal(pair.round_of(pair.app), rounds, "it did not run on A meanwhile")
    asked.wait(20)


harness.run(main)
