"""Programs of several kinds (dynamic, static, at fixed addresses, of another C library) make their calls in
process, with the output and the exit status that they have natively. And the journal knows all that is written."""

import re

import harness
from compat_support import MODES, WORK, Problems, difference, once
from stub_support import OUTSIDE, figures, run_told

KINDS = ("stub_mini", "stub_mini_static", "stub_mini_static_pie", "stub_mini_no_pie", "stub_mini_musl")
ROUNDS = 400
CHILDREN = 200
WRITERS, MOST_STOPS = 50, 20


def kinds(t, host, problems):
    for name in KINDS:
        guest = t.guest_path(name)
        if not guest.exists():
            t.say(f"SKIP {name}: it is not built here (musl-tools)")
            continue
        native = once(t, host, [guest, WORK])
        problems.attempt(t.equal, native.status, 0, f"{name} natively\n{native.text()[-1000:]}")
        for mode in MODES:
            for stub in ("off", "on"):
                other = once(t, host, [guest, WORK], mode, seconds=120, options=[f"--stub={stub}"])
                lines = difference(native, other, f"{mode}, --stub={stub}")
                problems.attempt(t.check, not lines, f"{name} as natively: {mode}, --stub={stub}\n" + "\n".join(lines[:40]))
        # A machine that can't make calls in process fails here, and says why.
        seen = figures(t, host, MODES["path"], [guest, WORK], seconds=120)
        problems.attempt(t.check, seen["calls"] > 2000 and seen["records"] > 500 and seen["unpatchable"] == 0,
                         f"{name} made its calls in process: {seen}")


def children(t, host):
    """What a shell's children call and the shell itself does not (they close the script) is patched in the shell, too:
    those to come make it in process at once."""
    (t.shared / "children.sh").write_text(f"for i in {{1..{CHILDREN}}}; do ( : ); done; echo done\n")
    got, log = run_told(t, host, MODES["path"], ["bash", "/srv/shared/children.sh"])
    t.equal(got.stdout, "done\n", "a shell with many children")
    stops = int(re.search(r'"stops":{"all":\d+,"calls":(\d+)', log).group(1))
    t.check(stops < CHILDREN, f"{stops} stops at calls of {CHILDREN} children")


def short_writers(t, host):
    """Programs that write little each get the journal's ring soon, and at the price of two stops."""
    (t.shared / "writers.sh").write_text(f"for i in {{1..{WRITERS}}}; do dd if=/dev/zero of=file$i bs=100 count=20 status=none; done\n"
                                         "cat file* | wc -c\n")
    got, log = run_told(t, host, MODES["path"], ["bash", "/srv/shared/writers.sh"])
    t.equal(got.stdout, f"{WRITERS * 2000}\n", "a shell whose children write")
    stops = int(re.search(r'"stops":{"all":\d+,"calls":(\d+)', log).group(1))
    t.check(stops < WRITERS * MOST_STOPS, f"{stops} stops at calls of {WRITERS} programs with 20 writes each")


def rotation(t, host, problems):
    """What the journal holds at the end is told when it is made durable."""
    for stub in ("off", "on"):
        for attempt in range(1 if stub == "off" else 5):
            got, log = run_told(t, host, [*MODES["path"], f"--stub={stub}"],
                                [t.guest_path("stub_rotate"), WORK, OUTSIDE, ROUNDS], seconds=200)
            problems.attempt(t.equal, got.status, 0, f"rotation, --stub={stub}\n{got.stdout[-1000:]}")
            told = re.search(r"journal\.synced: (\d+) bytes of (\d+) files", log)
            problems.attempt(t.equal, told and told.groups(), (str(ROUNDS * 24), str(ROUNDS)),
                             f"the journal has all records of a rotated file (--stub={stub}, {attempt + 1})")


def main(t):
    host = t.host("compat")
    problems = Problems(t)
    problems.attempt(kinds, t, host, problems)
    problems.attempt(children, t, host)
    problems.attempt(short_writers, t, host)
    problems.attempt(rotation, t, host, problems)
    problems.finish()


harness.run(main)
