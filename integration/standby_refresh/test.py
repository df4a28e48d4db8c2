"""A newer image takes the place of the one that is ready, with no moment in which none is. Damaged, partial,
foreign and older ones are refused with the reason, and the last good one stays ready. A committed hand-over
wins over all of them."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standby_parked"))
from standby_support import STORE, Pair, empty  # noqa: E402


def ready(pair):
    return [(c["generation"], c["level"]) for c in pair.status()["copies"] if c["state"] == "ready"]


class Forgery:
    """Copies of the newest good image under new generations, each with something wrong."""

    def __init__(self, t, base):
        self.t, self.app, self.base, self.next = t, t.shared / "images" / "app", base, base

    def make(self, change=None, **members):
        self.next += 1
        draft = self.app / ".forged"
        shutil.copytree(self.app / f"gen-{self.base:06}", draft, ignore=shutil.ignore_patterns("claim*", ".claim*"))
        manifest = draft / "manifest.json"
        # Numbers stay as they are written: the seal is of the text.
        text = json.loads(manifest.read_text(), parse_float=lambda number: f"\0{number}")

        def dump(value, **how):
            return re.sub(r'"\\u0000([^"]*)"', r"\1", json.dumps(value, ensure_ascii=False, **how))
        if members:
            text.update(members)
            del text["manifest_sha256"]
            text["manifest_sha256"] = hashlib.sha256(dump(text, separators=(",", ":")).encode()).hexdigest()
        manifest.write_text(dump(text))
        if change:
            change(draft)
        draft.rename(self.app / f"gen-{self.next:06}")
        return self.next


def damage(draft):
    part = max(draft.glob("pages-*.img"), key=lambda p: p.stat().st_size)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def main(t):
    pair = Pair(t)
    pair.ticker("--mib", "8", "--ticks", "3000")
    pair.checkpoint()
    standby = pair.standby()
    standby.wait_line(r"standby\.parked.*gen-000001", 60, "stderr")
    pair.checkpoint()
    seen = set()

    def swapped():
        now = ready(pair)
        t.scenario_none = t.scenario_none or not now
        seen.update(now)
        return "standby.swapped" in standby.stderr.text
    t.scenario_none = False
    harness.wait_until(swapped, 60, "the new image takes the place of the old")
    t.check(not t.scenario_none, f"and at no moment was none ready: {sorted(seen)}")
    t.equal(ready(pair), [(2, "parked")], "the old copy is gone")
    t.equal(len(pair.guests(pair.b, "ticker")), 1, "with its processes")

    forge = Forgery(t, 2)
    manifest = json.loads((t.shared / "images/app/gen-000002/manifest.json").read_text())
    for what, reason, how in (
            ("damaged", "content was changed", {"change": damage}),
            ("partial", "is missing", {"change": lambda d: (d / "core-2.img").unlink()}),
            ("without a manifest", "never finished", {"change": lambda d: (d / "manifest.json").unlink()}),
            ("another application's", "application other", {"app_name": "other"}),
            ("another machine's", "aarch64", {"machine": "aarch64"}),
            ("of a CPU with more features", "avx9000", {"cpu_flags": manifest["cpu_flags"] + ["avx9000"]}),
            ("of a newer CRIU", "CRIU 99.1", {"criu_version": "99.1"}),
            ("older", "was made before", {"created_unix_ns": manifest["created_unix_ns"] - 1})):
        n = forge.make(**how)
        line = standby.wait_line(rf"standby\.refused: image \S*gen-{n:06} is refused: .*$", 30, "stderr").group(0)
        t.check(reason in line and "generation 2 stays ready" in line, f"{what}: {line}")
        t.equal(ready(pair), [(2, "parked")], f"{what}: the last good one stays ready")

    pair.checkpoint()
    standby.wait_line(rf"standby\.swapped: generation {forge.next + 1} is ready in place of 2", 60, "stderr")
    # What is ready stays in the store, however old it is by now.
    forge.next += 1
    held = f"gen-{forge.next:06}"
    for _ in range(2):
        forge.make(app_name="other")
    pair.b.run([t.supervise_binary(), "images", "prune", "app", "--images", STORE, "--keep", "1"], 20)
    t.equal(sorted(p.parent.name for p in forge.app.glob("gen-*/manifest.json")), [held, f"gen-{forge.next:06}"],
            "prune keeps the newest, and what is ready")
    pair.checkpoint("--stop")
    standby.wait_line(rf"standby\.swapped: generation {forge.next + 1} is ready", 60, "stderr")
    answer = pair.activate()
    t.equal(answer["generation"], forge.next + 1, "the newest is activated")
    harness.wait_until(lambda: "tick" in standby.stdout.text, 20, "and goes on")
    standby.signal(15)
    t.equal(standby.wait(20), 143, "a signal to the standby is the application's")
    empty(t, pair.b, "nothing is left on b")
    for host in (pair.a, pair.b):
        host.power_off()
    handover(t, "handover")
    handover(t, "command")


def handover(t, how):
    pair = Pair(t, rounds=60)
    app = pair.origin()
    pair.checkpoint()
    standby = pair.standby(activate=how)
    line = standby.wait_line(r"standby\.limited.*", 60, "stderr").group(0)
    t.check("is cached" in line and "has" in line, f"with files that the origin writes to it is not parked: {line[:200]}")
    standby.wait_line(r"standby\.cached", 60, "stderr")
    done = pair.a.start([t.supervise_binary(), "handover", "app", "--to", f"dir:{STORE}"], name="handover")
    if how == "command":
        harness.wait_until(lambda: pair.status()["committed"], 60, "the hand-over is committed")
        t.check("gen-000002" in pair.activate()["image"], "the command resumes the hand-over, not what was parked")
    t.equal(done.wait(60), 0, "the hand-over is done")
    t.equal(app.wait(30), 113, "A has handed over")
    standby.wait_line(r"standby\.overtaken", 10, "stderr")
    t.equal(standby.wait(60), 0, "B goes on with the hand-over's image to the end")
    pair.whole()
    empty(t, pair.b, "nothing is left on b")
    for host in (pair.a, pair.b):
        host.power_off()


harness.run(main)
