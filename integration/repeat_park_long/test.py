"""The same more than 250 times: 200 checkpoints in place, 60 generations, longer storms."""

import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "repeat_park"))
import repeat  # noqa: E402


def main(t):
    host = t.host("one")
    host.mount("tmpfs", repeat.WORK, "tmpfs")
    repeat.in_place(t, host, 200)
    repeat.from_image_to_image(t, host, 60)
    repeat.storm(t, host, [str(t.guest_path("forks")), "--storm", "600", "--delay", "5"], 10)
    repeat.storm(t, host, [str(t.guest_path("threads")), "150"], 5)


harness.run(main)
