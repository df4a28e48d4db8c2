"""The same 400 times."""

import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_criu"))
import kills  # noqa: E402


def main(t):
    kills.many(t, 400, 2)


harness.run(main)
