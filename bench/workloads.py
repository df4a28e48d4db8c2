"""What is measured: programs that run from start to end. servers.py has those that serve.

A workload prepares a fresh directory (natively, not measured) and runs once behind a prefix of words; it returns
{row: value}, less is better. The time is the workload's own, inside of the mode: starting and ending `supervise`, strace
or proot is the row "a program that does nothing"."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass

import source_tree
from harness import needs
from place import Command

SECONDS = 300
TIMER = 's=$EPOCHREALTIME; eval "$1" >/dev/null; status=$?; e=$EPOCHREALTIME; echo "took $s $e"; exit $status'
PLAIN = {"": ()}
VARIANTS = {"": "", "ranges": ", `--journal ranges`", "nopath": ", no path declared"}


@dataclass
class Row:
    key: str
    title: str
    unit: str = "ms"
    target: dict = None  # variant: at most so many times native


class Workload:
    def __init__(self, *rows, tools="", kind="disk", variants=None, repeat=1):
        self.rows, self.tools, self.kind, self.variants, self.repeat = rows, tools.split(), kind, variants or PLAIN, repeat
        self.key = rows[0].key

    def names(self):
        return " ".join([row.key for row in self.rows] + [row.title for row in self.rows])

    def missing(self):
        absent = [tool for tool in self.tools if not shutil.which(tool, path=needs.search_path())]
        return f"{', '.join(absent)} is not installed" if absent else None

    def prepare(self, context, directory):
        pass

    def once(self, context, prefix, directory):
        raise NotImplementedError


class Shell(Workload):
    """A line of shell in a directory of its own, timed by the shell that runs it. `{n}` is `full`, or `quick`."""

    def __init__(self, row, line, prepare="true", full=0, quick=0, **more):
        super().__init__(row, **more)
        self.line, self.prepare_line, self.full, self.quick = line, prepare, full, quick

    def fill(self, context, line):
        return line.replace("{n}", str(self.quick if context.quick else self.full)).replace("{tree}", str(context.tree)).replace(
            "{objects}", context.objects)

    def prepare(self, context, directory):
        done = subprocess.run(["/bin/bash", "-ec", self.fill(context, self.prepare_line)], cwd=directory, timeout=SECONDS,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{self.key}: preparing ended with {done.returncode}: {done.stderr[-500:]}")

    def once(self, context, prefix, directory):
        command = Command(context.place, [*prefix, "/bin/bash", "-c", TIMER, "bench", self.fill(context, self.line)], directory, self.key)
        found = re.search(r"^took (\S+) (\S+)$", command.end(SECONDS)[1], re.M)
        if not found:
            command.fail("told no time")
        return {self.key: (float(found.group(2)) - float(found.group(1))) * 1000}


class Start(Workload):
    def once(self, context, prefix, directory):
        return {self.key: Command(context.place, [*prefix, "/bin/true"], directory, self.key).end(60)[0]}


class Micro(Workload):
    def once(self, context, prefix, directory):
        command = Command(context.place, [*prefix, context.micro, directory, "50" if context.quick else "300"], directory, self.key)
        found = dict(re.findall(r"^(\w+) ([\d.]+)$", command.end(SECONDS)[1], re.M))
        if set(found) != {row.key for row in self.rows}:
            command.fail(f"measured {', '.join(found)} only")
        return {name: float(value) for name, value in found.items()}


class Fio(Workload):
    """On a file that is in the page cache and smaller than the journal's limit; microseconds a call, as fio counts them."""

    SIZE_MIB = 128

    def __init__(self, row, pattern, block, **more):
        super().__init__(row, tools="fio", variants=BOTH, **more)
        self.pattern, self.block = pattern, block

    def prepare(self, context, directory):
        subprocess.run(["dd", "if=/dev/zero", "of=file", "bs=1M", f"count={self.SIZE_MIB}", "conv=fsync", "status=none"], cwd=directory,
                       check=True, timeout=SECONDS)

    def once(self, context, prefix, directory):
        argv = ["fio", "--name=bench", "--ioengine=psync", "--thread", f"--rw={self.pattern}", f"--bs={self.block}", f"--filename={directory}/file",
                f"--size={self.SIZE_MIB}M", "--time_based", f"--runtime={1 if context.quick else 4}", "--invalidate=0", "--fallocate=none",
                "--randrepeat=1", "--output-format=json"]
        command = Command(context.place, [*prefix, *argv], directory, self.key)
        text = command.end(SECONDS)[1]
        job = json.loads(text[text.index("{"):])["jobs"][0]
        calls = job["read" if "read" in self.pattern else "write"]["iops"]
        if job["error"] != 0 or calls <= 0:
            command.fail(f"error {job['error']}, {calls} calls a second")
        return {self.key: 1e6 / calls}


class Make(Shell):
    def prepare(self, context, directory):
        shutil.copytree(context.tree, directory / "tree", symlinks=True)


