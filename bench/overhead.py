#!/usr/bin/python3
"""What being supervised costs when nothing fails: whole workloads natively, under `supervise` with their directory declared
as a storage path (every call on it goes the long way), and under `strace -f --seccomp-bpf`, in rounds that take turns.

  SUPERVISE_BIN=... PYTHONPATH=integration python3 bench/overhead.py [--rounds N] [--dir DIRECTORY] [WORKLOAD...]

DIRECTORY (a fresh one below it, /var/tmp) should be on a disk: an fsync in memory costs nothing. Ends with 1 when a
workload fails.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from harness import needs, scenario, system

MODES = ("native", "supervise", "strace")
SECONDS = 300


def supervise():
    return os.environ.get("SUPERVISE_BIN") or str(scenario.REPOSITORY / "build/release/supervise")


def prefix(mode, directory):
    if mode == "supervise":
        return [supervise(), "run", "--name", "overhead", "--log-level", "error", "--path", f"data={directory}", "--"]
    return ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "--"] if mode == "strace" else []


class Workload:
    """A shell line in a directory of its own; `prepare` is not measured."""

    def __init__(self, name, tools, line, prepare="true"):
        self.name, self.tools, self.line, self.prepare_line = name, tools.split(), line, prepare

    def prepare(self, directory):
        subprocess.run(["/bin/sh", "-ec", self.prepare_line], cwd=directory, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)

    def once(self, mode, directory):
        """Milliseconds."""
        began = time.monotonic()
        done = subprocess.run([*prefix(mode, directory), "/bin/sh", "-ec", self.line], cwd=directory, timeout=SECONDS, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        took = (time.monotonic() - began) * 1000
        if done.returncode != 0:
            raise RuntimeError(f"{self.name} ({mode}) ended with {done.returncode}: {done.stderr[-500:]}")
        return took


class Redis(Workload):
    """The server is run in the mode, the client natively; what the client needs is measured."""

    def __init__(self, name, client):
        super().__init__(name, "redis-server redis-cli redis-benchmark", client)

    def once(self, mode, directory):
        socket = f"{directory}/socket"
        server = subprocess.Popen([*prefix(mode, directory), "redis-server", "--port", "0", "--unixsocket", socket, "--dir",
                                   str(directory), "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--logfile", ""],
                                  cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  start_new_session=True)
        try:
            ping = lambda: subprocess.run(["redis-cli", "-s", socket, "ping"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                          text=True, timeout=30, check=False).stdout == "PONG\n"
            system.wait_until(ping, 30, "redis answers", pause=0.05)
            began = time.monotonic()
            subprocess.run(["redis-benchmark", "-s", socket, "-q", *self.line.split()], check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)
            return (time.monotonic() - began) * 1000
        finally:
            # Not by a signal: strace would go and leave it.
            subprocess.run(["redis-cli", "-s", socket, "shutdown", "nosave"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           timeout=30, check=False)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(30)


TREE = """mkdir tree
for d in $(seq 1 10); do mkdir tree/$d; for f in $(seq 1 100); do head -c 6000 /dev/zero >tree/$d/$f; done; done"""
SOURCES = r"""for i in $(seq 1 8); do
  printf '#include <stdio.h>\n#include <stdlib.h>\nint f%d(int n) { return printf("%%d", n) + abs(n); }\n' $i >f$i.c
done
printf 'all: %s\n%%.o: %%.c\n\tgcc -O2 -c $<\n' "$(for i in $(seq 1 8); do printf 'f%d.o ' $i; done)" >Makefile"""
SHA256 = """/usr/bin/python3 -c '
import hashlib
h = hashlib.sha256()
for i in range(400): h.update(bytes(1 << 20))'"""
INSERTS = ("(echo 'create table t(a, b);'; for i in $(seq 1 {n}); do echo \"insert into t values ($i, 'some text');\"; done) "
           ">inserts.sql")
WORKLOADS = (
    Workload("computing: sha256 of 400 MiB in Python", "python3", SHA256),
    Workload("sqlite: 300 inserts, each synced", "sqlite3", "sqlite3 base <inserts.sql", INSERTS.format(n=300)),
    Workload("sqlite: 20,000 inserts in one transaction", "sqlite3",
             "(echo 'begin;'; cat inserts.sql; echo 'commit;') | sqlite3 base", INSERTS.format(n=20000)),
    Workload("dd: read 64 MiB by 4 KiB, cached", "dd", "dd if=file of=/dev/null bs=4k", "head -c 67108864 /dev/zero >file; sync file"),
    Workload("dd: read 512 MiB by 1 MiB, cached", "dd", "dd if=file of=/dev/null bs=1M", "head -c 536870912 /dev/zero >file; sync file"),
    Workload("dd: write 64 MiB by 4 KiB, synced at the end", "dd", "dd if=/dev/zero of=file bs=4k count=16384 conv=fsync"),
    Workload("tar of 1,000 files of 6 kB", "tar", "tar cf - tree | cat >/dev/null", TREE),
    Workload("cp -r of 1,000 files of 6 kB", "cp", "cp -r tree copy", TREE),
    Redis("redis: 20,000 SET by 20 clients, log each second", "-n 20000 -c 20 -t set"),
    Redis("redis: 200,000 SET, 16 at a time, by 20 clients", "-n 200000 -c 20 -P 16 -t set"),
    Workload("make -j2 of 8 C files with gcc", "make gcc", "make -j2", SOURCES),
)


def measure(workload, modes, rounds, root):
    times = {mode: [] for mode in modes}
    for _ in range(rounds):
        for mode in modes:
            directory = Path(root) / "work"
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            workload.prepare(directory)
            times[mode].append(workload.once(mode, directory))
    return {mode: report.median(values) for mode, values in times.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("words", nargs="*", metavar="WORKLOAD", help="those whose name has one of these words in it")
    arguments = parser.parse_args()
    modes = [m for m in MODES if m != "strace" or shutil.which("strace")]
    rows, notes, failed = [], [], False
    with tempfile.TemporaryDirectory(prefix="supervise-overhead-", dir=arguments.dir) as root:
        os.environ["SUPERVISE_RUNDIR"] = f"{root}/run"
        os.mkdir(f"{root}/run", 0o700)
        print(f"{report.machine()}; medians of {arguments.rounds} rounds, in {arguments.dir}", flush=True)
        for workload in WORKLOADS:
            if arguments.words and not any(word in workload.name for word in arguments.words):
                continue
            absent = [tool for tool in workload.tools if not shutil.which(tool, path=needs.search_path())]
            if absent:
                notes.append(f"skipped: {workload.name}: {', '.join(absent)} is not installed")
                continue
            try:
                got = measure(workload, modes, arguments.rounds, root)
            except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
                notes.append(f"FAILED: {workload.name}: {error}")
                failed = True
                continue
            ratio = lambda mode: f"{got[mode] / got['native']:.2f}" if mode in got else "-"
            rows.append((workload.name, *(report.number(got.get(mode)) for mode in MODES), ratio("supervise"), ratio("strace")))
    if "strace" not in modes:
        notes.append("skipped: strace is not installed")
    report.table(("workload", "native, ms", "`supervise`, ms", "`strace`, ms", "`supervise` / native", "`strace` / native"), rows)
    print("\n".join(notes))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
