"""The program of handover_sqlite, two SQLite databases of which each row is known, and what must be true of them at the end."""

import re
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "handover_sqlite" / "ledger.py"
COMMAND = ["/usr/bin/python3", str(PROGRAM)]
MODES = ("delete", "wal")


def whole(t, host, place, count, said):
    """Each transaction was told in `said` once, and is in the databases in `place` once; what --verify printed."""
    for mode in MODES:
        told = [int(n) for n in re.findall(rf"^{mode} (\d+)$", said, re.MULTILINE)]
        t.equal(told, list(range(1, count + 1)), f"{mode}: each commit was told once, in its turn")
    found = host.run([*COMMAND, "--verify", place, str(count)], 60, check=False)
    t.equal(found.status, 0, f"both databases are sound and whole {found.stderr[-500:]}")
    return found.stdout
