"""A Python program with threads, children, buffered and temporary files is handed over in the middle of
its work; the tree that it leaves is that of an undisturbed run."""

import re
import sys
from pathlib import Path

import harness

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from handover_sqlite.test import hand_over  # noqa: E402

ROUNDS, DELAY_MS = 50, 30
WORK = ["/usr/bin/python3", str(Path(__file__).resolve().parent / "work.py")]
HASHES = "find . -printf '%y %m %s %P\\n' | grep -v '^d' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum"


def main(t):
    app, standby, b = hand_over(t, [*WORK, "/srv/first/tree", str(ROUNDS), str(DELAY_MS)], r"^round 15$")
    instances = [set(re.findall(r"^instance (.+)$", p.stdout.text, re.M)) for p in (app, standby)]
    t.check([len(seen) for seen in instances] == [1, 1] and instances[0].pop().startswith("0 0 ")
            and instances[1].pop().startswith("1 1 "), "it can tell that it is another instance there")
    b.run([*WORK, "/srv/shared/expected", str(ROUNDS), "1"], 30)
    expected = b.shell(f"cd /srv/shared/expected && {HASHES}", 30).stdout
    found = b.shell(f"cd /srv/third/tree && {HASHES}", 30).stdout
    differing = sorted(set(found.splitlines()) ^ set(expected.splitlines()))
    t.equal(differing, [], "the tree is, byte by byte, that of an undisturbed run")


if __name__ == "__main__":
    harness.run(main)
