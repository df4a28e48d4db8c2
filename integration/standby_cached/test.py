"""Images that are held in memory: verified once, then restored on command; the fallback when memory can't be
locked; the command and the signal of an activation."""

import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standby_parked"))
from standby_support import Pair, empty  # noqa: E402


def activated(t, standby, pair, level):
    answer = pair.activate()
    t.equal((answer["instance"], answer["level"]), (1, level), "it is activated")
    t.say(f"{level}: claim {answer['claim_ms']:.3f} ms, wake {answer['wake_ms']:.1f} ms, all {answer['ms']:.1f} ms")
    t.check("host b, pid" in pair.activate(check=False).stderr, "a second time it is refused, with the owner named")
    t.equal(standby.wait(30), 0, "it goes on to its end, with its memory as it was")
    ticks = [line for line in standby.stdout.text.splitlines() if line.startswith("tick")]
    t.check(ticks and ticks[-1].startswith("tick 100 "), f"it went on where it was: {ticks[:1]} to {ticks[-1:]}")
    empty(t, pair.b, "nothing is left on b")
    for host in (pair.a, pair.b):
        host.power_off()


def main(t):
    pair = Pair(t)
    pair.ticker("--mib", "100")
    pair.checkpoint("--stop")
    standby = pair.standby("--activate-signal", "USR1", "--on-activate", "echo hook-$SUPERVISE_INSTANCE; sleep 600",
                           "--on-activate-deadline", "300ms", ready="cached")
    standby.wait_line(r"standby\.cached", 60, "stderr")
    copy = pair.status()["copies"][0]
    t.check(copy["locked"] > 100 << 20, f"{copy['locked'] >> 20} MiB are locked")
    t.equal(pair.guests(pair.b, "ticker"), {}, "no process of it is there")
    activated(t, standby, pair, "cached")
    t.check("seed\n" in standby.stdout.text, "it got its signal")
    t.check(standby.stdout.text.index("seed") < standby.stdout.text.index("tick"), "before anything else")
    t.check("hook-1" in standby.stderr.text, "the command was run")
    t.check("was killed after 0.3 s" in standby.stderr.text, "and ended at its deadline")

    pair = Pair(t)
    pair.ticker("--mib", "4")
    pair.checkpoint("--stop")
    standby = pair.b.start(["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", "--memlock=65536",
                            t.supervise_binary(), "standby", "--name", "app", "--from", "dir:/srv/shared/images", "--ready",
                            "cached", "--activate", "command"], stdio="files", name="standby")
    standby.wait_line(r"standby\.limited.*RLIMIT_MEMLOCK is 64 KiB", 60, "stderr")
    standby.wait_line(r"standby\.cached", 20, "stderr")
    t.check(pair.status()["copies"][0]["locked"] < 65536, "and how much is locked")
    standby.signal(15)
    t.equal(standby.wait(20), 143, "it ends on SIGTERM")
    for host in (pair.a, pair.b):
        host.power_off()

    pair = Pair(t)
    pair.ticker()
    pair.checkpoint("--stop")
    standby = pair.standby(ready="image")
    standby.wait_line(r"standby\.verified", 60, "stderr")
    activated(t, standby, pair, "image")


harness.run(main)
