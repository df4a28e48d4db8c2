"""Park, dump, adopt and restore on every kind of blocking call; storms are checkpointed while they last."""

import harness
import repeat


def main(t):
    host = t.host("one")
    host.mount("tmpfs", repeat.WORK, "tmpfs")
    repeat.in_place(t, host, 12)
    repeat.from_image_to_image(t, host, 5)
    repeat.storm(t, host, [str(t.guest_path("forks")), "--storm", "50", "--delay", "5"], 2)
    repeat.storm(t, host, [str(t.guest_path("threads")), "15"], 1)


harness.run(main)
