"""One image, several activations: each copy in a PID namespace of its own, each with a claim of its own, on
one host and on two. Where two copies would clash, one is prepared and it is said why."""

import json
import os
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standby_parked"))
from standby_support import STORE, Pair, empty  # noqa: E402


def ask(t, host):
    done = host.run([t.supervise_binary(), "activate", "app", "--json"], 60, check=False)
    return json.loads(done.stdout) if done.status == 0 else done.stderr


def main(t):
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
    listed = c.run([t.supervise_binary(), "status", "app-2", "--json"], 20)
    t.equal(json.loads(listed.stdout)["name"], "app-2", "an instance answers under its own name")
    for process, number in ((standby, 2), (on_c, 1)):
        harness.wait_until(lambda p=process, n=number: p.stdout.text.count("tick 400 pid") == n, 60, "all come to their end")
        t.equal(process.wait(30), 0, "and the standby ends with them")
    empty(t, pair.b, "nothing is left on b")
    empty(t, c, "nothing is left on c")
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
