"""Shows the main job: an application outlives its storage path, and goes on on a second host.

    /usr/bin/python3 scripts/demo.py [writer | sqlite]...

Everything is real: an ext4 file system on a block device that begins to fail, two hosts with PIDs,
mounts and network of their own, two programs that know nothing of supervise. What is taken for
granted is checked; the first thing that does not hold ends it with status 1.
"""

import hashlib
import os
import re
import shutil
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))
import harness  # noqa: E402
from harness import needs  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
LEDGER = ["/usr/bin/python3", str(REPOSITORY / "integration/handover_sqlite/ledger.py")]
NEEDS = ["root", "namespaces", "fuse", "loop", "ext4", "criu", "supervise", "guest:writer"]
BOLD, DIM, END = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
started = time.monotonic()


def tell(text):
    print(f"{BOLD}[{time.monotonic() - started:5.1f} s] {text}{END}", flush=True)


def note(text):
    for line in text.rstrip().splitlines():
        print(f"          {line}", flush=True)


class Relay:
    """Prints what the supervisors of both hosts say, as it comes, in the order of their clocks."""

    def __init__(self, *processes):
        self.processes = {process: 0 for process in processes}

    def show(self):
        lines = []
        for process, done in self.processes.items():
            text = process.stderr.text
            end = text.rfind("\n") + 1
            self.processes[process] = max(done, end)
            lines += [(line.removeprefix("supervise: "), process.host.name) for line in text[done:end].splitlines()]
        for line, name in sorted(lines, key=lambda item: item[0][:12]):
            print(f"{DIM}     {name} | {line}{END}", flush=True)

    def wait(self, process, seconds):
        """The exit status of `process`; meanwhile the others are heard too."""
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            self.show()
            time.sleep(0.05)
        status = process.wait(1)
        self.show()
        return status


class Writer:
    """Processes and threads that write, fsync, map, rename, lock and append, in step over pipes."""

    title = "a program of several processes and threads"
    rounds, seed = 60, 7
    told, ready = r"^round (\d+)$", r"^round 12$"

    def __init__(self, t):
        self.program = str(t.guest_path("writer"))
        self.command = [self.program, "/srv/first/tree", str(self.rounds), str(self.seed), "--delay", "30"]
        self.directory = "/srv/third/tree"

    def check_told(self, t, one, two):
        numbers = [[int(n) for n in re.findall(self.told, said, re.MULTILINE)] for said in (one, two)]
        t.equal(numbers[0] + numbers[1], list(range(1, self.rounds + 1)), "each round is told once")
        t.check(f"{self.rounds} rounds, 0 failures" in two, "no call of the application had an unexpected result")
        note(f"it told its rounds 1 to {numbers[0][-1]} on A and {numbers[1][0]} to {numbers[1][-1]} on B; none of its calls failed")

    def compare(self, t, b):
        expected = "/srv/shared/undisturbed"
        b.run([self.program, expected, str(self.rounds), str(self.seed), "--delay", "1"], 30)
        done = b.run([self.program, "--compare", self.directory, expected], 30, check=False)
        t.equal(done.status, 0, f"the trees are equal: {done.stdout[-600:]}")
        files = b.shell(f"cd {self.directory} && find . -type f | wc -l && du -sb . | cut -f 1", 10).stdout.split()
        note(f"{files[0]} files, {files[1]} bytes: {done.stdout.strip().splitlines()[-1].removeprefix('compare: ')}; in the two logs\n"
             "that several processes append to, each record is there once, whole, in its writer's order")


class Sqlite:
    """Two processes with SQLite: one with a rollback journal, one with a write-ahead log."""

    title = "SQLite in the middle of transactions"
    count = 60
    ready = r"^wal 15$"

    def __init__(self, t):
        self.command = [*LEDGER, "/srv/first/db", str(self.count), "30"]
        self.directory = "/srv/third/db"

    def check_told(self, t, one, two):
        for mode in ("delete", "wal"):
            numbers = [[int(n) for n in re.findall(rf"^{mode} (\d+)$", said, re.MULTILINE)] for said in (one, two)]
            t.equal(numbers[0] + numbers[1], list(range(1, self.count + 1)), f"{mode}: each commit is told once")
            note(f"journal mode {mode}: commits 1 to {numbers[0][-1]} on A, {numbers[1][0]} to {numbers[1][-1]} on B, none failed")

    def compare(self, t, b):
        expected = "/srv/shared/undisturbed"
        b.run([*LEDGER, expected, str(self.count), "1"], 30)
        for name in ("delete.db", "wal.db"):
            sums = [hashlib.sha256(b.path(f"{d}/{name}").read_bytes()).hexdigest() for d in (self.directory, expected)]
            t.equal(sums[0], sums[1], f"{name} is that of an undisturbed run")
            note(f"{name}: sha256 {sums[0][:32]}..., the same in both")
        done = b.run([*LEDGER, "--verify", self.directory, str(self.count)], 30, check=False)
        t.equal(done.status, 0, f"the databases are sound: {done.stderr[-600:]}")
        note("SQLite's own integrity check passes, and there was no journal to recover from")


