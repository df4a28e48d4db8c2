"""The main job on btrfs: handover_main's scenario, with btrfs on the failing device."""

import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from handover_main.test import scenario  # noqa: E402


def main(t):
    scenario(t, "btrfs")


if __name__ == "__main__":
    harness.run(main)
