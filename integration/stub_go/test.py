"""A Go program, whose runtime makes its own system calls and preempts its threads by signals, natively and
supervised, stopped at each call or with calls made in process."""

import harness
from compat_support import MODES, WORK, Problems, difference, once
from stub_support import figures


def main(t):
    host = t.host("go")
    problems = Problems(t)
    argv = [t.guest_path("stub_go"), WORK]
    native = once(t, host, argv)
    t.equal(native.status, 0, f"natively\n{native.text()[-1000:]}")
    for mode in MODES:
        for stub in ("off", "on"):
            other = once(t, host, argv, mode, seconds=120, options=[f"--stub={stub}"])
            lines = difference(native, other, f"{mode}, --stub={stub}")
            problems.attempt(t.check, not lines, f"as natively: {mode}, --stub={stub}\n" + "\n".join(lines[:40]))
    seen = figures(t, host, MODES["path"], argv, seconds=120)
    problems.attempt(t.check, seen["calls"] > 2000 and seen["records"] > 500, f"calls were made in process: {seen}")
    problems.finish()


harness.run(main)
