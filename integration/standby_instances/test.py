"""One image, several activations: each copy in a PID namespace of its own, each with a claim of its own, on
one host and on two. Where two copies would clash, one is prepared and it is said why."""

import json
import os
import re
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standby_parked"))
from standby_support import STORE, Pair, empty  # noqa: E402


# Looks at the file in three ways, at each turn and in its handler, and says what it sees when that changes.
PROGRAM = """
import ctypes, mmap, os, signal, time
name = os.environ["SUPERVISE_GENERATION_FILE"]
kept = open(name, "rb", buffering=0)
mapped = mmap.mmap(kept.fileno(), 0, prot=mmap.PROT_READ)
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
libc.inotify_add_watch(watch, name.encode(), 2)
def look():
    with open(name, "rb") as anew: seen = {anew.read(), os.pread(kept.fileno(), 99, 0), mapped[:]}
    return seen.pop().decode().strip() if len(seen) == 1 else f"differing {seen}"
signal.signal(signal.SIGUSR1, lambda *_: print("handler", look(), flush=True))
before = look()
print("started", before, flush=True)
while not os.path.exists("/srv/shared/stop"):
    now = look()
    if now != before: print("became", now, flush=True)
    before = now
    try: print("notified", len(os.read(watch, 4096)) > 0, flush=True)
    except BlockingIOError: pass
    time.sleep(0.01)
print("ended", before, flush=True)
"""


def generations(t):
    """Each copy, however it was kept, finds itself to be another instance, before it runs; the origin does not."""
    pair = Pair(t)
    stop = t.shared / "stop"
    c = t.host("c")
    app = pair.a.supervise(["--name", "app", "--images", STORE, "--", "/usr/bin/python3", "-c", PROGRAM], stdio="files", name="origin")
    first = app.wait_line(r"started (0 0 [0-9a-f]{59})", 30, "stdout").group(1)
    pair.checkpoint()
    pair.checkpoint()
    standby = pair.standby("--instances", "3", "--activate-signal", "USR1")
    harness.wait_until(lambda: standby.stderr.text.count("standby.parked") == 3, 60, "three copies are parked")
    on_c = c.supervise(["standby", "--name", "app", "--from", f"dir:{STORE}", "--ready", "cached", "--activate", "command",
                        "--instances", "4", "--activate-signal", "USR1"], stdio="files", name="standby-c")
    on_c.wait_line(r"standby\.cached", 60, "stderr")
    for number, host in enumerate((pair.b, pair.b, c), 1):
        t.equal(ask(t, host)["instance"], number, f"instance {number} is activated")
    for process, count in ((standby, 2), (on_c, 1)):
        harness.wait_until(lambda p=process, n=count: p.stdout.text.count("notified True") == n, 20,
                           "a watch of the file is told, too")
    stop.touch()
    t.equal(app.wait(30), 0, "the origin ends as it would have")
    t.check(f"ended {first}" in app.stdout.text and "became" not in app.stdout.text, "and was the same all the time")
    seen = {first}
    for process, numbers in ((standby, (1, 2)), (on_c, (3,))):
        t.equal(process.wait(60), 0, "the copies end")
        for number in numbers:
            found = re.search(rf"handler (2 {number} [0-9a-f]{{59}})$", process.stdout.text, re.M)
            t.check(found, f"instance {number} of generation 2 is told so before anything else")
            seen.add(found.group(1))
            for word in ("became", "ended"):
                t.check(f"{word} {found.group(1)}" in process.stdout.text, f"and sees it by name, descriptor and mapping ({word})")
    t.equal(len(seen), 4, "no two are the same")
    t.check("differing" not in standby.stdout.text + on_c.stdout.text, "the three ways to look agree")
    for host in (pair.a, pair.b, c):
        host.power_off()


def ask(t, host):
    done = host.run([t.supervise_binary(), "activate", "app", "--json"], 60, check=False)
    return json.loads(done.stdout) if done.status == 0 else done.stderr


def free(t, host, *more):
    return host.run([t.supervise_binary(), "images", "free", "app", "--images", STORE, *more], 30, check=False)


