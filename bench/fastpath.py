#!/usr/bin/python3
"""What being supervised costs when nothing fails: workloads natively, behind a seccomp filter alone, under `supervise` (with
calls made in process, and with --stub=off), under strace and under proot, in rounds that take turns.

  bench/setup.sh                                        # installs what is missing
  bench/fastpath.py --rounds 5 --baseline --write       # measures, writes docs/performance.md and its chart
  bench/fastpath.py --quick --modes native,supervise sqlite fio      # some workloads, small, one round
  bench/fastpath.py --from bench/results/baseline.jsonl --write      # only writes

Every single figure goes to bench/results/ as a JSON line; --baseline names the file that is kept in the repository.
Ends with 1 when a workload fails; its message has what its programs said.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

import figures  # noqa: E402
import modes as ways  # noqa: E402
import report  # noqa: E402
from place import Failed, Place  # noqa: E402
from servers import SERVERS  # noqa: E402
from workloads import PROGRAMS, Context  # noqa: E402

WORKLOADS = (*PROGRAMS, *SERVERS)
RESULTS = HERE / "results"


def chosen(words):
    """A word is a row's key, else it is in a key or a title. All rows of one program come along."""
    exact = {row.key for w in WORKLOADS for row in w.rows}
    fits = lambda w, word: any(row.key == word for row in w.rows) if word in exact else word.lower() in w.names().lower()
    return [w for w in WORKLOADS if not words or any(fits(w, word) for word in words)]


def version():
    if not os.access(ways.supervise(), os.X_OK):
        return "no supervise"
    said = subprocess.run([ways.supervise(), "--version"], stdout=subprocess.PIPE, text=True, timeout=20, check=False).stdout.partition("\n")[0]
    commit = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                            timeout=20, check=False).stdout.strip()
    return f"{said} ({commit})" if commit else said


