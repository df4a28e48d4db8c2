"""Programs that a scenario starts: their output line by line, their end, always with a deadline.

Start programs from the main thread only: they die with the thread that started them.
"""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time

from . import system


class Stream:
    """The lines of one output, read by a thread of its own; usable while the program runs."""

    def __init__(self, name, fd=None, follow=None):
        self.name = name
        self.ended = False
        self._text = ""
        self._changed = threading.Condition()
        self._stop = False
        self._file = None if follow is None else open(follow, "rb")
        target = (lambda: self._read(fd)) if follow is None else self._follow
        self._thread = threading.Thread(target=target, daemon=True)
        self._thread.start()

    @property
    def text(self):
        """What it printed until now; of a file, all that is in it at this moment."""
        self._catch_up()
        return self._text

    def _add(self, data):
        with self._changed:
            self._text += data.decode("utf-8", "replace")
            self._changed.notify_all()

    def _catch_up(self):
        with self._changed:
            data = self._file.read() if self._file else b""
            if data:
                self._add(data)
            return bool(data)

    def _end(self):
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _read(self, fd):
        while True:
            try:
                data = os.read(fd, 65536)
            except OSError:  # a terminal whose other side is gone says EIO
                data = b""
            if not data:
                break
            self._add(data)
        os.close(fd)
        self._end()

    def _follow(self):
        last = False
        while self._catch_up() or not last:
            last = self._stop
            time.sleep(0.01)
        self._end()

    def close(self, seconds=2):
        """Waits a little for what is still in the pipe; a surviving grandchild may hold it open."""
        self._stop = True
        self._thread.join(seconds)

    def search(self, pattern, seconds, start=0):
        """The first match of `pattern` from position `start`; None at the deadline or the end."""
        end = time.monotonic() + seconds
        expression = re.compile(pattern, re.MULTILINE)
        with self._changed:
            while True:
                match = expression.search(self._text, start)
                if match or self.ended or time.monotonic() >= end:
                    return match
                self._changed.wait(min(0.5, max(0.001, end - time.monotonic())))


class Result:
    """The end of a short command."""

    def __init__(self, argv, status, stdout, stderr):
        self.argv, self.status, self.stdout, self.stderr = argv, status, stdout, stderr

    def __str__(self):
        return f"{' '.join(self.argv)}: exit {self.status}\n{self.stdout}{self.stderr}"