def freed(t, pair, c):
    """All that activated the image have ended: it can be freed, and activated again. So it can be when the host that has
    it is gone, once that is told."""
    t.equal(free(t, pair.b).stdout, f"3 claims removed from {STORE}/app/gen-000001\n", "all ended: the claims are removed")
    standby = pair.standby()
    standby.wait_line(r"standby\.parked", 60, "stderr")
    t.equal(ask(t, pair.b)["instance"], 1, "it is activated again")
    t.check("is alive" in free(t, pair.b, "--force").stderr, "who is alive is not taken from")
    pair.b.power_off(crash=True)
    on_c = c.supervise(["standby", "--name", "app", "--from", f"dir:{STORE}", "--ready", "parked", "--activate", "command"],
                       stdio="files", name="standby-c")
    on_c.wait_line("standby.ready", 20, "stderr")
    harness.wait_until(lambda: "claimed by host b" in ask(t, c), 20, "on c it is refused")
    t.equal(free(t, c).status, 1, "nor can it be freed there")
    t.equal(free(t, c, "--force").status, 0, "but when b is known to be dead")
    on_c.wait_line(r"standby\.parked", 60, "stderr")
    t.equal(ask(t, c)["instance"], 1, "and is activated on c")
    t.equal(on_c.wait(60), 0, "and comes to its end")


def main(t):
    generations(t)
    pair = Pair(t)
    pair.ticker("--ticks", "400")
    pair.checkpoint("--stop")
    c = t.host("c")
    on_c = c.supervise(["standby", "--name", "app", "--from", f"dir:{STORE}", "--ready", "parked", "--activate", "command",
                        "--instances", "3"], stdio="files", name="standby-c")
    standby = pair.standby("--instances", "3")
    for one in (standby, on_c):
        harness.wait_until(lambda o=one: o.stderr.text.count("standby.parked") == 3, 60, "three copies are parked")
    spaces = {os.readlink(f"/proc/{pid}/ns/pid") for pid in pair.guests(pair.b, "ticker")}
    t.equal(len(spaces), 3, "each in a PID namespace of its own")
    first, second, third = ask(t, pair.b), ask(t, c), ask(t, pair.b)
    t.equal([a["instance"] for a in (first, second, third)], [1, 2, 3], "each activation takes the next instance")
    t.equal(len({a["pid"] for a in (first, third)}), 2, "and wakes another copy")
    fourth = ask(t, pair.b)
    t.check("claimed by host" in fourth, f"a fourth is refused: {fourth}")
    for host, text in ((pair.b, "is alive"), (c, "is alive"), (pair.a, "fence that host")):
        done = free(t, host)
        t.check(done.status == 1 and text in done.stderr, f"its claims can't be removed meanwhile: {done.stderr.strip()}")
    listed = c.run([t.supervise_binary(), "status", "app-2", "--json"], 20)
    t.equal(json.loads(listed.stdout)["name"], "app-2", "an instance answers under its own name")
    for process, number in ((standby, 2), (on_c, 1)):
        harness.wait_until(lambda p=process, n=number: p.stdout.text.count("tick 400 pid") == n, 60, "all come to their end")
        t.equal(process.wait(30), 0, "and the standby ends with them")
    empty(t, pair.b, "nothing is left on b")
    empty(t, c, "nothing is left on c")
    freed(t, pair, c)
    for host in (pair.a, pair.b, c):
        host.power_off()

    pair = Pair(t)
    pair.origin()
    pair.checkpoint("--stop")
    standby = pair.standby("--instances", "2")
    line = standby.wait_line(r"standby\.one_instance.*", 60, "stderr").group(0)
    t.check("storage path data is open for writing" in line, f"a clash is told: {line}")
    t.equal(len(pair.status()["copies"]), 1, "and one copy is there")
    t.equal(pair.activate()["instance"], 1, "which can be activated")
    t.check("was activated here" in pair.activate(check=False).stderr, "once")
    t.equal(standby.wait(60), 0, "it goes on to its end")
    pair.whole()
    empty(t, pair.b, "nothing is left on b")


harness.run(main)
