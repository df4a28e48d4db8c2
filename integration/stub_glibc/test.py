"""The stress of calls in process under a newer C library than the host's, whose calls lie elsewhere: what
scripts/setup.sh --tests has unpacked; where the host's own is as new, that one."""

import os
import sys
from pathlib import Path

import harness
from compat_support import MODES, WORK, Problems, difference, once
from stub_support import OUTSIDE, figures

LIBRARIES = Path(os.environ.get("SUPERVISE_CACHE", "/var/cache/supervise")) / "new-glibc/usr/lib/x86_64-linux-gnu"
NEW_ENOUGH = (2, 41)
# "processes" starts the program again, and would get the loader.
PARTS = ["descriptors", "positions", "appends", "errors", "registers", "stacks", "timers", "interruptions", "jumps", "storm",
         "cancellations", "sharers"]


def prefix(t):
    own = tuple(int(n) for n in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))
    if own >= NEW_ENOUGH:
        return []
    loader = LIBRARIES / "ld-linux-x86-64.so.2"
    if not loader.exists():
        print(f"SKIP stub_glibc: there is no {loader} (scripts/setup.sh --tests)")
        sys.exit(77)
    return [loader, "--library-path", LIBRARIES]


def main(t):
    host = t.host("glibc")
    problems = Problems(t)
    argv = [*prefix(t), t.guest_path("stub_stress"), WORK, "--outside", OUTSIDE, "--seconds", "0.5", "--seed", "1", *PARTS]

    def run(mode, options=()):
        host.shell(f"rm -rf {OUTSIDE} && mkdir -p {OUTSIDE}")
        return once(t, host, argv, mode, seconds=200, options=options)

    native = run("native")
    t.equal(native.status, 0, f"natively it finds nothing wrong\n{native.text()[-2000:]}")
    for mode in ("path", "bare"):
        other = run(mode, ["--stub=on"])
        lines = difference(native, other, f"{mode}, --stub=on")
        problems.attempt(t.check, not lines, f"the same: {mode}, --stub=on\n" + "\n".join(lines[:40]))
    seen = figures(t, host, MODES["path"], argv, seconds=200)
    problems.attempt(t.check, seen["calls"] > 10000 and seen["records"] > 1000 and seen["patched"] > 5,
                     f"calls were made in process: {seen}")
    problems.finish()


harness.run(main)
