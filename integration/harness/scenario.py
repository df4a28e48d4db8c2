"""One scenario: its deadline, its work directory, what it started, and taking all of that away again.

    def main(t): ...
    harness.run(main)

runs main in a mount namespace of its own and exits 0 (passed), 1 (failed) or 77 (skipped). Whatever
ends it (an error, a signal, the deadline), processes go first, then mounts, loop devices, daemons and
directories; then the census must find nothing. Were this process killed outright, the kernel would do
the same: everything dies with its parent and loop devices clear themselves.
"""

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import census, disk, needs, process, system
from .host import Host

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_PREFIX = "supervise-scenario-"


class Skip(Exception):
    pass


class Interrupted(BaseException):
    """A signal or the deadline; not an Exception, so that no scenario swallows it."""


class Scenario:
    def __init__(self, name=None, seconds=None, folder=None, verbose=True):
        self.name = name or (Path(folder).name if folder else "scenario")
        self.folder = Path(folder) if folder else None
        limit = seconds or float(os.environ.get("SCENARIO_SECONDS", 120))
        self.deadline = time.monotonic() + max(5, limit - 20)
        self.marker = secrets.token_hex(8)
        self.hosts, self.daemons, self.loops, self.processes = [], [], [], []
        self._undo, self._index, self._verbose = [], 0, verbose
        self._started = time.monotonic()

    # Entering and leaving ----------------------------------------------------------------------

    def __enter__(self):
        _sweep()
        self.outside_ns = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.work = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/var/tmp"))
        self._handlers = {n: signal.signal(n, self._interrupt)
                          for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)}
        system.unshare(system.CLONE_NEWNS)
        system.mount(None, "/", None, system.MS_REC | system.MS_PRIVATE)
        system.mount("tmpfs", self.work, "tmpfs", 0, "mode=755")
        self.logs, self.shared = self.work / "logs", self.work / "shared"
        self.logs.mkdir()
        self.shared.mkdir()
        signal.setitimer(signal.ITIMER_REAL, max(0.1, self.remaining()))
        return self

    def __exit__(self, kind, error, trace):
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        if kind and not issubclass(kind, Skip):
            self._print_logs()
        problems = self._take_down()
        left = self.census(problems)
        for host in self.hosts:
            host.forget()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if left:
            text = "left behind:\n  " + "\n  ".join(left)
            if kind:
                print(text, flush=True)
            else:
                raise AssertionError(text)
        return False

    def _interrupt(self, number, _frame):
        if number == signal.SIGALRM:
            raise Interrupted(f"the scenario's deadline is over after {time.monotonic() - self._started:.0f} s")
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    def remaining(self):
        return self.deadline - time.monotonic()

    def defer(self, function, *arguments):
        """Runs function(*arguments) at the end, after all processes are gone, last one first."""
        self._undo.append((function, arguments))

    def _take_down(self):
        problems = []

        def attempt(what, function, *arguments):
            try:
                return function(*arguments)
            except Exception as error:  # every later step must still be tried
                problems.append(f"{what}: {error}")
                return None

        for daemon in self.daemons:  # a caller that hangs in one can't be killed
            if not daemon.ended():
                attempt("unhang", daemon.unhang)
        for one in self.processes:
            one.kill()
        stuck = [h for h in self.hosts if h.alive and not _powered_off(h)]
        if stuck:
            for daemon in self.daemons:
                attempt("kill daemon", daemon.kill)
            for host in stuck:
                attempt(f"power off {host.name}", host.power_off)
        for one in self.processes:
            if not attempt(f"end {one.name}", one.reap, 5):
                problems.append(f"{one.name} does not die: {one.describe()}")
        for function, arguments in reversed(self._undo):
            attempt(getattr(function, "__name__", "cleanup"), function, *arguments)
        for loop in self.loops:
            loop.release()
        if not _all_detached(self.loops, 10):
            for daemon in self.daemons:
                attempt("kill daemon", daemon.kill)
            _all_detached(self.loops, 10)
        for daemon in self.daemons:
            if not daemon.ended(0.5):
                attempt("kill daemon", daemon.kill)
        problems += self._loops_left()
        attempt("unmount", self._remove_work)
        return problems

    def _loops_left(self):
        """Once the work directory is gone, the backing file no longer tells whose an unlabelled one is."""
        try:
            system.wait_until(lambda: not census.loops_of(self.marker, self.work), 3, "no loop devices")
            return []
        except TimeoutError:
            return census.loops_of(self.marker, self.work)

    def _remove_work(self):
        os.chdir("/")
        with open("/proc/self/mountinfo") as file:
            points = [line.split()[4] for line in file if str(self.work) in line.split()[4]]
        for point in reversed(points):
            system.umount(point, system.MNT_DETACH)
        os.rmdir(self.work)

    def census(self, problems=()):
        """What is left of this scenario: sentences, or nothing."""
        spaces = {(kind, inode) for host in self.hosts for kind, inode in host.namespaces.items()}
        end = time.monotonic() + 5  # the kernel unmounts a dead namespace a moment later
        while True:
            left = list(dict.fromkeys([*problems, *census.leftovers(self.marker, self.work, spaces)]))
            if not left or time.monotonic() >= end:
                return left
            time.sleep(0.05)

    def _print_logs(self):
        for one in self.processes:
            status = one.poll()
            print(f"--- {one.name}: {'running: ' + one.describe() if status is None else f'exit {status}'}")
            for stream in {one.stdout, one.stderr}:
                lines = stream.text.splitlines()
                for line in lines[-150:]:
                    print(f"    {stream.name}| {line}")
        for path in sorted(self.logs.glob("*.log")):
            text = path.read_text(errors="replace")
            if text:
                print(f"--- {path.name}\n{text[-4000:]}")
        sys.stdout.flush()

    # What a scenario uses ----------------------------------------------------------------------

    def host(self, name):
        return Host(self, name)

    def network(self, *hosts):
        """A private network between hosts: each gets 10.77.0.N, in the order given (N from 1). It goes with them."""
        hub = hosts[0]
        addresses = []
        if len(hosts) == 2:
            self.run(["ip", "link", "add", "net0", "netns", str(hub.pid), "type", "veth", "peer", "name", "net0",
                      "netns", str(hosts[1].pid)])
        else:
            hub.run(["ip", "link", "add", "hub", "type", "bridge"])
            hub.run(["ip", "link", "set", "hub", "up"])
            for n, host in enumerate(hosts[1:], 2):
                self.run(["ip", "link", "add", f"port{n}", "netns", str(hub.pid), "type", "veth", "peer", "name", "net0",
                          "netns", str(host.pid)])
                hub.run(["ip", "link", "set", f"port{n}", "master", "hub", "up"])
        for n, host in enumerate(hosts, 1):
            device = "hub" if host is hub and len(hosts) > 2 else "net0"
            host.run(["ip", "address", "add", f"10.77.0.{n}/24", "dev", device])
            host.run(["ip", "link", "set", device, "up"])
            addresses.append(f"10.77.0.{n}")
        return addresses

    def failing_disk(self, fs="ext4", size=None, **more):
        return disk.FailingDisk(self, fs, size, **more)

    def run(self, argv, seconds=30, check=True, **more):
        return process.run(self, argv, seconds, check, **more)

    def skip(self, reason):
        raise Skip(reason)

    def say(self, text):
        if self._verbose:
            print(f"[{time.monotonic() - self._started:7.3f}] {text}", flush=True)

    def check(self, condition, what):
        """Fails the scenario unless `condition`; says what holds."""
        if not condition:
            raise AssertionError(what)
        self.say(f"ok: {what}")

    def equal(self, actual, expected, what):
        if actual != expected:
            raise AssertionError(f"{what}: {_short(actual)} instead of {_short(expected)}")
        self.say(f"ok: {what}")

    # What the harness itself uses --------------------------------------------------------------

    def next_index(self):
        self._index += 1
        return self._index

    def environment(self, extra):
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        base = {"PATH": path, "LANG": "C.UTF-8", "HOME": "/root", "TERM": "xterm", "SUPERVISE_SCENARIO": self.marker}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "CRIU_BIN", "SUPERVISE_CRIU"):
            if name in os.environ:
                base[name] = os.environ[name]
        return {**base, **(extra or {})}

    def supervise_binary(self):
        return os.environ.get("SUPERVISE_BIN") or str(REPOSITORY / "build/release/supervise")

    def guest_path(self, name):
        folder = os.environ.get("GUESTS") or REPOSITORY / "build/release/tests/guests"
        return Path(folder) / name

    def tool(self, name):
        folder = os.environ.get("FAULT_BIN") or REPOSITORY / "build/release/integration"
        return str(Path(folder) / name)

    def paths_to_keep(self):
        """What a host must still reach although its /tmp, /run, /srv and /dev/shm are private."""
        wanted = [REPOSITORY, Path(self.tool("")), self.guest_path(""), Path(self.supervise_binary()).parent]
        masked = ("/tmp/", "/run/", "/srv/", "/dev/shm/")
        return sorted({str(p) for p in wanted if str(p).startswith(masked) and p.is_dir()})


