"""Runs groups of the standard library's tests natively and supervised and compares each test's outcome."""

from pathlib import Path

from . import Problems, once

RUNNER = str(Path(__file__).with_name("unittests.py"))


def outcomes(t, host, names, mode, seconds):
    """{test: ok, FAIL, skip...} of one run, and its stderr."""
    got = once(t, host, ["/usr/bin/python3", "-u", RUNNER, *names], mode, seconds=seconds, stdin="")
    _, mark, lines = got.stdout.rpartition("RESULTS\n")
    if got.status != 0 or not mark:
        raise AssertionError(f"{' '.join(names)} ({mode}) ended with {got.status}\n{got.stdout[-1500:]}\n{got.stderr[-3000:]}")
    return dict(reversed(line.split(" ", 1)) for line in lines.splitlines()), got.stderr


def compare(t, groups, modes, seconds):
    if t.host("probe").run(["/usr/bin/python3", "-c", "import test.test_os"], check=False).status != 0:
        t.skip("the tests of the standard library are not installed (libpython3.N-testsuite)")
    host = t.host("python")
    problems = Problems(t)
    for names in groups:
        module = names[0].split(".")[0]
        if host.run(["/usr/bin/python3", "-c", f"import test.{module}"], check=False).status != 0:
            t.say(f"not here: test.{module}")
            continue
        native = problems.attempt(outcomes, t, host, names, "native", seconds)
        for mode in modes:
            if native is not None:
                problems.attempt(group, t, host, names, mode, seconds, native[0])
    problems.finish()


def group(t, host, names, mode, seconds, native):
    """A test that differs is tried alone, three times each way: only what differs always is a difference."""
    supervised, errors = outcomes(t, host, names, mode, seconds)
    different = sorted(i for i in native.keys() | supervised.keys() if native.get(i) != supervised.get(i))
    real, unstable = [], []
    for identity in different[:20]:
        alone = [identity.removeprefix("test.")]
        want = {outcomes(t, host, alone, "native", 60)[0].get(identity) for _ in range(3)}
        have = {outcomes(t, host, alone, mode, 60)[0].get(identity) for _ in range(3)}
        (unstable if want & have else real).append(f"{identity}: {native.get(identity)} natively, {supervised.get(identity)} supervised")
    for text in unstable:
        t.say(f"unstable by itself: {text}")
    good = sum(outcome == "ok" for outcome in supervised.values())
    if real or len(different) > 20:
        shown = "\n".join(real + ([f"and {len(different) - 20} more"] if len(different) > 20 else []))
        raise AssertionError(f"{names[0]} ({mode}): {len(different)} tests differ\n{shown}\n{errors[:4000]}")
    t.check(good > 0 and len(supervised) == len(native),
            f"{names[0]}{'...' if len(names) > 1 else ''} ({mode}): {len(supervised)} tests, {good} ok, each as natively")