def operators_script(t, source, name):
    """The same program under a short name that both hosts see."""
    target = t.shared / name
    shutil.copy(source, target)
    return f"/srv/shared/{name}"


def show(kind):
    criu = {"SUPERVISE_CRIU": os.environ["SUPERVISE_CRIU"]} if "SUPERVISE_CRIU" in os.environ else {}
    with harness.Scenario(f"demo-{kind.__name__.lower()}", seconds=100, verbose=False) as t:
        tell(f"{kind.title}: two hosts and an ext4 file system to which there are three ways")
        a, b = t.host("A"), t.host("B")
        (t.shared / "images").mkdir()
        a.run(["mkdir", "-p", "/srv/second"])
        b.run(["mkdir", "-p", "/srv/third"])
        disk = t.failing_disk("ext4")
        disk.mount_first(a, "/srv/first")
        second_up = operators_script(t, disk.path_up_script("second", "/srv/second"), "second-up")
        second_down = operators_script(t, disk.path_down_script("second", "/srv/second"), "second-down")
        third_up = operators_script(t, disk.path_up_script("third", "/srv/third"), "third-up")
        down = t.shared / "down"
        down.write_text(f'#!/bin/sh\n[ "$SUPERVISE_REASON" != handover ] || exec {second_down}\n')
        down.chmod(0o755)

        app_of = kind(t)
        on_b = ["standby", "--name", "app", "--path", "data=/srv/third", "--path-up", f"data={third_up}",
                "--from", "dir:/srv/shared/images"]
        on_a = ["--name", "app", "--path", "data=/srv/first,/srv/second", "--path-up", f"data={second_up}",
                "--path-down", "data=/srv/shared/down", "--standby", "dir:/srv/shared/images", "--", *app_of.command]
        note(f"on B: supervise {' '.join(on_b)}\non A: supervise {' '.join(on_a)}")
        standby = b.supervise(on_b, stdio="files", env=criu)
        app = a.supervise(on_a, stdio="files", env=criu)
        relay = Relay(app, standby)
        app.wait_line(app_of.ready, 30, "stdout")
        relay.show()
        told = app.stdout.text.splitlines()[-1]
        tell(f"the application works under /srv/first and says \"{told}\"; now the device under it fails every call with EIO")
        disk.fail("all", "EIO")

        status = relay.wait(app, 60)
        t.equal(status, 113, "supervise on A says with its exit status that the application was handed over")
        tell("supervise on A has ended with 113, as it does when the application goes on elsewhere")
        read = a.run(["dd", f"if={disk.way('first').device}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"], 10, check=False)
        t.check("Input/output error" in read.stderr, "the first device fails")
        t.check(not a.mounted("/srv/second"), "the second path is given up on A")
        failed = sum(op["failed"] for op in disk.stats()["ops"].values())
        note(f"{failed} requests to the first device have failed, and a read says: Input/output error\n"
             "the second path is no longer mounted")
        tell("now host A is switched off")
        a.power_off()
        status = relay.wait(standby, 60)
        t.equal(status, 0, "the application ended on B as it would have ended on A")
        tell("the application on B has done its work over /srv/third and ended with 0")

        t.check("path-up-third exit 0" in disk.scripts_log(), "B mounted the third way")
        app_of.check_told(t, app.stdout.text, standby.stdout.text)
        tell("the same program once more, undisturbed and without supervise; are the bytes the same?")
        app_of.compare(t, b)

        done = re.search(r"handover\.done: running on B: (.*?)(?: step=| *$)", app.stderr.text, re.MULTILINE)
        resumed = re.search(r"handover\.resumed: first good I/O here: (.*?)(?: step=| *$)", standby.stderr.text, re.MULTILINE)
        t.check(done and resumed, "both supervisors printed their times")
        tell("the times")
        note(done.group(1).replace(", ", "\n"))
        tell("taking everything away again")


def main(names):
    kinds = {"writer": Writer, "sqlite": Sqlite}
    chosen = names or list(kinds)
    unknown = [name for name in chosen if name not in kinds]
    if unknown:
        print(f"error: unknown application {unknown[0]}\n  way out: one of {', '.join(kinds)}", file=sys.stderr)
        return 2
    probe = harness.Scenario("demo", seconds=100, verbose=False)
    for word in NEEDS:
        reason = needs.missing(word, probe)
        if reason:
            print(f"error: the demonstration needs {word}: {reason}", file=sys.stderr)
            return 1
    for name in chosen:
        try:
            show(kinds[name])
        except KeyboardInterrupt:
            return 130
        except AssertionError as error:
            print(f"error: the demonstration with {name} failed: {error}", file=sys.stderr)
            return 1
        except BaseException as error:
            print(f"error: the demonstration with {name} was ended: {error!r}", file=sys.stderr)
            return 1
    tell("both hosts, the devices, mounts and processes are gone again; the bytes were the same every time")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
