"""From raw figures (JSON lines of fastpath.py) to medians, the section of docs/performance.md, and its chart."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import chart
import report
from modes import TITLES
from workloads import VARIANTS

BEGIN = "<!-- fastpath: written by bench/fastpath.py --write -->"
END = "<!-- /fastpath -->"
CHART = "fastpath.svg"
UNITS = (("ns", 1), ("us", 1e3), ("ms", 1e6), ("s", 1e9))


@dataclass
class Line:
    """A row of the table: medians, in the row's unit, by mode."""

    title: str
    unit: str
    native: float = None
    target: float = None
    values: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)

    def ratio(self, mode):
        value = self.values.get(mode)
        return value / self.native if value is not None and self.native else None

    def factor(self):
        """How many times faster than strace."""
        ours, theirs = self.values.get("supervise"), self.values.get("strace")
        return theirs / ours if ours and theirs else None


@dataclass
class Found:
    head: dict
    lines: list
    notes: list


def read(path, workloads):
    records = []
    for number, text in enumerate(Path(path).read_text().splitlines(), 1):
        try:
            records.append(json.loads(text))
        except ValueError:
            sys.exit(f"{path}:{number}: not JSON")
    head = next((r for r in records if r["kind"] == "run"), None)
    if not head:
        sys.exit(f"{path}: has no record of a run")
    values = {}
    for r in records:
        if r["kind"] == "figure":
            values.setdefault((r["row"], r["mode"], r["variant"]), []).append(r["value"])
    lines = []
    for workload in workloads:
        for row in workload.rows:
            for variant in workload.variants:
                line = Line(row.title + VARIANTS[variant], row.unit, target=(row.target or {}).get(variant))
                for mode in TITLES:
                    got = values.get((row.key, mode, variant if mode in ("supervise", "off") else ""))
                    if got:
                        line.values[mode], line.counts[mode] = report.median(got), len(got)
                line.native = line.values.get("native")
                if line.native and (variant == "" or any(mode in line.values for mode in ("supervise", "off"))):
                    lines.append(line)
    end = next((r for r in records if r["kind"] == "end"), None)
    notes = end["notes"] if end else [f"FAILED: {path} is not complete: the run was interrupted"]
    return Found(head, lines, notes)


def absolute(value, unit):
    """With the unit in which it is at least 1."""
    nanoseconds = value * dict(UNITS)[unit]
    name, size = next(u for u in reversed(UNITS) if nanoseconds >= u[1] or u[0] == "ns")
    return f"{report.number(nanoseconds / size)} {'µs' if name == 'us' else name}"


def times(value):
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def judged(head, line):
    """Whether an aim was met, or None. One round, or small workloads, tell nothing: starting weighs too much."""
    if line.target is None or line.ratio("supervise") is None or head["quick"] or head["rounds"] < 3:
        return None
    return round(line.ratio("supervise"), 2) <= line.target


def aim(head, line):
    return "" if line.target is None else f"{line.target:.2f}" + {True: ", met", False: ", **missed**", None: ""}[judged(head, line)]


def markdown(found):
    head, lines = found.head, found.lines
    quick = " (with `--quick`: small workloads)" if head["quick"] else ""
    rounds = f"medians of {head['rounds']} rounds" if head["rounds"] > 1 else "one round"
    aims = [met for line in lines if (met := judged(head, line)) is not None]
    text = [f"{head['machine']}; {head['version']}; {head['date'][:10]}; {rounds}{quick}; files on disk: {head['disk']}; "
            f"the source tree: {head['tree']}.", ""]
    shown = [mode for mode in ("filter",) if any(mode in line.values for line in lines)]  # figures of before have none
    columns = ["workload", "native", *(TITLES[mode] for mode in shown), "`supervise`", "at most", "`--stub=off`", "strace", "proot", "faster than strace"]
    text += [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    for line in lines:
        cells = [line.title, absolute(line.native, line.unit), *(times(line.ratio(mode)) for mode in shown), times(line.ratio("supervise")),
                 aim(head, line), *(times(line.ratio(mode)) for mode in ("off", "strace", "proot")), times(line.factor())]
        text.append(f"| {' | '.join(cells)} |")
    text.append("")
    if aims:
        text.append(f"{sum(aims)} of {len(aims)} aims are met.")
    if head["strace_calls"]:
        text.append(f"strace looks at the {len(head['strace_calls'])} calls that `supervise` always watches (`always` in `supervise list-syscalls`), but for "
                    f"{', '.join(head['strace_left_out'])}: of these `supervise` watches some only, by their arguments, which strace can't.")
    notes = [note for note in found.notes if not note.startswith("told:")]
    if notes:
        text += ["", *(f"- {' '.join(note.split())[:300]}" for note in notes)]
    return "\n".join(text) + "\n"


SECTION = """## The fast path

What supervision costs when nothing fails. Each workload natively, under `supervise` with its directory declared as a storage path and
its journal keeping content, with calls made in process ([in-process.md](in-process.md)) and without (`--stub=off`: each watched call stops
twice), under `strace -f --seccomp-bpf -o /dev/null`, and under proot; each round runs all of them, one after the other. Native is in
absolute terms, for one call, transaction or request where there is such a thing; the others are times native, less is better. "A filter
alone" is the program behind a seccomp filter that looks at the same calls and allows each (`bench/filter.cpp`), with no tracer: less is not to
be had with seccomp. Of servers the server runs in the mode, the client natively. The time is the workload's own: what starting and ending costs is the first line. "At
most" is what was aimed at.

![Times native, by workload](fastpath.svg)

"""


def write(found, docs):
    page = docs / "performance.md"
    text = page.read_text()
    section = f"{BEGIN}\n{SECTION}{markdown(found)}{END}"
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page}: there must be one line '{BEGIN}' and one '{END}'")
    page.write_text(text[:text.index(BEGIN)] + section + text[text.index(END) + len(END):])
    (docs / CHART).write_text(chart.draw(found))
    print(f"written: {page}, {docs / CHART}")
