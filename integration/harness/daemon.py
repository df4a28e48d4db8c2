"""The fault daemons as a scenario drives them: start, command over the control socket, kill."""

import json
import os
import signal
import socket
import subprocess

from . import system


class FaultDaemon:
    """A running faultdisk or faultfs. It mounts in the namespace of `host` (or the scenario's own) and
    serves from outside of it."""

    def __init__(self, scenario, program, source_option, source, mount_point, host=None, options=()):
        self.scenario, self.program = scenario, program
        index = scenario.next_index()
        self.socket = str(scenario.work / f"{program}-{index}.sock")
        self.mount_point = os.fspath(mount_point)
        self._log_path = scenario.logs / f"{index}-{program}.log"
        argv = [scenario.tool(program), source_option, os.fspath(source), "--mount", self.mount_point,
                "--socket", self.socket, "--outside-ns", f"/proc/self/fd/{scenario.outside_ns}",
                "--lifetime", str(int(scenario.remaining()) + 60), *options]
        if host:
            argv += ["--mount-ns", f"/proc/{host.pid}/ns/mnt"]
        with open(self._log_path, "wb") as log:
            self._popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                           pass_fds=[scenario.outside_ns], start_new_session=True,
                                           env=scenario.environment(None))
        scenario.daemons.append(self)

        def answers():
            if self._popen.poll() is not None:
                raise RuntimeError(f"{program} ended with {self._popen.returncode}: "
                                   f"{self._log_path.read_text()}")
            try:
                return self.command("ping") == "ok pong"
            except OSError:
                return False
        system.wait_until(answers, 10, f"{program} answers on {self.socket}")

    @property
    def pid(self):
        return self._popen.pid

    def command(self, line, seconds=10):
        """Sends one command; returns the answer, raises ValueError when it was refused."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(self.socket)
            connection.sendall(line.encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        text = answer.decode().rstrip("\n")
        if not text.startswith("ok"):
            raise ValueError(f"{line}: {text}")
        return text

    @staticmethod
    def _words(byte_range, more):
        words = []
        if byte_range:
            first, last = byte_range
            words.append(f"{first}-{'END' if last is None else last}")
        return words, [f"{key}={value}" for key, value in more.items()]

    def fail(self, ops="all", errno="EIO", byte_range=None, **more):
        """more: nth=, after=, times=, path=. Returns the rule's id; no earlier call is running any more."""
        before, after = self._words(byte_range, more)
        return int(self.command(" ".join(["fail", ops, *before, errno, *after])).split()[1])

    def hang(self, ops="all", byte_range=None, **more):
        before, after = self._words(byte_range, more)
        return int(self.command(" ".join(["hang", ops, *before, *after])).split()[1])

    def delay(self, ops, milliseconds, byte_range=None, **more):
        before, after = self._words(byte_range, more)
        return int(self.command(" ".join(["delay", ops, *before, str(milliseconds), *after])).split()[1])

    def clear(self, rule=None):
        self.command("clear" if rule is None else f"clear {rule}")

    def unhang(self):
        self.command("unhang")

    def stats(self):
        """{"rules": n, "hanging": n, "ops": {name: {"calls", "failed", "hung"}}}"""
        return json.loads(self.command("stats")[3:])

    def count(self, op, what="calls"):
        return self.stats()["ops"].get(op, {}).get(what, 0)

    def kill(self, seconds=5):
        """kill -9: every caller gets ENOTCONN (or ECONNABORTED)."""
        if self._popen.poll() is None:
            os.kill(self._popen.pid, signal.SIGKILL)
        self._popen.wait(seconds)

    def ended(self, seconds=0):
        """Whether it is gone; by itself, it goes once nothing uses its mount."""
        try:
            self._popen.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def log(self):
        return self._log_path.read_text()