class Run:
    def __init__(self, arguments, place, modes, micro):
        self.arguments, self.place, self.modes, self.failed, self.notes = arguments, place, modes, set(), []
        self.context = Context(place, arguments.quick, micro)
        self.file = open(arguments.results, "w")
        self.note(*(f"skipped: {name}: {why}" for name, why in modes.skipped.items()))
        self.head = {"kind": "run", "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "machine": report.machine(),
                     "version": version(), "rounds": arguments.rounds, "quick": arguments.quick, "modes": modes.names, "skipped": modes.skipped,
                     "strace_calls": modes.traced, "strace_left_out": modes.conditional, "disk": place.disk, "tree": self.context.tree_name}
        self.write(self.head)

    def note(self, *lines):
        for line in lines:
            if line not in self.notes:
                self.notes.append(line)
                print(line, flush=True)

    def write(self, record):
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def jobs(self, workload, turn):
        """(mode, variant) in an order that differs from round to round. Variants are of `supervise` only."""
        jobs = [(mode, variant) for mode in self.modes.names
                for variant in (workload.variants if mode in ("supervise", "off") else [""])]
        return jobs[turn % len(jobs):] + jobs[:turn % len(jobs)]

    def one(self, workload, mode, variant, turn):
        directory = self.place.directory(workload.kind)
        workload.prepare(self.context, directory)
        if workload.kind == "disk":
            subprocess.run(["sync", "-f", str(directory)], check=True, timeout=300)  # of what was before
        prefix = self.modes.prefix(mode, directory, workload.variants.get(variant, ()))
        began = os.times()
        got = workload.once(self.context, prefix, directory)
        ended = os.times()
        for row in workload.rows:
            self.write({"kind": "figure", "row": row.key, "variant": variant, "mode": mode, "round": turn, "unit": row.unit, "value": round(got[row.key], 3),
                        "load": round(os.getloadavg()[0], 2), "elapsed_s": round(ended.elapsed - began.elapsed, 3),
                        "cpu_s": round(sum(ended[2:4]) - sum(began[2:4]), 3)})
        for warning in (line for log in (self.place.root / "logs").glob("*.err") for line in log.read_text(errors="replace").splitlines()
                        if "stub." in line and mode == "supervise"):
            self.note(f"told: {workload.key} ({mode}): {warning}")

    def measure(self, workload, turn):
        for mode, variant in self.jobs(workload, turn):
            if (workload.key, mode, variant) in self.failed:
                continue
            what = f"{workload.key}, {mode}{', ' + variant if variant else ''}"
            try:
                for _ in range(workload.repeat):
                    self.one(workload, mode, variant, turn)
                    left = self.place.sweep()
                    if left:
                        self.note(f"left behind and ended: {what}: {', '.join(left)}")
                    self.forget_logs()
            except (Failed, RuntimeError, OSError, ValueError, KeyError, TimeoutError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", None) or ""
                self.failed.add((workload.key, mode, variant))
                self.note(f"FAILED: {what}: {error} {said if isinstance(said, str) else said.decode(errors='replace')}".strip())
                self.write({"kind": "failure", "row": workload.key, "variant": variant, "mode": mode, "round": turn, "why": str(error)[:1000]})
                self.place.sweep()
                self.forget_logs()

    def forget_logs(self):
        for log in (self.place.root / "logs").iterdir():
            log.unlink()

    def all(self):
        workloads = []
        for workload in chosen(self.arguments.words):
            why = workload.missing()
            if why:
                self.note(f"skipped: {workload.key}: {why}")
            else:
                workloads.append(workload)
        for turn in range(self.arguments.rounds):
            for workload in workloads:
                print(f"round {turn + 1} of {self.arguments.rounds}: {workload.key}", file=sys.stderr, flush=True)
                self.measure(workload, turn)
        self.write({"kind": "end", "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "notes": self.notes,
                    "load": round(os.getloadavg()[0], 2)})
        self.file.close()
        return not self.failed and bool(workloads)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="5, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small workloads")
    parser.add_argument("--modes", default=",".join(ways.NAMES), help="of %(default)s")
    parser.add_argument("--disk", default="/var/tmp", help="where the files on disk are; ext4, else a loop device is made there (%(default)s)")
    parser.add_argument("--loop", action="store_true", help="a loop device with ext4 in any case")
    parser.add_argument("--results", help="file for the raw figures (bench/results/fastpath-DATE.jsonl)")
    parser.add_argument("--baseline", action="store_true", help="--results bench/results/baseline.jsonl")
    parser.add_argument("--from", dest="source", help="measure nothing, take these raw figures")
    parser.add_argument("--write", action="store_true", help="docs/performance.md and docs/fastpath.svg")
    parser.add_argument("--list", action="store_true", help="the workloads")
    parser.add_argument("words", nargs="*", metavar="WORKLOAD", help="those whose key or title has one of these words in it")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.modes = arguments.modes.split(",")
    unknown = [mode for mode in arguments.modes if mode not in ways.NAMES]
    if unknown or "native" not in arguments.modes or arguments.rounds < 1:
        parser.error(f"--modes: native, and of {', '.join(ways.NAMES[1:])}" if unknown or arguments.rounds > 0 else "--rounds: 1 at least")
    if not chosen(arguments.words):
        parser.error(f"no workload has {' or '.join(arguments.words)} in its name; --list has them")
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    arguments.results = arguments.results or str(RESULTS / ("baseline.jsonl" if arguments.baseline else f"fastpath-{date}.jsonl"))
    return arguments


def main():
    arguments = parse()
    if arguments.list:
        for workload in WORKLOADS:
            print("\n".join(f"{row.key:26}{row.title}" for row in workload.rows))
        return 0
    good = True
    if not arguments.source:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        Path(arguments.results).parent.mkdir(parents=True, exist_ok=True)
        place = Place(arguments.disk, arguments.loop)
        try:
            tools = place.root / "tools"
            micro, only_filter = (ways.program(name, tools) for name in ("micro", "filter"))
            ways.keep_copy(tools)
            good = Run(arguments, place, ways.Modes(arguments.modes, only_filter), micro).all()
        finally:
            place.close()
        print(f"raw figures: {arguments.results}", flush=True)
    found = figures.read(arguments.source or arguments.results, WORKLOADS)
    print(figures.markdown(found))
    if arguments.write:
        figures.write(found, HERE.parent / "docs")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
