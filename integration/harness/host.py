"""A machine made of namespaces: PIDs, mounts, network (loopback up), host name and IPC of its own;
private /run, /tmp, /srv and /dev/shm; /srv/shared is the scenario's directory that all hosts share."""

import json
import os
import signal
import subprocess
from pathlib import Path

from . import process, system


class Host:
    _KINDS = ("pid", "net", "uts", "ipc")

    def __init__(self, scenario, name):
        self.scenario, self.name = scenario, name
        self.mounts = []  # directories mounted through this class, in order
        spec = {"name": name, "shared": str(scenario.shared), "keep": scenario.paths_to_keep()}
        script = Path(__file__).with_name("hostinit.py")
        self._popen = subprocess.Popen(["/usr/bin/python3", "-I", "-S", "-B", str(script), json.dumps(spec)],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                                       env=scenario.environment(None), start_new_session=True)
        scenario.hosts.append(self)
        answers = process.Stream("init", os.dup(self._popen.stdout.fileno()))
        self._popen.stdout.close()
        # Two processes write, so that either line can come first.
        match = answers.search(r"^(?:(\d+)\nready|ready\n(\d+))\n", 10)
        if not match:
            raise RuntimeError(f"host {name} does not start: {answers.text}")
        self.pid = int(match.group(1) or match.group(2))
        # Held open until the census, so that their inode numbers are not given to others meanwhile. Not the
        # mount namespace: holding it would keep the host's mounts after its end.
        self._held = [os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in self._KINDS]
        self.namespaces = {kind: os.fstat(fd).st_ino for kind, fd in zip(self._KINDS, self._held)}

    # Programs ----------------------------------------------------------------------------------

    def run(self, argv, seconds=30, check=True, **more):
        """A short command to its end: a Result with status, stdout, stderr."""
        return process.run(self.scenario, argv, seconds, check, host=self, **more)

    def shell(self, script, seconds=30, check=True, **more):
        return self.run(["/bin/sh", "-c", script], seconds, check, **more)

    def start(self, argv, **more):
        """A program that goes on: a Process."""
        return process.Process(self.scenario, argv, host=self, **more)

    def supervise(self, arguments, **more):
        """`supervise ARGUMENTS` (SUPERVISE_BIN, or build/release/supervise)."""
        more.setdefault("name", "supervise")
        arguments = list(arguments)
        way = os.environ.get("SCENARIO_STUB")
        if way and "--" in arguments and not any(str(a).startswith("--stub") for a in arguments):
            arguments.insert(arguments.index("--"), f"--stub={way}")
        return self.start([self.scenario.supervise_binary(), *arguments], **more)

    def processes(self):
        """{pid as seen here: (command, state)} of everything in this host's PID namespace and below."""
        found = {}
        for pid in system.pids():
            if pid == self.pid or not self._contains(pid):
                continue
            state = system.process_state(pid)
            if state:
                found[pid] = state[:2]
        return found

    def _contains(self, pid):
        return self.namespaces["pid"] in system.pid_namespaces_upwards(pid)

    # Files and mounts --------------------------------------------------------------------------

    def path(self, inside):
        """The same file as seen from here. Never use it on a path that hangs: only run() has a deadline."""
        return Path(f"/proc/{self.pid}/root") / os.fspath(inside).lstrip("/")

    def mkdir(self, directory):
        self.path(directory).mkdir(parents=True, exist_ok=True)
        return directory

    def mount(self, source, directory, fs=None, options=None, seconds=20):
        self.mkdir(directory)
        argv = ["mount"] + (["-t", fs] if fs else []) + (["-o", options] if options else [])
        self.run(argv + [os.fspath(source), directory], seconds)
        self.mounts.append(directory)

    def bind(self, source, directory):
        self.mkdir(directory)
        self.run(["mount", "--bind", os.fspath(source), directory])
        self.mounts.append(directory)

    def umount(self, directory, lazy=False, seconds=20):
        self.run(["umount"] + (["-l"] if lazy else []) + [directory], seconds)
        if directory in self.mounts:
            self.mounts.remove(directory)

    def mounted(self, directory):
        with open(f"/proc/{self.pid}/mountinfo") as file:
            return any(line.split()[4] == directory for line in file)

    # The end -----------------------------------------------------------------------------------

    @property
    def alive(self):
        return self._popen.poll() is None

    def power_off(self, crash=False, seconds=15):
        """Kills everything on the host at once; the kernel then takes its mounts away. With crash, its
        ext4 and XFS are shut down first, so that what was not durable is lost as in a power failure."""
        if crash:
            for directory in list(self.mounts):
                try:
                    system.shutdown_file_system(self.path(directory))
                except OSError:
                    pass
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"host {self.name} does not die within {seconds} s; left: {self.processes()}") from None

    def forget(self):
        """After the census: lets go of the dead namespaces."""
        while self._held:
            os.close(self._held.pop())
