"""Never two copies and never none: after a hand-over the first host refuses to start the application again, until the
second host's copy has ended or the operator says that it is fenced; and a hand-over whose image needs a file that the
second host lacks is refused before the commit."""

import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402


def again(t, pair, *more):
    return pair.a.run([t.supervise_binary(), "--name", "app", "--path", f"data={steps.FIRST}", "--standby",
                       f"dir:{steps.STORE}", *more, "--", "/bin/echo", "second"], 20, check=False)


def main(t):
    pair = steps.Pair(t, rounds=100, delay=60)
    standby = pair.standby()
    pair.start()
    t.equal(pair.hand_over().status, 0, "the hand-over succeeds")
    t.equal(pair.app.wait(30), 113, "A has handed the application over")
    pair.goes_on(standby, "on B")

    done = again(t, pair)
    t.check(done.status == 125 and "second" not in done.stdout and "handed over to host b" in done.stderr
            and "--take-over" in done.stderr, f"A starts no second copy, and says why: {done}")
    done = again(t, pair, "--take-over")
    t.check(done.status == 0 and "second" in done.stdout, f"the operator has the last word: {done}")
    pair.whole(standby.wait(90))
    done = again(t, pair)
    t.check(done.status == 0 and "second" in done.stdout, f"once it has ended on B, A may start it: {done}")

    # /tmp is each host's own.
    pair.standby()
    app = pair.a.supervise(["--name", "app", "--path", f"data={steps.FIRST}", "--standby", f"dir:{steps.STORE}", "--",
                            "/usr/bin/python3", "-c", "import sys\nf = open('/tmp/of-a', 'w')\nprint('open', flush=True)\n"
                            "sys.stdin.read()\nprint('end')"], name="opener")
    app.wait_line("open", 20, "stdout")
    done = pair.hand_over()
    t.check(done.status != 0, "a hand-over to a host that lacks a file is refused")
    app.wait_line(r"handover.failed: .*/tmp/of-a", 10, "stderr")
    app.close_stdin()
    t.equal(app.wait(30), 0, "and the application goes on on A")


harness.run(main)
