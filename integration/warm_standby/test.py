"""From the warm point on A to the first outside effect from B: the image makes itself before the first use of a recording
peer on a third host, is parked on B, A is destroyed, and only on `supervise activate` the held call goes out, from B,
once. The program was initialized on A and is not again."""

import re
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standby_parked"))
from standby_support import STORE, Pair  # noqa: E402

PEER = """
import socket, time
s = socket.socket(socket.AF_UNIX); s.bind("/srv/shared/peer.sock"); s.listen(9); print("listening", flush=True)
while True:
    c, _ = s.accept()
    print("spoken to by", c.recv(100).decode(), flush=True)
"""
SERVICE = """
import os, socket, threading, time
with open("/srv/shared/initialized", "a") as log: log.write("once\\n")
table = {i: str(i * i) for i in range(200000)}
def beat():
    while True: time.sleep(0.05)
threading.Thread(target=beat, daemon=True).start()
s = socket.socket(socket.AF_UNIX); s.connect("/srv/shared/peer.sock")
s.sendall(os.uname().nodename.encode())
print("served by", os.uname().nodename, len(table), flush=True)
"""


def main(t):
    pair = Pair(t)
    c = t.host("c")
    peer = c.start(["/usr/bin/python3", "-c", PEER], name="peer")
    peer.wait_line("listening", 20, "stdout")
    standby = pair.standby(name="svc")
    standby.wait_line("standby.ready", 20, "stderr")
    app = pair.a.supervise(["--name", "svc", "--warm-point", "auto", "--standby", f"dir:{STORE}", "--", "/usr/bin/python3",
                            "-c", SERVICE], stdio="files", name="origin")
    app.wait_line("warm.stopped.*unix /srv/shared/peer.sock", 30, "stderr")
    app.wait_line("warm.image", 30, "stderr")
    app.wait_line("served by a 200000", 20, "stdout")
    t.equal(app.wait(20), 0, "the original goes on as if nothing had been")
    standby.wait_line(r"standby\.parked", 60, "stderr")
    pair.a.power_off(crash=True)
    t.equal(re.findall("spoken to by (.*)", peer.stdout.text), ["a"], "the peer knows of A only")
    answer = pair.activate("svc")
    standby.wait_line("served by b 200000", 20, "stdout")
    t.equal(standby.wait(30), 0, "the copy ends as the program does, and the standby with it")
    harness.wait_until(lambda: "spoken to by b" in peer.stdout.text, 10, "the peer was spoken to from B")
    t.equal(re.findall("spoken to by (.*)", peer.stdout.text), ["a", "b"], "once from each")
    t.equal((t.shared / "initialized").read_text(), "once\n", "it was initialized once")
    t.say(f"woken in {answer['ms']:.3f} ms")


harness.run(main)
