"""After a hand-over the application is as safe on B as it was on A: its supervisor there is killed again and again, a keeper
goes on, the claim names it, and the data is whole. The same for an image of a checkpoint that is restored in the foreground."""

import json
import re
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402
from losses import lose  # noqa: E402


def ended(host):
    return not any(name.startswith("supervise") for name, _ in host.processes().values())


def handed_over(t):
    pair = steps.Pair(t, rounds=60, delay=60)
    standby = pair.standby()
    pair.start()
    t.equal(pair.hand_over().status, 0, "the hand-over")
    t.equal(pair.app.wait(30), 113, "A has handed over")
    pair.goes_on(standby, "on B")
    lose(t, pair.b, standby, 2)
    t.equal(pair.b.run([t.supervise_binary(), "adopt", "app"], 30, check=False).status, 0, "another program takes it over")
    t.check("adopt.done" in standby.stderr.text, "and says so")
    last = lose(t, pair.b, standby, 3, 5)
    pair.goes_on(standby, "on B after five deaths")
    t.equal(standby.stderr.text.count("handover.resumed"), 1, "the first good I/O on B is told once")
    claims = [json.loads(path.read_text()) for path in (t.shared / "images").rglob("claim.json")]
    t.equal([(c["owner"]["pid"], c["state"]) for c in claims], [(last, "running")], "the claim names who supervises it")
    harness.wait_until(lambda: ended(pair.b), 60, "the application ends")
    claims = [json.loads(path.read_text()) for path in (t.shared / "images").rglob("claim.json")]
    t.equal([c["state"] for c in claims], ["ended"], "the claim says so")
    pair.whole(0)
    for host in (pair.a, pair.b):
        host.power_off()


def restored(t):
    host = t.host("c")
    host.mkdir("/srv/first")
    writer = str(t.guest_path("writer"))
    app = host.supervise(["--name", "app", "--path", "data=/srv/first", "--images", "/srv/images", "--", writer, "/srv/first/tree", "60", "5",
                          "--delay", "60"], stdio="files")
    app.wait_line("round 3", 30, "stdout")
    done = host.run([t.supervise_binary(), "checkpoint", "app", "--stop", "--json"], 60)
    again = host.supervise(["restore", json.loads(done.stdout)["image"], "--path", "data=/srv/first"], stdio="files", name="restored")
    again.wait_line("round ", 30, "stdout")
    lose(t, host, again, 3)
    harness.wait_until(lambda: ended(host), 60, "the application ends")
    t.check(re.search("^done: 60 rounds, 0 failures", again.stdout.text, re.M), "it ends as it would have")
    host.run([writer, "--expect", "/srv/expected", "60", "5"], 60)
    t.equal(host.run([writer, "--compare", "/srv/first/tree", "/srv/expected"], 60, check=False).status, 0, "the tree is whole")
    host.power_off()


def main(t):
    handed_over(t)
    restored(t)


harness.run(main)
