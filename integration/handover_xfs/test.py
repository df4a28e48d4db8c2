"""The main job on xfs: handover_main's scenario, with xfs on the failing device."""

import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from handover_main.test import scenario  # noqa: E402


def main(t):
    scenario(t, "xfs")


if __name__ == "__main__":
    harness.run(main)
