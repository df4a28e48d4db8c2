"""The ways in which each workload is run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from harness import scenario

NAMES = ("native", "filter", "supervise", "off", "strace", "proot")
TITLES = {"native": "native", "filter": "a filter alone", "supervise": "`supervise`", "off": "`--stub=off`", "strace": "strace", "proot": "proot"}


def supervise():
    return os.environ.get("SUPERVISE_BIN") or str(scenario.REPOSITORY / "build/release/supervise")


def keep_copy(tools):
    """Another build while the bench runs must not change what is measured."""
    source = Path(supervise()).resolve()
    if not source.exists():
        return
    (tools / "bin").mkdir()
    shutil.copy2(source, tools / "bin/supervise")
    shutil.copytree(source.parents[1] / "libexec/supervise", tools / "libexec/supervise")
    os.environ["SUPERVISE_BIN"] = str(tools / "bin/supervise")


def program(name, tools):
    """bench_NAME of the build that the binary is from, or one compiled now."""
    built = Path(supervise()).resolve().parents[1] / f"bench/bench_{name}"
    source = Path(__file__).with_name(f"{name}.cpp")
    if built.exists() and built.stat().st_mtime >= source.stat().st_mtime:
        return built
    target = Path(tools) / f"bench_{name}"
    subprocess.run(["c++", "-std=c++20", "-O2", "-pthread", str(source), "-o", str(target)], check=True, timeout=120)
    return target


def _output(argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)


class Modes:
    """`names`: those that work here. `skipped`: {name: why}. `traced`: what strace is told to look at, `watched`: the filter."""

    def __init__(self, wanted, filter_program):
        self.skipped, self.traced, self.conditional, self.watched, self.filter_program = {}, [], [], [], filter_program
        for name in NAMES:
            why = self._missing(name) if name in wanted else None
            if why:
                self.skipped[name] = why
        self.names = [name for name in NAMES if name in wanted and name not in self.skipped]

    def _missing(self, name):
        if name in ("filter", "supervise", "off", "strace") and not os.access(supervise(), os.X_OK):
            return f"{supervise()} is not built" + (", which tells the calls to look at" if name in ("filter", "strace") else "")
        if name == "off" and "--stub" not in _output([supervise(), "run", "--help"]).stdout:
            return "this `supervise` has no --stub"
        if name in ("filter", "strace", "proot"):
            if name != "filter" and not shutil.which(name):
                return f"{name} is not installed"
            if name != "proot":
                self._looked_at()
            done = _output([*self.prefix(name, "/tmp"), "/bin/true"])
            if done.returncode != 0:
                return f"{name} does not work here: {done.stdout.strip()[-200:]}"
        return None

    def _looked_at(self):
        """What supervise always stops at. Calls that it stops at by their arguments only (file mappings, some ioctls and
        fcntls) are left out, in strace's favour: its filter can't tell these apart."""
        table = json.loads(_output([supervise(), "list-syscalls", "--json"]).stdout)
        looked = [row for row in table if row["trap"] == "always"]
        self.traced = [row["name"] for row in looked if not row["conditional"]]
        self.conditional = [row["name"] for row in looked if row["conditional"]]
        self.watched = [str(row["number"]) for row in looked]

    def prefix(self, name, directory, options=()):
        """The words before the program's own. Options are those of `supervise`; "nopath": none is declared."""
        if name in ("supervise", "off"):
            path = [] if "nopath" in options else ["--path", f"data={directory}"]
            return [supervise(), "run", "--name", "bench", "--log-level", "warn", *path, *(word for word in options if word != "nopath"),
                    *(["--stub=off"] if name == "off" else []), "--"]
        if name == "strace":
            # A `?` lets it pass over calls that this strace does not know.
            return ["strace", "-f", "--seccomp-bpf", "-e", "trace=" + ",".join(f"?{call}" for call in self.traced), "-o", "/dev/null", "--"]
        if name == "filter":
            return [str(self.filter_program), ",".join(self.watched)]
        return ["proot"] if name == "proot" else []
