"""The supervisor of an activated copy is killed: its keeper goes on with the application, and so on. The standby
follows whoever that is and ends with the application's status; the claim names each of them in turn. The same when the
standby is killed as well, when an image is taken in between, when another version adopts the copy, and as a container
has it, where the standby is the first process."""

import json
import re
import sys
from pathlib import Path

import harness

for folder in ("standby_parked", "adopt_support"):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / folder))
import adopt_support  # noqa: E402
from standby_support import STORE, Pair, empty, rounds_of  # noqa: E402

ROUNDS = 120


class Activated(Pair):
    """A copy of the writer that runs on host b; `image` is where its claim is."""

    def __init__(self, t, *more, ready="parked", origin=()):
        super().__init__(t, ROUNDS, 20)
        app = self.origin_with(origin)
        self.checkpoint("--stop")
        t.equal(app.wait(30), 113, "the origin has stopped with its image")
        self.running = self.standby(*more, ready=ready)
        self.running.wait_line("standby." + {"parked": "parked", "image": "verified"}[ready], 60, "stderr")
        self.image = Path(self.activate()["image"].replace("/srv/shared", str(t.shared), 1))
        self.supervisor = self.kept()
        self.goes_on()

    def origin_with(self, options):
        real = self.a.supervise
        self.a.supervise = lambda arguments, **more: real([*options, *arguments], **more)
        return self.origin()

    def kept(self):
        """The copy's supervisor, when its keeper stands. The name is nobody's for a moment."""
        harness.wait_until(lambda: self.b.run([self.t.supervise_binary(), "status", "app"], 30, check=False).status == 0 and
                           self.status()["supervisor_loss"] == "keep", 20, "a keeper stands")
        return self.status()["pid"]

    def goes_on(self):
        out = max(self.t.logs.glob("*-standby.out"), key=lambda p: int(p.name.split("-")[0]))
        before = out.read_text().count("round")
        harness.wait_until(lambda: out.read_text().count("round") > before + 1, 20, "the application goes on")

    def claim(self):
        return json.loads((self.image / "claim.json").read_text())

    def kill_supervisor(self, what, standby=False):
        keeper = self.status()["keeper"]
        if standby:
            self.b.run(["kill", "-9", str(self.b.shell("pgrep -o -x supervise").stdout.split()[0])], 10)
            self.t.equal(self.running.wait(20), 137, "the standby is killed as well")
        self.b.run(["kill", "-9", str(self.supervisor)], 10)
        harness.wait_until(lambda: self.claim()["owner"]["pid"] == keeper, 20, "the claim names the keeper")
        self.t.equal(self.kept(), keeper, f"{what}: the keeper is the supervisor")
        self.t.equal(self.claim()["state"], "running", "the claim says that it runs")
        self.goes_on()
        self.supervisor = keeper

    def ends(self, status=0, what="the standby ends with the application's status"):
        self.t.equal(self.running.wait(60), status, what)
        self.t.equal(self.claim()["state"], "ended", "the claim says that it is over")
        empty(self.t, self.b, "nothing is left", True)


def one_after_the_other(t, ready):
    one = Activated(t, ready=ready)
    for n in range(3):
        one.kill_supervisor(f"death {n + 1} of a copy that was {ready}")
    t.check("standby.taken_over" in one.running.stderr.text, "the standby tells of it")
    one.ends()
    one.whole()


def with_the_standby(t):
    one = Activated(t)
    one.kill_supervisor("after the standby", standby=True)
    one.kill_supervisor("and again")
    harness.wait_until(lambda: one.claim()["state"] == "ended", 60, "the claim says that it is over, without a standby")
    empty(t, one.b, "nothing is left without the standby", True)
    one.whole()


def signals_and_status(t):
    one = Activated(t)
    one.kill_supervisor("before a signal")
    one.running.signal(15)
    one.running.wait_line("application.first_process_ended", 20, "stderr")
    one.running.signal(15)  # to the rest
    one.ends(143, "what is sent to the standby comes to the application, and its status back")


def an_image_in_between(t):
    one = Activated(t)
    one.b.run([t.supervise_binary(), "checkpoint", "app"], 60)
    one.kill_supervisor("after an image of the copy")
    one.b.run([t.supervise_binary(), "checkpoint", "app"], 60)
    one.ends()
    one.whole()


