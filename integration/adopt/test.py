"""`supervise adopt`: another version of the program takes a running application over, many times, in the same process.
The application sees nothing of it, and a device that fails afterwards is recovered from. Where its steps fail: adopt_steps."""

import re
from pathlib import Path

import harness
from adopt_support import FIRST, SECOND, Supervised, expect, install_next_version, whole, writer_of
from harness import ledger as sqlite_ledger

TRANSACTIONS = 40
MAGIC, VERSION_AT = b"supestub", 8  # tracer/stub/layout.h: Process


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
    expect(t)
    one = writer_of(t, "writer", 100)
    one.adopt_often(5)
    one.fail()
    one.adopt_often(5)  # over the second path, too
    now = one.status()
    t.equal((now["paths"][0]["health"], now["paths"][0]["switches"]), ("on alternate", 1), "what it knew of the path goes along")
    whole(t, one)


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


def older_stub(t):
    """What an arena of another version holds can't be read: its calls go the slow way, and are right."""
    one = writer_of(t, "older")
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
    whole(t, one)


def refused(t):
    """Not while an incident is open, and not what isn't there."""
    one = writer_of(t, "refused", options=["--on", "data:*:EIO=wait(2m),report"], rounds=30)
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
    install_next_version(t)
    for part in (stress, writer, ledger, terminal, older_stub, refused):
        t.say(f"--- {part.__name__}")
        part(t)


harness.run(main)
