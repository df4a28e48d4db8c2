"""The hand-over's events: every step in its order, with its time; nothing is shipped before the failed call
was completed over the second path; the times of freeze, dump, ship, restore and in all are told."""

import json
import re
import sys
from pathlib import Path

import harness

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from handover_sqlite.test import hand_over  # noqa: E402

STAMP = re.compile(r"^supervise: (\d\d):(\d\d):(\d\d\.\d+) .*?([a-z]+\.[a-z_]+): (.*)$", re.MULTILINE)


def told(text):
    """[(second of the day, event, what it says)]"""
    return [(int(h) * 3600 + int(m) * 60 + float(s), event, rest) for h, m, s, event, rest in STAMP.findall(text)]


def at(t, lines, event, pattern):
    """When `event` was told with what matches; the first time."""
    found = [when for when, name, rest in lines if name == event and re.search(pattern, rest)]
    t.check(found, f"{event} was told ({pattern})")
    return found[0]


def main(t):
    app, standby, b = hand_over(t, [str(t.guest_path("writer")), "/srv/first/tree", "40", "3", "--delay", "20"],
                                r"^round 8$")
    on_a, on_b = told(app.stderr.text), told(standby.stderr.text)
    order = [
        (1, at(t, on_a, "error.intercepted", r"step=1 .*errno=EIO")),
        (2, at(t, on_a, "threads.held", r"step=2")),
        (4, at(t, on_a, "journal.replayed", r"synced, read back .* and equal.* step=4")),
        (3, at(t, on_a, "path.switched", r"goes over /srv/second now.* step=3")),
        (5, at(t, on_a, "call.completed", r"over /srv/second step=5")),
        (6, at(t, on_a, "handover.step", r"step=6")),
        (7, at(t, on_a, "handover.step", r"threads parked in .* step=7")),
        (8, at(t, on_a, "handover.step", r"dumped .* MiB .* step=8")),
        (9, at(t, on_a, "handover.step", r"is verified by .* step=9")),
        (9, at(t, on_a, "handover.step", r"committed.* step=9")),
        (10, at(t, on_a, "handover.step", r"original is ended.* step=10")),
        (12, at(t, on_a, "handover.done", r"step=12")),
    ]
    t.check(all(earlier[1] <= later[1] for earlier, later in zip(order, order[1:])), f"one after the other: {order}")
    steps = [step for step, _ in order]
    t.check(steps.index(5) < steps.index(8), "the image is made and shipped after the call was completed")
    # Both hosts of this scenario have one clock.
    committed = order[9][1]
    restored = at(t, on_b, "handover.step", r"restored in .* step=11")
    t.check(committed <= restored <= at(t, on_b, "handover.resumed", "first good I/O here"), "B restores after the commit")

    number = r"[\d.]+ ms"
    t.check(re.search(rf"handover.done: running on b: freeze {number}, dump {number}, ship {number}, restore {number} .*"
                      rf"total from the error to the first good I/O {number}", app.stderr.text), "A tells all times")
    times = re.search(rf"freeze ({number}), dump ({number}), restore ({number}), total from the error ({number})",
                      standby.stderr.text)
    t.check(times, "B tells all times")
    freeze, dump, restore, total = (float(word.split()[0]) for word in times.groups())
    t.check(0 < dump <= freeze < total and 0 < restore < total, f"they make sense: {times.groups()}")

    manifests = list(t.shared.glob("images/app/gen-*/manifest.json"))
    t.equal(len(manifests), 1, "one image was made")
    text = manifests[0].read_text()
    t.check(json.loads(text) and "sha256" in text, "its manifest has hashes")


if __name__ == "__main__":
    harness.run(main)
