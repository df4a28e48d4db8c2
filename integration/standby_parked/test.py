"""A checkpoint of a multi-process guest is parked on the second host: nothing of it runs there. The origin's
host is destroyed and the image store taken away; then it is activated, goes on, and its data is whole. A
second activation is refused with the owner named."""

import os
import re
import shutil
import time

import harness
from standby_support import STORE, Pair, empty, rounds_of, ticks


def main(t):
    pair = Pair(t)
    app = pair.origin()
    refused = pair.b.run([t.supervise_binary(), "activate", "app"], 20, check=False)
    t.equal(refused.status, 1, "without a standby there is nothing to activate")
    standby = pair.standby("--on-activate", "env | grep ^SUPERVISE_ > /srv/shared/hook; exit 3", "--activate-signal", "CONT")
    standby.wait_line("standby.ready", 20, "stderr")
    t.equal(pair.activate(check=False).status, 1, "without an image there is nothing to activate")
    pair.checkpoint("--stop")
    t.equal(app.wait(30), 113, "the origin has stopped with its image")
    standby.wait_line(r"standby\.parked.*gen-000001", 60, "stderr")

    parked = pair.guests(pair.b)
    t.equal(len(parked) >= 3, True, f"a process tree is parked: {len(parked)} processes")
    t.equal(set(parked.values()), {"t"}, "all of it is in ptrace stops")
    before, size = ticks(parked), sum(f.stat().st_size for f in (t.shared / "data").rglob("*") if f.is_file())
    time.sleep(1)
    t.equal(ticks(parked), before, "nothing of it has run in a second")
    t.equal(sum(f.stat().st_size for f in (t.shared / "data").rglob("*") if f.is_file()), size, "and nothing was written")
    status = pair.status()
    t.equal((status["copies"][0]["level"], status["copies"][0]["generation"]), ("parked", 1), "status tells level and image")
    t.check(status["copies"][0]["memory"] > 1 << 20, f"and the memory: {status['copies'][0]['memory'] >> 20} MiB")

    pair.a.power_off(crash=True)
    answer = pair.activate()
    t.equal((answer["instance"], answer["generation"], answer["level"]), (1, 1, "parked"), "the answer tells which one")
    t.say(f"claim {answer['claim_ms']:.3f} ms, wake {answer['wake_ms']:.3f} ms, all {answer['ms']:.3f} ms")
    second = pair.activate(check=False)
    t.equal(second.status, 1, "a second activation is refused")
    t.check(re.search(r"host b, pid \d+.* at \d{4}-", second.stderr), f"with the owner named: {second.stderr.strip()}")
    listed = pair.b.run([t.supervise_binary(), "images", "list", "app", "--images", STORE], 20).stdout
    t.check("running on b" in listed, "the store tells it too")
    t.equal(standby.wait(60), 0, "the application ends as it would have, and the standby with it")
    t.equal(rounds_of(app) + rounds_of(standby), list(range(1, pair.rounds + 1)), "it went on where it was")
    pair.whole()
    for name, value in (("NAME", "app"), ("IMAGE", f"{STORE}/app/gen-000001"), ("GENERATION", "1"), ("INSTANCE", "1")):
        t.check(f"SUPERVISE_{name}={value}\n" in (t.shared / "hook").read_text(), f"--on-activate had SUPERVISE_{name}")
    empty(t, pair.b, "nothing is left on b")

    again = pair.standby()
    again.wait_line("standby.ready", 20, "stderr")
    harness.wait_until(lambda: "host b" in getattr(pair.activate(check=False), "stderr", ""), 20,
                       "a later standby names who has run it")
    again.signal(15)
    t.equal(again.wait(20), 143, "a standby ends on SIGTERM")
    pair.b.power_off()
    lost_store(t)


def lost_store(t):
    """The store goes away while the copy is parked, as with its host."""
    pair = Pair(t)
    app = pair.origin()
    pair.checkpoint("--stop")
    t.equal(app.wait(30), 113, "the origin has stopped with its image")
    standby = pair.standby()
    standby.wait_line(r"standby\.parked", 60, "stderr")
    os.rename(t.shared / "images", t.shared / "gone")
    pair.a.power_off(crash=True)
    standby.wait_line(r"standby\.store.*can't be read", 20, "stderr")
    answer = pair.activate()
    t.check("no other host" in answer["warning"], "it is activated, and says that no claim could be made")
    t.equal(pair.activate(check=False).status, 1, "and not twice")
    t.equal(standby.wait(60), 0, "the application ends as it would have")
    pair.whole()
    shutil.rmtree(t.shared / "gone")
    empty(t, pair.b, "nothing is left on b")


harness.run(main)
