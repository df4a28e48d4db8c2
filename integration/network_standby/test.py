"""Warm standby without shared storage: the image is pushed to a standby on B that listens, while CRIU still writes
it; the network is cut in the middle and comes back; bytes are damaged on their way; a second image follows with
--refresh; A is destroyed; B activates. The recording peer on C hears nothing from B before."""

import json
import re

import harness

PORT = 7410
PEER = """
import socket
s = socket.create_server(("10.77.0.3", 5000)); print("listening", flush=True)
while True:
    c, who = s.accept()
    print("spoken to by", who[0], c.recv(100).decode(), flush=True)
"""
# Pages that zstd can't make smaller, so that there is something to send.
SERVICE = """
import os, socket, sys, time
data = bytearray(os.urandom(48 << 20))
digest = sum(data[::4096])
s = socket.socket(); s.connect(("10.77.0.3", 5000))
s.sendall(os.uname().nodename.encode())
print("served by", os.uname().nodename, digest == sum(data[::4096]), flush=True)
if os.uname().nodename == "a": time.sleep(600)
"""


def main(t):
    a, b, c = t.host("a"), t.host("b"), t.host("c")
    here, there, _ = t.network(a, b, c)
    supervise = t.supervise_binary()
    keys = "/srv/shared/keys"
    a.run([supervise, "keys", keys, here, there])
    b.run(["mkdir", "-p", "/srv/images"])
    peer = c.start(["/usr/bin/python3", "-c", PEER], name="peer")
    peer.wait_line("listening", 20, "stdout")

    def standby(points=""):
        one = b.supervise(["standby", "--name", "svc", "--images", "/srv/images", "--listen", f"{there}:{PORT}", "--tls",
                           f"{keys}/{there}", "--ready", "parked", "--activate", "command"], stdio="files", name="standby",
                          env={"SUPERVISE_FAULT_POINTS": points} if points else None)
        one.wait_line("standby.ready", 20, "stderr")
        return one

    # The process that receives dies after some pieces; the next goes on where that one was.
    (t.shared / "once").write_text("")
    first = standby("receive.data@9=kill:/srv/shared/once")
    app = a.supervise(["--name", "svc", "--warm-point", "auto", "--refresh", "6s", "--standby", f"{there}:{PORT}", "--tls", f"{keys}/{here}",
                       "--images", "/srv/images", "--", "/usr/bin/python3", "-c", SERVICE], stdio="files", name="origin")
    app.wait_line("warm.stopped.*tcp 10.77.0.3:5000", 60, "stderr")
    app.wait_line("warm.image", 60, "stderr")
    app.wait_line("ship.trouble", 60, "stderr")
    t.check(not (t.shared / "once").exists(), "the receiving process died once")
    done = app.wait_line(r"ship.done.* ([0-9.]+) MiB are at .*image gen-000001 \(([0-9.]+) MiB over", 60, "stderr")
    size, sent = float(done.group(1)), float(done.group(2))
    t.check(size > 48, "the whole image is there")
    # Twice at the most what lay in buffers when the process died.
    t.check(sent < 1.6 * size, f"what had arrived was not sent again ({sent} of {size} MiB)")
    first.wait_line("receive.image", 20, "stderr")
    first.wait_line(r"standby\.parked", 60, "stderr")
    app.wait_line("served by a True", 30, "stdout")
    t.equal(re.findall("spoken to by (.*)", peer.stdout.text), [f"{here} a"], "the original went on, and spoke to the peer once")

    # A refresh while nobody listens is sent when somebody does. Its connection to the peer is in it.
    first.signal(15)
    first.wait(20)
    seen = len(app.stderr.text)
    app.wait_line("ship.trouble.*tried again", 60, "stderr", seen)
    app.signal(9)
    app.wait(20)

    # A is gone; what B has is enough.
    a.power_off(crash=True)
    t.check("a" in peer.stdout.text, "the peer knows of A")
    second = standby()
    second.wait_line(r"standby\.parked.*gen-000001", 60, "stderr")
    answer = json.loads(b.run([supervise, "activate", "svc", "--json"], 60).stdout)
    second.wait_line("served by b True", 20, "stdout")
    t.equal(second.wait(30), 0, "the copy ends as the program does")
    harness.wait_until(lambda: f"spoken to by {there} b" in peer.stdout.text, 10, "the peer was spoken to from B")
    t.equal(re.findall("spoken to by (.*)", peer.stdout.text), [f"{here} a", f"{there} b"], "once from each")
    left = b.run(["find", "/srv/images", "-path", "*incoming*", "-name", "*.img"]).stdout
    t.equal(left, "", "nothing half is left on B")
    t.say(f"woken in {answer['ms']:.3f} ms")


harness.run(main)
