"""Starts a command and asks a server until it gives a good answer; prints milliseconds from the start as JSON.

client.py PORT REQUEST ANSWER LATER SECONDS end|leave COMMAND...   REQUEST: hex. ANSWER, LATER: regular expressions; who
answers LATER is asked again.
`end`: the command is the server, which gets SIGTERM then. `leave`: the command ends by itself.
"""

import json
import os
import re
import select
import signal
import socket
import sys
import time

PAUSE = 0.0002


def ask(port, request, good, later, watch, until):
    """The good answer, or None when the server refuses or gives another one."""
    with socket.socket() as s:
        s.setblocking(False)
        if s.connect_ex(("127.0.0.1", port)) not in (0, 115):
            return None
        sent, answer = False, b""
        while time.monotonic() < until:
            reads, writes, _ = select.select([s, *watch.open()], [] if sent else [s], [], 1)
            watch.look(reads)
            try:
                if writes:
                    s.sendall(request)
                    sent = True
                if s in reads:
                    part = s.recv(65536)
                    answer += part
                    if good.search(answer):
                        return answer
                    if not part or later.search(answer):
                        return None
            except OSError:
                return None
    return None


class Watch:
    """The command's end, told by its descriptor."""

    def __init__(self, pid, began):
        self.pid, self.began, self.fd, self.ms, self.status = pid, began, os.pidfd_open(pid), None, None

    def open(self):
        return [self.fd] if self.ms is None else []

    def look(self, ready):
        if self.fd in ready:
            self.ms = (time.monotonic() - self.began) * 1000
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def main(port, request, answer, later, seconds, then, *command):
    request, good, later = bytes.fromhex(request), re.compile(answer.encode(), re.DOTALL), re.compile(later.encode())
    null = os.open("/dev/null", os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, 2, 1)]
    began = time.monotonic()
    watch = Watch(os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setsid=True), began)
    until, got = began + float(seconds), None
    while got is None and time.monotonic() < until and watch.status in (None, 0):
        got = ask(int(port), request, good, later, watch, until)
        if got is None:
            watch.look(select.select(watch.open(), [], [], PAUSE)[0])
    first = (time.monotonic() - began) * 1000
    if then == "end" and watch.ms is None:
        os.kill(watch.pid, signal.SIGTERM)
        if not select.select([watch.fd], [], [], 15)[0]:
            os.killpg(watch.pid, signal.SIGKILL)
        os.waitpid(watch.pid, 0)
    elif watch.ms is None:
        watch.look(select.select([watch.fd], [], [], max(0.0, until - time.monotonic()))[0])
    print(json.dumps({"first_ms": first if got else None, "command_ms": watch.ms, "status": watch.status,
                      "answer": (got or b"").decode("latin1")}))
    return 0 if got else 1


sys.exit(main(*sys.argv[1:]))
