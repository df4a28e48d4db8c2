#!/usr/bin/python3
"""Real applications: from the start of the program to the first good answer, natively, against the same from the start of
`supervise activate`, for parked and for cached standbys, in rounds that take turns. The image is made at the warm point
on one host, which is then powered off. All files are in memory, for both.

  bench/setup.sh                                                    # installs what is missing of the applications
  PYTHONPATH=integration SUPERVISE_BIN=... FAULT_BIN=... GUESTS=... python3 bench/apps.py [--rounds N] [APPLICATION...]

Ends with 1 when one that should work does not.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import harness
import report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration/warm_apps"))
import applications  # noqa: E402

STORE = "/srv/shared/images"
HEAD = ("application", "cold, ms", "parked, ms", "of it the command", "cached, ms", "of it the command", "cold / parked",
        "cold / cached", "image, MiB", "threads stood, ms", "memory parked, MiB", "memory cached, MiB")


def pss_mib(host):
    """Memory of all that runs there, shared pages in parts."""
    total = 0
    for pid in host.processes():
        try:
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(found.group(1)) if found else 0
    return total / 1024


class Measured:
    def __init__(self, t, app):
        self.t, self.app, self.a, self.b = t, app, t.host("a"), t.host("b")
        self.values = {key: [] for key in ("cold", "parked", "parked command", "parked memory", "cached", "cached command", "cached memory")}

    def ask(self, then, command, seconds=120):
        done = self.b.run(self.app.client(seconds, then, command), seconds + 30, check=False)
        if done.status != 0:
            raise AssertionError(f"no good answer: {done.stdout[-300:]} {done.stderr[-600:]}")
        return json.loads(done.stdout)

    def image(self):
        """Made at the warm point by a supervised one, which must go on as if nothing had been."""
        app = self.app
        origin = self.a.supervise(["--name", app.name, "--warm-point", app.point, "--standby", f"dir:{STORE}", "--", *app.argv()],
                                  stdio="files", name=f"{app.name}-origin")
        said = origin.wait_line(r"warm\.(image|failed|given_up)", 180, "stderr").group(1)
        if said != "image":
            origin.wait_line(r"warm\.failed.*\n|warm\.given_up.*\n", 10, "stderr")
            reason = app.limited(origin.stderr.text)
            if reason:
                raise harness.Skip(reason)
            raise AssertionError(origin.stderr.text[-600:])
        self.freeze = float(origin.wait_line(r"warm\.image.*freeze (\S+) ms", 10, "stderr").group(1))
        done = self.a.run(app.client(60, "leave", ["/bin/true"]), 90, check=False)
        self.t.equal(done.status, 0, f"{app.name}: the original goes on")
        self.a.power_off(crash=True)
        self.dir = next((self.t.shared / "images" / app.name).glob("gen-*"))
        self.mib = sum(f.stat().st_size for f in self.dir.rglob("*") if f.is_file()) / (1 << 20)
        app.keep("warm")

    def cold(self):
        self.app.put("cold")
        self.values["cold"].append(self.ask("end", self.app.argv())["first_ms"])

    def activated(self, ready, first):
        app = self.app
        app.put("warm")
        for claim in self.dir.glob("claim*"):  # each round is the image's first activation
            claim.unlink()
        standby = self.b.supervise(["standby", "--name", app.name, "--from", f"dir:{STORE}", "--ready", ready, "--activate", "command"],
                                   stdio="files", name=f"{app.name}-{ready}")
        level = standby.wait_line(r"standby\.(parked|cached|refused)", 120, "stderr").group(1)
        expected = "cached" if "cached" in (app.level, ready) else "parked"
        if level != expected:
            raise AssertionError(f"{level} instead of {expected}: {standby.stderr.text[-500:]}")
        memory = pss_mib(self.b)
        took = self.ask("leave", [self.t.supervise_binary(), "activate", app.name])
        if took["status"] != 0:
            raise AssertionError(f"activate ended with {took['status']}")
        if first:
            app.prove(self.b)
        if level == ready:
            self.values[ready].append(took["first_ms"])
            self.values[f"{ready} command"].append(took["command_ms"])
            self.values[f"{ready} memory"].append(memory)
        standby.signal(15)
        standby.wait(60)
        harness.wait_until(lambda: not [1 for _, state in self.b.processes().values() if state != "Z"], 30, "nothing runs any more")

    def run(self, rounds):
        self.app.prepare(self.a)
        self.app.keep("cold")
        self.image()
        for n in range(rounds):
            if n < (self.app.rounds or rounds):
                self.cold()
            self.activated("parked", n == 0)
            self.activated("cached", n == 0)

    def row(self):
        m = {key: report.median(values) for key, values in self.values.items()}
        n = report.number
        times = lambda key: n(m["cold"] / m[key]) if m[key] else "-"
        parked = n(m["parked"]) if m["parked"] else "kept cached"
        return (self.app.title, n(m["cold"]), parked, n(m["parked command"]), n(m["cached"]), n(m["cached command"]), times("parked"),
                times("cached"), n(self.mib), n(self.freeze), n(m["parked memory"]), n(m["cached memory"]))


def measure(cls, rounds):
    """The row of one application, None when it is skipped; an exception when it fails."""
    with harness.Scenario(f"bench-{cls.name}", seconds=180 + 120 * rounds, verbose=False) as t:
        app = cls(t)
        reason = app.missing()
        if reason:
            raise harness.Skip(reason)
        (t.shared / "images").mkdir()
        measured = Measured(t, app)
        try:
            measured.run(rounds)
        except harness.Skip as skipped:
            raise harness.Skip(f"{app.title}: {skipped}") from None
        return measured.row()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("names", nargs="*", metavar="APPLICATION")
    arguments = parser.parse_args()
    rows, skipped, failed = [], [], []
    print(f"{report.machine()}; medians of {arguments.rounds} rounds", flush=True)
    for cls in applications.ALL:
        if arguments.names and cls.name not in arguments.names:
            continue
        try:
            rows.append(measure(cls, arguments.rounds))
            print(f"{cls.name}: cold {rows[-1][1]}, parked {rows[-1][2]}, cached {rows[-1][4]} ms", file=sys.stderr, flush=True)
        except harness.Skip as reason:
            skipped.append(f"{cls.name}: {reason}")
        except Exception as error:  # the others are still measured
            failed.append(f"{cls.name}: {error}")
    report.table(HEAD, rows)
    for text in skipped:
        print(f"skipped: {text}")
    for text in failed:
        print(f"FAILED: {text}")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
