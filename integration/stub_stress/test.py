"""A stress of threads, processes, signals, cancellations and descriptors: natively, stopped at each call, and
with calls made in process, on a declared path and without one; always the same output."""

import harness
from compat_support import MODES, WORK, Problems, difference, once
from stub_support import OUTSIDE, figures

GUEST = [WORK, "--outside", OUTSIDE, "--seconds", "0.5"]


def main(t):
    host = t.host("stress")
    problems = Problems(t)

    def run(mode, seed, options=()):
        host.shell(f"rm -rf {OUTSIDE} && mkdir -p {OUTSIDE}")
        return once(t, host, [t.guest_path("stub_stress"), *GUEST, "--seed", str(seed)], mode, seconds=200, options=options)

    native = run("native", 1)
    t.equal(native.status, 0, f"natively it finds nothing wrong\n{native.text()[-2000:]}")
    for mode, stub, seeds in (("path", "on", (1, 2, 3)), ("path", "off", (1,)), ("bare", "on", (1, 2)), ("bare", "off", (1,))):
        for seed in seeds:
            other = run(mode, seed, [f"--stub={stub}"])
            lines = difference(native, other, f"{mode}, --stub={stub}, seed {seed}")
            problems.attempt(t.check, not lines, f"the same: {mode}, --stub={stub}, seed {seed}\n" + "\n".join(lines[:40]))

    # It proves something only if most of the calls were made in process.
    argv = [t.guest_path("stub_stress"), *GUEST, "positions", "appends", "registers"]
    seen = figures(t, host, MODES["path"], argv, seconds=200)
    problems.attempt(t.check, seen["calls"] > 10000 and seen["records"] > 1000 and seen["patched"] > 5,
                     f"calls were made in process: {seen}")
    seen = figures(t, host, MODES["path"], [t.guest_path("stub_stress"), *GUEST, "sharers"], seconds=200)
    problems.attempt(t.check, "shares its descriptors" in seen["last_refusal"],
                     f"not where another process shares the descriptors: {seen}")
    problems.finish()


harness.run(main)
