"""Each --warm-point, and the overrides: where a small program stops, as its image tells; programs that nothing stops
make their image when they are idle, or not at all."""

import json
import subprocess
import sys

import harness

PRELUDE = """
import os, socket, sys, time, threading, subprocess
def say(*words): print(*words, flush=True)
"""

SERVER = PRELUDE + """
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", 7100)); say("bound")
s.listen(5); say("listening")
c, peer = s.accept(); say("accepted"); c.sendall(b"served"); c.close()
"""
CLIENT = PRELUDE + """
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.7", 53)); say("resolver")
"""
CLIENT6 = PRELUDE + """
try: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80))
except OSError as e: say("tried", e.errno)
"""
NOBODY = PRELUDE + """
for where in ("127.0.0.1", 7999), ("127.0.0.1", 7998):
    try: socket.socket().connect(where)
    except ConnectionRefusedError: say("refused")
try: socket.socket(socket.AF_UNIX).connect("/run/nobody.sock")
except FileNotFoundError: say("not there")
socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
say("ready"); time.sleep(0.2); sys.stdin.readline()
"""
OTHERS_TERMINAL = PRELUDE + """
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); say("opened")
"""
OWN_TERMINAL = PRELUDE + """
import pty
pid, master = pty.fork()
if pid == 0: print("child"); sys.exit()
os.read(master, 5); os.waitpid(pid, 0); say("own terminal"); sys.stdin.readline()
"""
EVENTS = PRELUDE + """
import select
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("0.0.0.0", 7101)); s.listen(5); say("listening")
e = select.epoll(); e.register(s, select.EPOLLIN); e.poll(20); c, p = s.accept(); say("accepted"); c.close()
"""
CHILDREN = PRELUDE + """
subprocess.run(["/bin/sh", "-c", "sleep 0.3; echo child done"]); say("parent goes on")
try: socket.socket().connect(("198.51.100.7", 1))
except OSError: pass
"""


