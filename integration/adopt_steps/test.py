"""Each step of `supervise adopt` fails, or is the last one of its supervisor: the version before goes on, or its keeper does,
and the application sees nothing of it."""

import harness
from adopt_support import expect, install_next_version, same_tree, whole, writer_of

STEPS = ("park", "exec", "begin", "taken")


def fails(t, step):
    point, once = f"adopt.{step}", "/srv/once"
    one = writer_of(t, point, env={"SUPERVISE_FAULT_POINTS": f"{point}=fail:{once}"})
    one.host.path(once).write_text("")
    before, was = one.status()["pid"], one.program()
    done = one.adopt(check=False)
    t.check(done.status == 1 and point in done.stderr, f"{point} fails, and who asked is told: {done.stderr.strip()}")
    t.equal((one.status()["pid"], one.program()), (before, was), "the version before goes on")
    one.adopt_often(1)
    one.fail()
    whole(t, one)


def ends(t, name, points):
    one = writer_of(t, name, env={"SUPERVISE_FAULT_POINTS": points})
    for once in ("/srv/once", "/srv/twice"):
        one.host.path(once).write_text("")
    t.check(one.adopt(check=False).status == 1, f"{name}: it is its last act, and who asked is told")
    # Not wait(): what the keeper says is still to be read.
    harness.wait_until(lambda: one.app.poll() is not None, 30, "the supervisor is dead")
    harness.wait_until(lambda: one.adopt(check=False).status == 0, 30, "what the keeper has is adopted in its turn")
    one.fail()
    harness.wait_until(lambda: not any(n.startswith("supervise") for n, _ in one.host.processes().values()), 60, "all ends")
    same_tree(t, one)


def main(t):
    install_next_version(t)
    expect(t)
    for step in STEPS:
        fails(t, step)
    for step in STEPS:
        ends(t, f"adopt.{step}.kill", f"adopt.{step}=kill:/srv/once")
    # Nor is there a way back.
    ends(t, "adopt.regain", "adopt.exec=fail:/srv/once,adopt.regain=fail:/srv/twice")


harness.run(main)