def another_version(t):
    adopt_support.install_next_version(t)
    one = Activated(t)
    done = one.b.run([t.next_version, "adopt", "app", "--json"], 60)
    t.equal(json.loads(done.stdout)["pid"], one.supervisor, "another version adopts the copy, in the same process")
    program = one.b.run(["readlink", f"/proc/{one.supervisor}/exe"], 10).stdout
    t.check(program.startswith("/srv/shared/next/"), f"it is {program.strip()} that goes on")
    one.kept()
    one.goes_on()
    one.kill_supervisor("a successor's death")
    one.b.run([t.supervise_binary(), "adopt", "app"], 60)
    one.goes_on()
    one.ends()
    one.whole()


def without_a_keeper(t):
    one = Pair(t, ROUNDS, 20)
    Activated.origin_with(one, ["--supervisor-loss", "kill"]).wait_line("round 3", 30, "stdout")
    one.checkpoint("--stop")
    standby = one.standby()
    standby.wait_line("standby.parked", 60, "stderr")
    one.activate()
    harness.wait_until(lambda: rounds_of(standby), 20, "it runs")
    status = one.status()
    t.equal(status["supervisor_loss"], "kill", "what the origin was told goes for the copy, too")
    one.b.run(["kill", "-9", str(status["pid"])], 10)
    t.equal(standby.wait(20), 137, "without a keeper the application ends with its supervisor")
    empty(t, one.b, "nothing is left without a keeper", True)


def two_instances(t):
    one = Pair(t)
    origin = one.ticker("--ticks", "250")
    one.checkpoint("--stop")
    t.equal(origin.wait(30), 113, "the origin has stopped with its image")
    standby = one.standby("--instances", "2")
    harness.wait_until(lambda: standby.stderr.text.count("standby.parked") == 2, 60, "two copies are parked")
    image = Path(one.activate()["image"].replace("/srv/shared", str(t.shared), 1))
    one.activate()
    for number in (2, 1, 2):
        name = f"app-{number}"
        harness.wait_until(lambda: one.b.run([t.supervise_binary(), "status", name], 30, check=False).status == 0 and
                           one.status(name)["supervisor_loss"] == "keep", 20, "a keeper stands")
        before = one.status(name)
        one.b.run(["kill", "-9", str(before["pid"])], 10)
        harness.wait_until(lambda: f"pid\":{before['keeper']}" in (image / ("claim-2.json" if number == 2 else "claim.json"))
                           .read_text().replace(" ", ""), 20, f"the claim of instance {number} names its keeper")
    t.equal(standby.wait(60), 0, "the standby ends when both have ended")
    last = re.findall(r"^tick 250 pid \d+$", standby.stdout.text, re.M)
    t.equal(len(last), 2, "both have come to their end")
    empty(t, one.b, "nothing is left of two instances", True)


def as_in_a_container(t):
    """The standby is the first process: what a dead supervisor leaves is its child."""
    one = Pair(t)
    origin = one.ticker("--ticks", "150")
    one.checkpoint("--stop")
    t.equal(origin.wait(30), 113, "the origin has stopped with its image")
    standby = one.b.start(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", t.supervise_binary(), "standby", "--name", "app",
                           "--from", f"dir:{STORE}", "--ready", "parked", "--activate", "command"], stdio="files", name="standby")
    standby.wait_line("standby.parked", 60, "stderr")
    first = one.b.shell("pgrep -o -x supervise").stdout.split()[0]
    inside = ["nsenter", "-t", first, "-p", "-m"]
    ask = [*inside, t.supervise_binary()]
    one.b.run([*ask, "activate", "app"], 30)
    t.equal(one.b.run([*inside, "cat", "/proc/1/comm"], 10).stdout, "supervise\n", "the standby is process 1")
    for n in range(3):
        def asked():
            done = one.b.run([*ask, "status", "app", "--json"], 30, check=False)
            return json.loads(done.stdout) if done.status == 0 else {}
        harness.wait_until(lambda: asked().get("supervisor_loss") == "keep", 20, "a keeper stands")
        before = asked()
        one.b.run([*inside, "kill", "-9", str(before["pid"])], 10)
        harness.wait_until(lambda: asked().get("pid") == before["keeper"], 20, f"the keeper goes on in a container, death {n + 1}")
    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    harness.wait_until(lambda: one.b.run([*inside, "sh", "-c", zombies], 10).stdout == "0\n", 10, "no zombie is left behind")
    t.equal(standby.wait(60), 0, "it ends with the application's status")
    t.check(re.search(r"^tick 150 pid", standby.stdout.text, re.M), "which has come to its end")
    empty(t, one.b, "nothing is left in a container", True)


def main(t):
    one_after_the_other(t, "parked")
    one_after_the_other(t, "image")
    with_the_standby(t)
    signals_and_status(t)
    an_image_in_between(t)
    another_version(t)
    without_a_keeper(t)
    two_instances(t)
    as_in_a_container(t)


harness.run(main)