class Modes:
    def __init__(self, t):
        self.t, self.host, self.number = t, t.host("a"), 0
        self.host.shell("mkdir -p /srv/images; ip route add 192.0.2.0/24 dev lo")

    def app(self, program, *options, arguments=()):
        self.number += 1
        self.name = f"m{self.number}"
        return self.host.supervise(["--name", self.name, "--images", "/srv/images", "--warm-settle", "150ms", *options, "--",
                                    "/usr/bin/python3", "-c", program, *arguments], name=self.name)

    def threads(self):
        done = self.host.run([self.t.supervise_binary(), "images", "inspect", self.name, "--images", "/srv/images", "--json"])
        return json.loads(done.stdout)["threads"]

    def stops(self, what, program, point, cls, peer, before, after, *more, arguments=()):
        """It stops with `before` printed and `after` not yet; the image says where; then it goes on."""
        app = self.app(program, "--warm-point", point, *more, arguments=arguments)
        app.wait_line("warm.image", 30, "stderr")
        stopped = [thread for thread in self.threads() if thread["class"]]
        self.t.check(len(stopped) == 1 and stopped[0]["class"] == cls and peer in stopped[0]["peer"],
                     f"{what}: stopped at {cls} {peer}: {stopped}")
        if before:
            self.t.check(before in app.stdout.text, f"{what}: after {before}")
        if after:
            app.wait_line(after, 20, "stdout")
            said = [line for line in app.stderr.text.splitlines() if "warm.stopped" in line]
            self.t.equal(len(said), 1, f"{what}: stopped once")
        return app

    def idle(self, what, program, *more, line="", answer=True):
        app = self.app(program, *more)
        app.wait_line("warm.image", 30, "stderr")
        self.t.check(not any(thread["class"] for thread in self.threads()), f"{what}: no thread stands before a reference")
        self.t.check(line in app.stdout.text, f"{what}: {line}")
        if answer:
            app.write("\n")
            self.t.equal(app.wait(20), 0, f"{what}: ends well")
        return app

    def served(self, app, port, what):
        self.host.run(["/usr/bin/python3", "-c", f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.recv(10)"])
        self.t.equal(app.wait(20), 0, f"{what}: it serves afterwards")


def main(t):
    m = Modes(t)
    app = m.stops("auto, a server", SERVER, "auto", "listen", "tcp 0.0.0.0:7100", "", "listening", "--external", "listen,connect")
    m.served(app, 7100, "auto")
    m.served(m.stops("bind", SERVER, "bind", "listen", "7100", "", "bound"), 7100, "bind")
    m.served(m.stops("listen", SERVER, "listen", "listen", "7100", "bound", "listening"), 7100, "listen")
    app = m.stops("accept", SERVER, "accept", "accept", "7100", "listening", "")
    m.served(app, 7100, "accept")
    app = m.idle("accept, with epoll", EVENTS, "--warm-point", "accept", line="listening", answer=False)
    m.served(app, 7101, "accept, with epoll")
    m.stops("connected udp", CLIENT, "auto", "datagram", "udp 192.0.2.7:53", "", "").wait(20)
    m.stops("tcp v6", CLIENT6, "connect", "connect", "tcp [2001:db8::1]:80", "", "tried").wait(20)
    m.stops("call:NAME", CLIENT, "call:connect", "call", "asked for", "", "resolver").wait(20)
    m.idle("nobody is there", NOBODY, "--warm-point", "auto", line="ready")
    m.idle("--internal", CLIENT + "\nsys.stdin.readline()", "--warm-point", "auto", "--internal", "192.0.2.7:*", line="resolver")
    m.idle("--external", CLIENT + "\nsys.stdin.readline()", "--warm-point", "auto", "--external", "listen,fifo", line="resolver")
    m.idle("a terminal of its own", OWN_TERMINAL, "--warm-point", "auto", line="own terminal")
    m.stops("children first", CHILDREN, "connect", "connect", "198.51.100.7:1", "child done", "").wait(20)

    sleeper = m.host.start(["/usr/bin/python3", "-c", "import os, time; m, s = os.openpty(); print('tty', os.ttyname(s), flush=True); time.sleep(60)"])
    tty = sleeper.wait_line(r"tty (\S+)", 10, "stdout").group(1)
    m.stops("another's terminal", OTHERS_TERMINAL, "auto", "terminal", tty, "", "opened", arguments=[tty]).wait(20)

    m.idle("what was taken", PRELUDE + "os.urandom(24); open('/etc/hostname').read(); os.uname(); sys.stdin.readline()",
           "--warm-point", "auto")
    shown = m.host.run([t.supervise_binary(), "images", "inspect", m.name, "--images", "/srv/images"]).stdout
    for text in ("warning (randomness)", "/etc/hostname was read", "uname was asked", "build-id"):
        t.check(text in shown, f"the image tells: {text}")

    manual = m.app(CLIENT + "\nsys.stdin.readline()", "--warm-point", "manual")
    manual.wait_line("resolver", 20, "stdout")
    m.host.run([t.supervise_binary(), "checkpoint", m.name])
    t.check(len(m.threads()) == 1, "manual: `supervise checkpoint` makes the image")
    manual.write("\n")
    t.equal(manual.wait(20), 0, "manual: ends well")

    held = m.app(PRELUDE + "threading.Thread(target=lambda: socket.socket().connect(('198.51.100.7', 1)), daemon=True).start()\n"
                 "while True: pass\n", "--warm-point", "auto")
    held.wait_line("warm.stopped", 20, "stderr")
    held.signal(15)
    held.wait_line("warm.given_up.*Terminated", 20, "stderr")
    t.equal(held.wait(20), 143, "who is told to end while a thread is stopped ends at once")

    busy = m.app(PRELUDE + "threading.Thread(target=lambda: socket.socket().connect(('198.51.100.7', 1)), daemon=True).start()\n"
                 "end = time.time() + 3\nwhile time.time() < end: pass\n", "--warm-point", "auto", "--warm-deadline", "1s")
    busy.wait_line("warm.late", 20, "stderr")
    busy.wait_line("warm.image", 20, "stderr")
    t.check(any("runs" in thread["reason"] for thread in m.threads()), "the deadline: the image tells who still ran")
    t.equal(busy.wait(20), 0, "the deadline: ends well")


harness.run(main)
