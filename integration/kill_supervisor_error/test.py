"""The supervisor on A is killed at each step of the hand-over that a device error starts. Before the threads
are held the application dies with it, and its keeper brings all that was written to the second path; until
the commit the keeper takes the application back and it goes on there; after it the application runs on B."""

import re
import sys
from pathlib import Path

import harness
import written

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402

ROUNDS, DELAY_MS = 40, 20
SECOND, EXPECTED = "/srv/second", "/srv/shared/expected"
DIES = ["handover.1.error"]
BEFORE = ["handover.2.held", "handover.3.switch", "handover.4.replay", "handover.5.completed",
          "handover.6.prepare", "handover.7.park", "handover.8.dump", "handover.9.manifest", "handover.9.commit"]
AFTER = ["handover.10.end", "handover.11.wait"]


class FailingPair(steps.Pair):
    """The first path fails; the second is an honest one on A, the third one on B."""

    def __init__(self, t, number):
        self.t, self.rounds, self.standbys = t, ROUNDS, []
        self.a, self.b = t.host(f"a{number}"), t.host(f"b{number}")
        self.writer = str(t.guest_path("writer"))
        self.store = f"/srv/shared/images-{number}"
        (t.shared / f"images-{number}").mkdir()
        self.a.mkdir(SECOND)
        self.b.mkdir(steps.THIRD)
        self.disk = t.failing_disk("ext4")
        self.disk.mount_first(self.a, steps.FIRST)
        self.up2 = self.disk.path_up_script("second", SECOND)
        self.down2 = self.disk.path_down_script("second", SECOND)
        self.up3 = self.disk.path_up_script("third", steps.THIRD)

    def standby(self):
        one = self.b.supervise(["standby", "--name", "app", "--path", f"data={steps.THIRD}", "--path-up",
                                f"data={self.up3}", "--from", f"dir:{self.store}"], stdio="files", name="standby")
        one.wait_line("standby.ready", 20, "stderr")
        self.standbys.append(one)
        return one

    def start(self, point):
        down = f"if [ \"$SUPERVISE_REASON\" = handover ]; then {self.down2}; fi"
        self.app = self.a.supervise(["--name", "app", "--path", f"data={steps.FIRST},{SECOND}", "--path-up",
                                     f"data={self.up2}", "--path-down", f"data={down}", "--standby", f"dir:{self.store}",
                                     "--", self.writer, f"{steps.FIRST}/tree", str(ROUNDS), str(steps.SEED), "--delay",
                                     str(DELAY_MS)], stdio="files", name="origin",
                                    env={"SUPERVISE_FAULT_POINTS": f"{point}=kill"})
        self.app.wait_line("round 5", 30, "stdout")

    def lose_power(self):
        """A is gone, with all that was not durable; the tree as it is on the storage, on B."""
        self.standbys[0].signal(15)
        self.t.equal(self.standbys[0].wait(20), 143, "the standby ends when told")
        self.a.mounts.append(SECOND)
        self.a.power_off(crash=True)
        self.disk.mount_third(self.b, steps.THIRD)

    def compare(self):
        done = self.b.run([self.writer, "--compare", f"{steps.THIRD}/tree", EXPECTED], 60, check=False)
        self.t.equal(done.status, 0, f"the tree is what an undisturbed run makes {done.stdout[-300:] if done.status else ''}")
        for one in [self.app, *self.standbys]:
            self.t.check(not re.search(r"^(ERR|FAIL)", one.stdout.text, re.M), f"no error was seen ({one.name})")


def nobody_but(pair, where, what):
    pair.t.equal(pair.copies(), where, what)


def one(t, number, point):
    pair = FailingPair(t, number)
    standby = pair.standby()
    pair.start(point)
    pair.disk.fail("all", "EIO")
    harness.wait_until(lambda: pair.app.poll() is not None, 40, f"the supervisor is killed at {point}")
    t.equal(pair.app.poll(), 137, f"the supervisor is killed at {point}")
    if point in AFTER:
        pair.goes_on(standby, f"on B after {point}")
        nobody_but(pair, [pair.b.name], "it runs on B alone")
        t.equal(standby.wait(60), 0, "the application ends as it would have")
        pair.compare()
    elif point in BEFORE:
        pair.goes_on(pair.app, f"on A after {point}")
        nobody_but(pair, [pair.a.name], "it runs on A alone")
        # The keeper, too: it makes durable what the application did not.
        harness.wait_until(lambda: not any(name in ("writer", "supervise") for name, _ in pair.a.processes().values()), 60,
                           "the application ends")
        # What it said last may be read a moment after its end.
        harness.wait_until(lambda: re.search(rf"^done: {ROUNDS} rounds, 0 failures", pair.app.stdout.text, re.M), 10,
                           "it ends as it would have")
        pair.lose_power()
        pair.compare()
    else:
        harness.wait_until(lambda: not any(name in ("writer", "supervise") for name, _ in pair.a.processes().values()), 60,
                           "the application dies with its supervisor, the keeper is done")
        t.check("application.killed" in pair.app.stderr.text, "the log says so")
        nobody_but(pair, [], "it runs nowhere")
        pair.lose_power()
        last = pair.round_of(pair.app)
        for rounds in (last, last + 1):
            pair.b.run([pair.writer, "--expect", f"/srv/shared/{number}-{rounds}", str(rounds), str(steps.SEED)], 60)
        lacking = written.differences(pair.b.path(f"{steps.THIRD}/tree"), t.shared / f"{number}-{last}",
                                      t.shared / f"{number}-{last + 1}")
        t.equal(lacking, [], f"all that was written in {last} rounds is on the storage")
    pair.b.power_off()
    if pair.a.alive:
        pair.a.power_off()


def main(t):
    t.run([str(t.guest_path("writer")), "--expect", str(t.shared / "expected"), str(ROUNDS), str(steps.SEED)], 60)
    for number, point in enumerate(DIES + BEFORE + AFTER):
        t.say(f"--- {point}")
        one(t, number, point)


harness.run(main)
