"""What the standby scenarios share: an origin on host a whose images come from `supervise checkpoint`, a
standby on host b, and questions to both."""

import json
import re
import shutil

import harness

STORE, FIRST, THIRD, SEED = "/srv/shared/images", "/srv/first", "/srv/third", 5


class Pair:
    def __init__(self, t, rounds=40, delay=20):
        self.t, self.rounds, self.delay = t, rounds, delay
        for name in ("images", "data", "expected"):
            shutil.rmtree(t.shared / name, ignore_errors=True)
        for name in ("images", "data"):
            (t.shared / name).mkdir()
        self.a, self.b = t.host("a"), t.host("b")
        self.a.bind("/srv/shared/data", FIRST)
        self.b.bind("/srv/shared/data", THIRD)
        self.writer = str(t.guest_path("writer"))

    def ticker(self, *arguments, name="app"):
        """A guest without files."""
        self.app = self.a.supervise(["--name", name, "--images", STORE, "--", str(self.t.guest_path("ticker")), *arguments],
                                    stdio="files", name="origin")
        self.app.wait_line("ready", 30, "stdout")
        return self.app

    def origin(self):
        self.app = self.a.supervise(["--name", "app", "--path", f"data={FIRST}", "--images", STORE, "--",
                                     self.writer, f"{FIRST}/tree", str(self.rounds), str(SEED), "--delay",
                                     str(self.delay)], stdio="files", name="origin")
        self.app.wait_line("round 3", 30, "stdout")
        return self.app

    def checkpoint(self, *more):
        self.a.run([self.t.supervise_binary(), "checkpoint", "app", *more], 60)

    def standby(self, *more, env=None, ready="parked", stdio="files", name="app", activate="command"):
        return self.b.supervise(["standby", "--name", name, "--path", f"data={THIRD}", "--from", f"dir:{STORE}",
                                 "--ready", ready, "--activate", activate, *more], stdio=stdio, name="standby", env=env)

    def activate(self, name="app", check=True):
        done = self.b.run([self.t.supervise_binary(), "activate", name, "--json"], 60, check=check)
        return json.loads(done.stdout) if done.status == 0 else done

    def status(self, name="app"):
        done = self.b.run([self.t.supervise_binary(), "status", name, "--json"], 30)
        return json.loads(done.stdout)

    def guests(self, host, program="writer"):
        """{pid: state} of the guest's processes there, zombies aside."""
        return {pid: state for pid, (name, state) in host.processes().items() if name == program and state != "Z"}

    def whole(self):
        self.b.run([self.writer, "--expect", "/srv/shared/expected", str(self.rounds), str(SEED)], 60)
        done = self.b.run([self.writer, "--compare", f"{THIRD}/tree", "/srv/shared/expected"], 60, check=False)
        self.t.equal(done.status, 0, f"the tree is what an undisturbed run makes {done.stdout[-300:] if done.status else ''}")


def ticks(pids):
    """Processor time of these processes; it grows when anything of them runs."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        with open(f"/proc/{pid}/schedstat") as file:
            total += int(file.read().split()[0])
        total += int(fields[11]) + int(fields[12])
    return total


def rounds_of(process):
    return [int(n) for n in re.findall(r"round (\d+)", process.stdout.text)]


def empty(t, host, what, killed=False):
    """Nothing of a standby or its copies is left on the host. A killed one leaves its socket, which the next replaces."""
    try:
        harness.wait_until(lambda: not [p for p in host.processes().values() if p[1] != "Z"], 15, what)
    except TimeoutError:
        raise AssertionError(f"{what}: {host.processes()}") from None
    left = host.shell("ls -A /run/supervise 2>/dev/null | grep -v '\\.lock$' || true").stdout.split()
    t.equal([f for f in left if not (killed and f.endswith(".sock"))], [], f"{what}: and no file of it")
