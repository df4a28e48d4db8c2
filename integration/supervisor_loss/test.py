"""The supervisor is killed again and again at random moments, and so is the keeper that took its place, and the
next one. The application sees nothing of it; after that a device that fails is still recovered from. Without
--supervisor-loss keep, and when supervisor and keeper die at once, the application is killed with them."""

import json
import random
import re
import sys
import time

import harness
from harness import ledger as sqlite_ledger

FIRST, SECOND = "/srv/first", "/srv/second"
ROUNDS, SEED = 60, 7
TRANSACTIONS = 40


class Supervised:
    """One host with a device that can fail, and an application on it."""

    def __init__(self, t, name, command, options=(), place=None):
        self.t, self.host, self.name = t, t.host(name), name
        self.host.mkdir(SECOND)
        self.disk = t.failing_disk("ext4")
        self.disk.mount_first(self.host, FIRST)
        self.chance = random.Random(name)
        self.kills = 0
        if place:  # the device is small
            self.host.mkdir(place)
            options = [*options, "--path", f"large={place}"]
        up = self.disk.path_up_script("second", SECOND)
        self.app = self.host.supervise(["--name", "app", "--path", f"data={FIRST},{SECOND}", "--path-up", f"data={up}",
                                        *options, "--", *command], stdio="files", name=name)

    def status(self):
        done = self.host.run([self.t.supervise_binary(), "status", "app", "--json"], 30, check=False)
        return json.loads(done.stdout) if done.status == 0 else None

    def keeping(self, former=0):
        """The status, once a supervisor that is not `former` has a keeper."""
        found = []

        def there():
            found[:] = [self.status()]
            return not self.running() or (found[0] and found[0]["pid"] != former and found[0]["keeper"] > 0)
        harness.wait_until(there, 60, "a supervisor with a keeper")
        return found[0]

    def kill(self, pid):
        self.host.run(["kill", "-KILL", str(pid)], 10, check=False)

    def lose(self, pauses):
        """Kills the supervisor of the moment after each of these seconds."""
        former = 0
        for pause in pauses:
            now = self.keeping(former)
            if not now or not self.running():
                break
            time.sleep(self.chance.uniform(0, pause))
            former = now["pid"]
            self.kill(former)
            self.kills += 1
        return former

    def running(self):
        own = ("supervise", "supervise-keep", "supervise-init", "hostinit", "kill")
        names = [name for name, _ in self.host.processes().values()]
        return any(name.startswith("supervise") for name in names) and any(name not in own for name in names)

    def finish(self, seconds=120):
        def gone():
            return not any(name.startswith("supervise") for name, _ in self.host.processes().values())
        harness.wait_until(gone, seconds, f"{self.name} ends, its last supervisor too")
        bad = re.findall(r"^(?:FAIL|ERR|Traceback).*", self.app.stdout.text + self.app.stderr.text, re.M)
        self.t.equal(bad, [], f"{self.name}: no error was seen after {self.kills} deaths")
        taken = len(re.findall("supervisor.taken_over", self.app.stderr.text))
        self.t.check(taken >= min(self.kills, 1), f"{self.name}: {taken} keepers took over")

    def fail(self):
        self.disk.fail("all", "EIO")
        self.app.wait_line("path.switched", 60, "stderr")


def stress(t):
    """Threads, forks, signals, cancellations, jumps out of handlers."""
    one = Supervised(t, "stress", [str(t.guest_path("stub_stress")), "/srv/large", "--outside", "/tmp", "--seconds", "2"],
                     place="/srv/large")
    one.lose([0.6] * 30)
    one.finish()
    parts = re.findall(r"^ok +(\w+)", one.app.stdout.text, re.M)
    t.equal(len(set(parts)), 13, f"each part was well: {parts}")
    one.host.power_off()


def writer(t):
    """What it writes is compared with an undisturbed run, on the second path."""
    program = str(t.guest_path("writer"))
    t.run([program, "--expect", str(t.shared / "expected"), str(ROUNDS), str(SEED)], 60)
    one = Supervised(t, "writer", [program, f"{FIRST}/tree", str(ROUNDS), str(SEED), "--delay", "100"])
    one.app.wait_line("round 2", 30, "stdout")
    one.lose([0.5] * 6)
    now = one.keeping()
    keeper = now["keeper"]
    one.kill(keeper)  # the keeper alone: another one stands
    harness.wait_until(lambda: (one.status() or {}).get("keeper", keeper) not in (0, keeper), 30, "a new keeper")
    one.fail()
    one.lose([0.5] * 3)  # over the second path, too
    one.finish()
    t.check(re.search(rf"^done: {ROUNDS} rounds, 0 failures", one.app.stdout.text, re.M), "the writer ends as it would have")
    done = one.host.run([program, "--compare", f"{SECOND}/tree", "/srv/shared/expected"], 60, check=False)
    t.equal(done.status, 0, f"the tree is whole {done.stdout[-300:] if done.status else ''}")
    one.host.power_off()


def ledger(t):
    """Two SQLite databases, one process each."""
    one = Supervised(t, "ledger", [*sqlite_ledger.COMMAND, f"{FIRST}/db", str(TRANSACTIONS), "100"])
    one.app.wait_line("^wal 2$", 60, "stdout")
    one.lose([0.4] * 6)
    one.keeping()
    one.fail()
    one.finish()
    sqlite_ledger.whole(t, one.host, f"{SECOND}/db", TRANSACTIONS, one.app.stdout.text)
    one.host.power_off()


def killed(t, options, both):
    """The application must not go on without anybody who watches it."""
    one = Supervised(t, "both" if both else "kill", [str(t.guest_path("writer")), f"{FIRST}/tree", "1000", "1", "--delay", "20"],
                     options)
    one.app.wait_line("round 2", 30, "stdout")
    now = one.keeping() if both else one.status()
    one.host.run(["kill", "-KILL", *([str(now["keeper"])] if both else []), str(now["pid"])], 10)
    t.equal(one.app.wait(30), 137, "the supervisor is killed")
    harness.wait_until(lambda: not any(n.startswith(("writer", "supervise")) for n, _ in one.host.processes().values()), 30,
                       "the application is killed, too")
    one.host.power_off()


def main(t):
    for part in (stress, writer, ledger):
        t.say(f"--- {part.__name__}")
        part(t)
    t.say("--- killed")
    killed(t, ["--supervisor-loss", "kill"], False)
    killed(t, [], True)


harness.run(main)