INSERTS = ("(echo 'pragma journal_mode={mode}; pragma synchronous={synchronous}; create table t(a, b);'; "
           "for i in $(seq 1 {n}); do echo \"insert into t values ($i, 'some text that makes it longer');\"; done) >../inserts.sql")
sql = lambda mode, synchronous: INSERTS.replace("{mode}", mode).replace("{synchronous}", synchronous)
SQLITE = "sqlite3 base <../inserts.sql"
PYTHON = """/usr/bin/python3 -c '
import os
fd = os.open("file", os.O_RDWR | os.O_CREAT, 0o600)
block = bytes(100)
for i in range({n}): os.pwrite(fd, block, i % 10000 * 100)
os.close(fd)'"""
SHA256 = """/usr/bin/python3 -c '
import hashlib
h = hashlib.sha256()
for i in range({n}): h.update(bytes(1 << 20))'"""
BOTH = {"": (), "ranges": ("--journal", "ranges")}
PATH_OR_NOT = {"": (), "nopath": ("nopath",)}
at_most = lambda value: {"": value}

PROGRAMS = (
    Start(Row("start", "a program that does nothing, start to exit"), repeat=3),
    Shell(Row("sha256", "computing: sha256 in Python"), SHA256, full=600, quick=200, tools="python3"),
    Micro(Row("pread_1", "pread, 1 byte", "ns"), Row("pread_4k", "pread, 4 KiB", "ns"), Row("pwrite_4k", "pwrite, 4 KiB, same places again", "ns"),
          Row("write_null", "write to /dev/null", "ns"), Row("write_seq_4k", "write, 4 KiB, one after the other", "ns"),
          Row("fsync", "fsync", "ns"), Row("open_close", "open and close", "ns"),
          Row("open_close_outside", "open and close, on no storage path", "ns"), Row("stat", "stat", "ns"), Row("getpid", "getpid", "ns"),
          Row("signal", "a signal to oneself, handled", "ns"), Row("pwrite_4k_storm", "pwrite, 4 KiB, at 2,000 signals a second", "ns"),
          Row("thread", "create and join a thread", "ns"), Row("fork", "fork, exit, wait", "ns"), kind="memory"),
    Shell(Row("sqlite_rollback", "sqlite, rollback journal, in memory"), SQLITE, sql("delete", "full"), full=5000, quick=500, tools="sqlite3",
          kind="memory"),
    Shell(Row("sqlite_wal", "sqlite, WAL, in memory", target=at_most(1.10)), SQLITE, sql("wal", "normal"), full=40000, quick=2000,
          tools="sqlite3", kind="memory"),
    Shell(Row("sqlite_rollback_disk", "sqlite, rollback journal, each synced, ext4", target=at_most(1.02)), SQLITE, sql("delete", "full"), full=2000,
          quick=100, tools="sqlite3"),
    Shell(Row("sqlite_wal_disk", "sqlite, WAL, each synced, ext4", target=at_most(1.02)), SQLITE, sql("wal", "full"), full=5000, quick=200,
          tools="sqlite3"),
    Fio(Row("fio_randwrite", "fio, 4 KiB random write, ext4", "us", {"": 1.12}), "randwrite", "4k"),
    Fio(Row("fio_randwrite_memory", "fio, 4 KiB random write, in memory", "us"), "randwrite", "4k", kind="memory"),
    Fio(Row("fio_randread", "fio, 4 KiB random read, cached", "us"), "randread", "4k"),
    Fio(Row("fio_seqwrite", "fio, 1 MiB sequential write, ext4", "us", {"": 1.35, "ranges": 1.05}), "write", "1m"),
    Fio(Row("fio_seqwrite_memory", "fio, 1 MiB sequential write, in memory", "us"), "write", "1m", kind="memory"),
    Shell(Row("python", "python, 100,000 times pwrite of 100 bytes", target=at_most(1.20)), PYTHON, full=100000, quick=20000, tools="python3"),
    Shell(Row("tar", "tar of a source tree"), "tar cf tree.tar -C {tree} .", tools="tar"),
    Shell(Row("cp", "cp -r of a source tree"), "cp -r {tree} copy", tools="cp"),
    Make(Row("make", "make -j2 of a source tree", target=at_most(1.25)), "make -C tree -j2 {objects}", tools="make gcc", variants=PATH_OR_NOT),
    Shell(Row("fork_exec", "bash, 100 fork and exec", target=at_most(1.5)), "for i in {1..100}; do /bin/true; done", variants=PATH_OR_NOT, repeat=3),
)


class Context:
    """What all share: the place, sizes, what was built or unpacked once."""

    def __init__(self, place, quick, micro):
        self.place, self.quick, self.micro = place, quick, micro
        self.tree = place.root / "tools/tree"
        self.tree_name = source_tree.prepare(self.tree)
        self.objects = source_tree.objects(self.tree, quick)
