"""The warm image takes itself: 4 processes with 20 threads initialize in random orders and speak with one another
over inner sockets, FIFOs and messages; each thread stops before its first use of something outside, the image
is made when all are stopped or idle, tells each thread's reason rightly, and the application goes on: each
outside peer is spoken to once, and not before the image was made."""

import json
import os
from pathlib import Path

import harness

EXPECTED = {
    "ref-tcp": ("connect", "tcp 127.0.0.1:"), "ref-unix": ("connect", "outside.sock"),
    "ref-udp": ("datagram", "udp 127.0.0.1:"), "ref-abstract": ("connect", "unix @outside"),
    "ref-fifo": ("fifo", "outside.fifo"), "ref-listen": ("listen", "tcp 0.0.0.0:"),
    "ref-netlink": ("netlink", "netlink protocol 15"), "ref-packet": ("socket", "family 17"),
    "ref-shm": ("shm", "/dev/shm/outside"), "ref-device": ("device", "/dev/loop-control"),
}
INNER = {
    "in-tcp-srv": "recv|read of", "in-tcp-cli": "polls", "in-unix-srv": "read of", "in-unix-cli": "polls",
    "in-abs-srv": "read of", "in-abs-cli": "polls", "in-fifo-w": "pause", "in-fifo-r": "read of", "in-msg-w": "pause",
    "in-msg-r": "msgrcv",
}


def one_run(t, host, peers, ports, seed):
    directory, log = f"/srv/peers{seed}", f"/srv/peers{seed}.log"
    peer = host.start(["/usr/bin/python3", str(Path(__file__).parent / "peers.py"), directory, log], name="peers")
    tcp, udp = peer.wait_line(r"ports (\d+) (\d+)", 20, "stdout").groups()
    app = host.supervise(["--name", f"warm{seed}", "--warm-point", "auto", "--warm-settle", "150ms",
                          "--images", "/srv/images", "--", str(t.guest_path("warm")), directory, str(seed), tcp, udp, "7999"],
                         name="app")
    app.wait_line("warm.image", 40, "stderr")
    for name in EXPECTED:
        app.wait_line(f"^passed {name}$", 20, "stdout")
    app.write("x")
    t.equal(app.wait(20), 0, f"seed {seed}: it ends as it would have")
    t.check("ERR" not in app.stdout.text, f"seed {seed}: no error was seen: {app.stdout.text}")
    shown = host.run([t.supervise_binary(), "images", "inspect", f"warm{seed}", "--images", "/srv/images", "--json"]).stdout
    manifest = json.loads(shown)
    threads = {thread["comm"]: thread for thread in manifest["threads"]}
    t.equal(manifest["reason"], "warm", f"seed {seed}: the image's reason")
    t.equal(len(threads), len(EXPECTED) + len(INNER) + 1, f"seed {seed}: no thread is missing: {sorted(threads)}")
    for name, (cls, text) in EXPECTED.items():
        thread = threads[name]
        t.check(thread["class"] == cls and text in thread["peer"], f"seed {seed}: {name} stopped at {thread}")
    stack = threads["ref-tcp"]["stack"]
    t.check(not stack or any("connect" in frame for frame in stack[:2]), f"seed {seed}: where it stopped: {stack}")
    for name, text in INNER.items():
        thread = threads[name]
        t.check(thread["class"] == "" and any(word in thread["reason"] for word in text.split("|")),
                f"seed {seed}: {name} waits: {thread}")
    spoken = [line.split() for line in host.path(log).read_text().splitlines()]
    t.equal(sorted(name for name, _ in spoken), ["abstract", "tcp", "udp", "unix"], f"seed {seed}: each peer once")
    t.check(all(int(when) > manifest["created_unix_ns"] for _, when in spoken), f"seed {seed}: none before the image")
    peer.kill()
    peer.reap(5)


def main(t):
    host = t.host("a")
    host.shell("mkdir -p /srv/images")
    first, seeds = int(os.environ.get("WARM_FIRST", "1")), int(os.environ.get("WARM_SEEDS", "5"))
    for seed in range(first, first + seeds):
        one_run(t, host, None, None, seed)


harness.run(main)
