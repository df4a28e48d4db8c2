"""`supervise adopt`: another version of the program takes a running application over, many times, in the same process.
The application sees nothing of it, and a device that fails afterwards is recovered from. A version that
can't take it over, or dies in the middle of it, leaves the application with the one before, or its keeper."""

import json
import re
import shutil
from pathlib import Path

import harness
from harness import ledger as sqlite_ledger

FIRST, SECOND = "/srv/first", "/srv/second"
ROUNDS, SEED = 60, 7
TRANSACTIONS = 40
MAGIC, VERSION_AT = b"supestub", 8  # tracer/stub/layout.h: Process


class Supervised:
    """One host with a device that can fail, and an application on it."""

    def __init__(self, t, name, command, options=(), place=None, **more):
        self.t, self.name, self.host = t, name, t.host(name)
        self.host.mkdir(SECOND)
        self.disk = t.failing_disk("ext4")
        self.disk.mount_first(self.host, FIRST)
        if place:  # the device is small
            self.host.mkdir(place)
            options = [*options, "--path", f"large={place}"]
        up = self.disk.path_up_script("second", SECOND)
        self.app = self.host.supervise(["--name", "app", "--path", f"data={FIRST},{SECOND}", "--path-up", f"data={up}",
                                        *options, "--", *command], name=name, **{"stdio": "files", **more})
        self.versions = [t.supervise_binary(), t.next_version]
        self.adoptions = 0

    def status(self):
        done = self.host.run([self.t.supervise_binary(), "status", "app", "--json"], 30)
        return json.loads(done.stdout)

    def program(self):
        return self.host.run(["readlink", f"/proc/{self.status()['pid']}/exe"], 10).stdout.strip()

    def adopt(self, check=True):
        """By the other of the two versions; what it says."""
        self.adoptions += 1
        done = self.host.run([self.versions[self.adoptions % 2], "adopt", "app", "--json"], 60, check=False)
        if check and done.status != 0:
            raise AssertionError(f"adopt ends with {done.status}: {done.stderr}")
        return done

    def adopt_often(self, times):
        for _ in range(times):
            if self.app.poll() is not None:
                break
            pid = self.status()["pid"]
            answer = json.loads(self.adopt().stdout)
            if answer["pid"] != pid:
                raise AssertionError(f"process {answer['pid']} goes on in place of {pid}")
            if not self.program().startswith(str(Path(self.versions[self.adoptions % 2]).parent.parent)):
                raise AssertionError(f"it is {self.program()} that goes on")

    def fail(self):
        self.disk.fail("all", "EIO")
        harness.wait_until(lambda: "path.switched" in self.app.stderr.text, 60, "the path is switched")

    def well(self, status=0):
        self.t.equal(self.app.wait(120), status, f"{self.name}: the application's own exit status, after {self.adoptions} adoptions")
        self.t.equal(re.findall(r"^(?:FAIL|ERR|Traceback).*", self.app.stdout.text + self.app.stderr.text, re.M), [],
                     f"{self.name}: no error was seen")


def stress(t):
    """Threads, forks, signals, cancellations, jumps out of handlers."""
    one = Supervised(t, "stress", [str(t.guest_path("stub_stress")), "/srv/large", "--outside", "/tmp", "--seconds", "2"],
                     place="/srv/large")
    one.app.wait_line("^ok", 60, "stdout")
    one.adopt_often(20)
    one.well()
    t.equal(len(set(re.findall(r"^ok +(\w+)", one.app.stdout.text, re.M))), 13, "each part was well")
    one.host.power_off()


def writer(t):
    """What it writes is compared with an undisturbed run, on the second path."""
    program = str(t.guest_path("writer"))
    t.run([program, "--expect", str(t.shared / "expected"), str(ROUNDS), str(SEED)], 60)
    one = Supervised(t, "writer", [program, f"{FIRST}/tree", str(ROUNDS), str(SEED), "--delay", "100"])
    one.app.wait_line("round 2", 30, "stdout")
    one.adopt_often(5)
    one.fail()
    one.adopt_often(5)  # over the second path, too
    now = one.status()
    t.equal((now["paths"][0]["health"], now["paths"][0]["switches"]), ("on alternate", 1), "what it knew of the path goes along")
    whole(t, one, program)


