"""CRIU is killed 40 times in the middle of a dump."""

import harness
import kills


def main(t):
    kills.many(t, 40, 1)


harness.run(main)