def _short(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:200]}... ({len(text)} characters)"


def _powered_off(host):
    try:
        host.power_off()
        return True
    except TimeoutError:
        return False


def _all_detached(loops, seconds):
    try:
        system.wait_until(lambda: not any(loop.attached() for loop in loops), seconds, "loop devices are detached")
        return True
    except TimeoutError:
        return False


def _sweep():
    """Removes the empty work directories of scenarios that were killed."""
    for path in Path("/var/tmp").glob(f"{_PREFIX}*"):
        owner = path.name[len(_PREFIX):].split("-")[0]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(path, ignore_errors=True)


def _unmet_needs(scenario):
    file = scenario.folder / "needs"
    words = []
    if file.exists():
        words = [w for w in (line.split("#")[0].strip() for line in file.read_text().splitlines()) if w]
    # Without these there is no harness.
    for word in dict.fromkeys(["root", "namespaces", *words]):
        reason = needs.missing(word, scenario)
        if reason:
            return f"needs {word}: {reason}"
    return None


def run(main):
    """Runs main(scenario) and exits the program."""
    folder = Path(sys.argv[0]).resolve().parent
    scenario = Scenario(folder=folder)
    reason = _unmet_needs(scenario)
    if reason:
        print(f"SKIP {scenario.name}: {reason}", flush=True)
        sys.exit(77)
    try:
        with scenario:
            main(scenario)
    except Skip as skipped:
        print(f"SKIP {scenario.name}: {skipped}", flush=True)
        sys.exit(77)
    except (Exception, Interrupted) as error:
        if isinstance(error, AssertionError):
            trace = traceback.extract_tb(error.__traceback__)
            where = next((f for f in reversed(trace) if str(folder) in f.filename), trace[-1])
            print(f"FAIL {scenario.name}: {error} ({where.filename}:{where.lineno})", flush=True)
        else:
            traceback.print_exc(file=sys.stdout)
            print(f"FAIL {scenario.name}: {error}", flush=True)
        sys.exit(1)
    print(f"PASS {scenario.name} in {time.monotonic() - scenario._started:.1f} s", flush=True)
    sys.exit(0)
