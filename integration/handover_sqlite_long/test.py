"""The same with databases of 256 MiB each, written through the supervisor: more together than the journal's
limit, and transactions that change pages all over them."""

import importlib.util
from pathlib import Path

import harness

MIB = 256


def main(t):
    path = Path(__file__).resolve().parent.parent / "handover_sqlite" / "test.py"
    spec = importlib.util.spec_from_file_location("handover_sqlite", path)
    sqlite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sqlite)
    sizes = sqlite.compare(t, 60, 30, MIB, size="1G", ready_seconds=200)
    t.check(min(sizes) >= MIB << 20, f"databases of {[size >> 20 for size in sizes]} MiB")


harness.run(main)