def whole(t, one, program):
    one.well()
    t.check(re.search(rf"^done: {ROUNDS} rounds, 0 failures", one.app.stdout.text, re.M), "the writer ends as it would have")
    done = one.host.run([program, "--compare", f"{SECOND}/tree", "/srv/shared/expected"], 60, check=False)
    t.equal(done.status, 0, f"the tree is whole {done.stdout[-300:] if done.status else ''}")
    one.host.power_off()


def ledger(t):
    """Two SQLite databases, one process each; then the supervisor is killed: the keeper is the new version's."""
    one = Supervised(t, "ledger", [*sqlite_ledger.COMMAND, f"{FIRST}/db", str(TRANSACTIONS), "100"])
    one.app.wait_line("^wal 2$", 60, "stdout")
    one.adopt_often(5)
    harness.wait_until(lambda: one.status()["keeper"] > 0, 30, "a keeper stands")
    now = one.status()
    one.host.run(["kill", "-KILL", str(now["pid"])], 10)
    harness.wait_until(lambda: re.search("supervisor.taken_over", one.app.stderr.text), 30, "the keeper takes over")
    one.fail()
    harness.wait_until(lambda: not any(n.startswith("supervise") for n, _ in one.host.processes().values()), 120, "all ends")
    sqlite_ledger.whole(t, one.host, f"{SECOND}/db", TRANSACTIONS, one.app.stdout.text)
    one.host.power_off()


def terminal(t):
    """An interactive shell keeps its terminal, its jobs and its exit status."""
    one = Supervised(t, "terminal", ["bash", "--norc", "--noprofile", "-i"], stdio="tty", env={"PS1": "ready> ", "HISTFILE": ""})

    def step(text, pattern):
        start = len(one.app.stdout.text)
        one.app.write(text)
        if not one.app.stdout.search(pattern, 15, start):
            raise AssertionError(f"{text!r}: {pattern!r} never came, but {one.app.stdout.text[start:]!r}")

    step("", "ready> ")
    step("sleep 77\n", "sleep 77")
    one.adopt_often(1)
    step("\x1a", "Stopped")
    one.adopt_often(2)  # a process that the application itself has stopped
    step("fg\n", "sleep 77")
    step("\x03", "ready> ")
    step("kill -l | head -1 | cut -c1-12; stty size\n", r"1\) SIGHUP[^$]*\d+ \d+")
    one.app.write("exit 7\n")
    t.equal(one.app.wait(30), 7, "the shell's exit status")
    one.host.power_off()


def failing(t):
    """Each step of it fails, or is the last one of its supervisor."""
    program = str(t.guest_path("writer"))
    points = [f"adopt.{step}" for step in ("park", "exec", "begin", "taken")]
    for point in points:
        once = "/srv/once"
        one = Supervised(t, point, [program, f"{FIRST}/tree", str(ROUNDS), str(SEED), "--delay", "50"],
                         env={"SUPERVISE_FAULT_POINTS": f"{point}=fail:{once}"})
        one.host.path(once).write_text("")
        one.app.wait_line("round 2", 30, "stdout")
        before, was = one.status()["pid"], one.program()
        done = one.adopt(check=False)
        t.check(done.status == 1 and point in done.stderr, f"{point} fails, and who asked is told: {done.stderr.strip()}")
        t.equal((one.status()["pid"], one.program()), (before, was), "the version before goes on")
        one.adopt_often(1)
        one.fail()
        whole(t, one, program)
    ends = {f"{point}.kill": f"{point}=kill:/srv/once" for point in points}
    ends["adopt.regain"] = "adopt.exec=fail:/srv/once,adopt.regain=fail:/srv/twice"  # nor is there a way back
    for point, setting in ends.items():
        one = Supervised(t, point, [program, f"{FIRST}/tree", str(ROUNDS), str(SEED), "--delay", "50"],
                         env={"SUPERVISE_FAULT_POINTS": setting})
        for once in ("/srv/once", "/srv/twice"):
            one.host.path(once).write_text("")
        one.app.wait_line("round 2", 30, "stdout")
        t.check(one.adopt(check=False).status == 1, f"{point}: it is its last act, and who asked is told")
        # Not wait(): what the keeper says is still to be read.
        harness.wait_until(lambda: one.app.poll() is not None, 30, "the supervisor is dead")
        harness.wait_until(lambda: one.adopt(check=False).status == 0, 30, "what the keeper has is adopted in its turn")
        one.fail()
        harness.wait_until(lambda: not any(n.startswith("supervise") for n, _ in one.host.processes().values()), 60, "all ends")
        done = one.host.run([program, "--compare", f"{SECOND}/tree", "/srv/shared/expected"], 60, check=False)
        t.equal(done.status, 0, f"the tree is whole {done.stdout[-300:] if done.status else ''}")
        one.host.power_off()