class Process:
    """A program on a host (or, without one, beside the scenario).

    stdio "pipe": three pipes; "files": files that are opened inside the host, as a user's redirection
    is; "tty": one pseudo-terminal, whose output is `stdout`.
    """

    def __init__(self, scenario, argv, host=None, name=None, stdio="pipe", env=None, cwd=None):
        assert threading.current_thread() is threading.main_thread()
        self.scenario, self.host = scenario, host
        self.argv = [os.fspath(word) for word in argv]
        self.name = name or os.path.basename(self.argv[0])
        self._index = scenario.next_index()
        self.started = time.monotonic()
        environment = scenario.environment(env)
        wrapper, self._pid_file = [], None
        if host:
            self._pid_file = scenario.work / f"pid-{self._index}"
            wrapper = [scenario.tool("hostenter"), str(host.pid), "--pid-file", str(self._pid_file)]
            if cwd:
                wrapper += ["--cwd", os.fspath(cwd)]
        self._terminal = None
        self._stdin = None
        self.stdout = self.stderr = None
        if stdio == "tty":
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 25, 100, 0, 0))
            self._spawn(wrapper, theirs, theirs, theirs, environment, cwd)
            os.close(theirs)
            self._terminal = ours
            self.stdout = self.stderr = Stream("tty", os.dup(ours))
        elif stdio == "files":
            base = scenario.logs / f"{self._index}-{self.name}"
            out, err = f"{base}.out", f"{base}.err"
            for path in (out, err):
                open(path, "w").close()
            null = os.open("/dev/null", os.O_RDWR)
            if not host:
                raise ValueError("stdio='files' opens them inside a host")
            wrapper += ["--stdin", "/dev/null", "--stdout", out, "--stderr", err]
            self._spawn(wrapper, null, null, null, environment, cwd)
            os.close(null)
            self.stdout, self.stderr = Stream("stdout", follow=out), Stream("stderr", follow=err)
        else:
            in_read, self._stdin = os.pipe()
            out_read, out_write = os.pipe()
            err_read, err_write = os.pipe()
            self._spawn(wrapper, in_read, out_write, err_write, environment, cwd)
            for fd in (in_read, out_write, err_write):
                os.close(fd)
            self.stdout, self.stderr = Stream("stdout", out_read), Stream("stderr", err_read)
        self.pid = self._find_pid()
        scenario.processes.append(self)

    def _spawn(self, wrapper, stdin, stdout, stderr, environment, cwd):
        argv = wrapper + (["--"] if wrapper else []) + self.argv
        self._popen = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=environment,
                                       cwd=None if wrapper else cwd, close_fds=True,
                                       start_new_session=True)

    def _find_pid(self):
        if not self.host:
            return self._popen.pid

        def read():
            try:
                return int(self._pid_file.read_text() or 0)
            except FileNotFoundError:
                return 0 if self._popen.poll() is None else -1
        return system.wait_until(read, 10, f"start of {self.name}", pause=0.001)

    # What it says ------------------------------------------------------------------------------

    def wait_line(self, pattern, seconds=10, stream="any", start=0):
        """The match of `pattern` in what it printed. AssertionError at the deadline or its end."""
        streams = {"stdout": [self.stdout], "stderr": [self.stderr],
                   "any": [self.stdout, self.stderr]}[stream]
        end = time.monotonic() + seconds
        while True:
            for candidate in streams:
                match = candidate.search(pattern, 0 if len(streams) > 1 else max(0, end - time.monotonic()),
                                         start)
                if match:
                    return match
            ended = all(s.ended for s in streams)
            if ended or time.monotonic() >= end:
                why = f"it ended with {self.poll()}" if ended else f"not within {seconds} s"
                raise AssertionError(f"{self.name} never printed {pattern!r}: {why}")
            time.sleep(0.002)

    def write(self, text):
        data = text.encode() if isinstance(text, str) else text
        fd = self._terminal if self._terminal is not None else self._stdin
        while data:
            data = data[os.write(fd, data):]

    def close_stdin(self):
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def resize(self, rows, columns):
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    # How it ends -------------------------------------------------------------------------------

    def poll(self):
        """The exit status as a shell sees it (128+n for a signal), or None while it runs."""
        code = self._popen.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, seconds=30):
        """The exit status; AssertionError at the deadline (the program goes on)."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds} s: {self.describe()}") from None
        self.stdout.close()
        self.stderr.close()
        return self.poll()

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """SIGKILL to its process group; the rest of its tree is the host's to end. The wrapper lives on to
        reap it: an orphan would be left to this machine's init, which may take its time."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def reap(self, seconds):
        """After kill(): whether it is gone; closes what this side holds."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return False
        self.close_stdin()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        self.stdout.close(0.2)
        self.stderr.close(0.2)
        return True

    def descendants(self):
        """PIDs, as seen here, of all that stem from it."""
        parents = {}
        for pid in system.pids():
            state = system.process_state(pid)
            if state:
                parents.setdefault(state[2], []).append(pid)
        found, queue = [], [self.pid]
        while queue:
            children = parents.get(queue.pop(), [])
            found += children
            queue += children
        return found

    def describe(self):
        lines = []
        for pid in [self.pid] + self.descendants():
            state = system.process_state(pid)
            if state:
                try:
                    with open(f"/proc/{pid}/wchan") as file:
                        where = file.read()
                except OSError:
                    where = "?"
                lines.append(f"{pid} {state[0]} {state[1]} {where}")
        return "; ".join(lines)


def run(scenario, argv, seconds=30, check=True, host=None, env=None, cwd=None, stdin=None):
    """Runs a short command to its end. At the deadline it is killed and TimeoutError raised."""
    process = Process(scenario, argv, host=host, env=env, cwd=cwd)
    try:
        if stdin is not None:
            try:
                process.write(stdin)
            except BrokenPipeError:
                pass
        process.close_stdin()
        try:
            process.wait(seconds)
        except AssertionError as error:
            raise TimeoutError(str(error)) from None
    finally:
        if process.poll() is None:
            process.kill()
        if process.reap(2):
            scenario.processes.remove(process)
    result = Result(process.argv, process.poll(), process.stdout.text, process.stderr.text)
    if check and result.status != 0:
        raise AssertionError(str(result))
    return result