def older_stub(t):
    """What an arena of another version holds can't be read: its calls go the slow way, and are right."""
    program = str(t.guest_path("writer"))
    one = Supervised(t, "older", [program, f"{FIRST}/tree", str(ROUNDS), str(SEED), "--delay", "50"])
    one.app.wait_line("round 2", 30, "stdout")
    found = 0
    for pid, (name, _) in one.host.processes().items():
        if not name.startswith("writer"):
            continue
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            for start, end in ((int(a, 16), int(b, 16)) for a, b in (line.split()[0].split("-") for line in maps)):
                page = start & ~0xfffffff | 0xa080000
                if not start <= page < end:
                    continue
                memory.seek(page)
                head = memory.read(12)
                if head[:8] == MAGIC:
                    memory.seek(page + VERSION_AT)
                    memory.write((head[8] + 1).to_bytes(4, "little"))
                    found += 1
    if one.status()["in_process"]["mode"] != "on":
        t.say("without the stub there is nothing to be of another version")
        one.host.power_off()
        return
    t.check(found > 0, f"{found} arenas say that they are of another version")
    one.adopt_often(2)
    t.check("its calls go the slow way" in one.status()["in_process"]["last_refusal"], "the status tells")
    one.fail()
    one.adopt_often(1)
    whole(t, one, program)


def refused(t):
    """Not while an incident is open, and not what isn't there."""
    one = Supervised(t, "refused", [str(t.guest_path("writer")), f"{FIRST}/tree", "30", str(SEED), "--delay", "50"],
                     ["--on", "data:*:EIO=wait(2m),report"])
    one.app.wait_line("round 2", 30, "stdout")
    nobody = one.host.run([t.next_version, "adopt", "nobody"], 30, check=False)
    t.check(nobody.status == 1 and "nobody" in nobody.stderr, nobody.stderr.strip())
    one.disk.fail("all", "EIO")
    one.app.wait_line("error.intercepted", 30, "stderr")
    done = one.adopt(check=False)
    t.check(done.status == 1 and "an incident is open" in done.stderr, done.stderr.strip())
    one.disk.clear()
    harness.wait_until(lambda: one.status()["ladder"] == [], 60, "the incident is over")
    harness.wait_until(lambda: one.adopt(check=False).status == 0 or one.app.poll() is not None, 30, "then it can be adopted")
    one.well()
    one.host.power_off()


def main(t):
    build = Path(t.supervise_binary()).resolve().parent.parent
    for part in ("supervisor", "libexec"):
        (t.shared / "next" / part).mkdir(parents=True)
    shutil.copy2(build / "supervisor/supervise", t.shared / "next/supervisor/supervise")
    shutil.copytree(build / "libexec/supervise", t.shared / "next/libexec/supervise")
    t.next_version = "/srv/shared/next/supervisor/supervise"
    for part in (stress, writer, ledger, terminal, failing, older_stub, refused):
        t.say(f"--- {part.__name__}")
        part(t)


harness.run(main)
