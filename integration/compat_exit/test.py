"""Exit status and signals: what supervise ends with, and which signals reach the application."""

import signal

import harness
from compat_support import Problems, command, fresh, once


def statuses(t, host, problems):
    cases = [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)]
    cases += [(f"kill -{n} $$; sleep 5", 128 + n) for n in (1, 2, 3, 6, 9, 10, 11, 13, 14, 15, 34, 64)]
    for script, status in cases:
        for mode in ("native", "bare", "path"):
            got = once(t, host, ["sh", "-c", f"ulimit -c 0; {script}"], mode)
            problems.attempt(t.equal, (got.status, got.stdout, got.stderr), (status, "", ""), f"'{script}' gives {status} ({mode})")
    for mode in ("native", "bare"):
        got = once(t, host, ["bash", "-c", "bash -c 'kill -TERM $$'; echo $?"], mode)
        problems.attempt(t.equal, got.stdout, "143\n", f"death of a grandchild ({mode})")
    refused = [(["/etc/passwd"], 126, "passwd"), (["/srv"], 126, "/srv"), (["/no/such/program"], 127, "/no/such/program"),
               (["no-such-program-anywhere"], 127, "no-such-program-anywhere")]
    for argv, status, word in refused:
        got = once(t, host, argv, "bare")
        problems.attempt(t.equal, got.status, status, f"{argv[0]} gives {status}")
        problems.attempt(t.check, word in got.stderr, f"and names {word}")
    host.shell("printf 'exit 9\\n' > /srv/nothing; chmod +x /srv/nothing; printf '#!/no/such/shell\\n' > /srv/broken; chmod +x /srv/broken")
    problems.attempt(t.equal, once(t, host, ["/srv/broken"], "bare").status, 127, "a script without its interpreter gives 127")
    wrong = host.run([t.supervise_binary(), "run", "--no-such-option", "--", "true"], check=False)
    problems.attempt(t.equal, wrong.status, 125, "a wrong option gives 125")
    wrong = host.run([t.supervise_binary(), "run", "--path", "data=/no/such/dir", "--", "touch", "/srv/started"], check=False)
    problems.attempt(t.equal, wrong.status, 125, "a missing directory gives 125")
    problems.attempt(t.check, "--path" in wrong.stderr and "/no/such/dir" in wrong.stderr, "and names option and directory")
    problems.attempt(t.equal, host.shell("ls /srv/started", check=False).status, 2, "before the application starts")
    wrong = host.run([t.supervise_binary(), "run"], check=False)
    problems.attempt(t.equal, wrong.status, 125, "no application gives 125")


CATCHER = """
import os, signal, sys, time
def note(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b'\\n')
    if number == signal.SIGTERM: sys.exit(42)
for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGQUIT, signal.SIGALRM, signal.SIGCONT):
    signal.signal(n, note)
os.write(1, b'ready\\n')
for _ in range(600): time.sleep(0.1)
"""


def forwarded(t, host, problems):
    for mode in ("bare", "path"):
        fresh(host)
        one = host.start(command(t, ["/usr/bin/python3", "-u", "-c", CATCHER], mode), name=f"catcher-{mode}")
        one.wait_line("^ready$", 15)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGQUIT, signal.SIGALRM):
            one.signal(number)
            problems.attempt(one.wait_line, f"^{number.name}$", 5)
        one.signal(signal.SIGTERM)
        problems.attempt(t.equal, one.wait(15), 42, f"SIGTERM reaches the application, its status is ours ({mode})")
        lines = one.stdout.text.splitlines()
        problems.attempt(t.equal, lines, ["ready", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGQUIT", "SIGALRM", "SIGTERM"],
                         f"each signal once and in order ({mode})")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            one = host.start(command(t, ["/bin/sh", "-c", "echo go; exec sleep 60"], mode), name="default")
            one.wait_line("^go$", 15)
            one.signal(number)
            problems.attempt(t.equal, one.wait(15), 128 + number, f"death by {number.name} is mirrored ({mode})")
        one = host.start(command(t, ["/bin/sh", "-c", "trap '' TERM; echo go; sleep 1; echo alive"], mode), name="ignores")
        one.wait_line("^go$", 15)
        one.signal(signal.SIGTERM)
        problems.attempt(one.wait_line, "^alive$", 10)
        problems.attempt(t.equal, one.wait(15), 0, f"an ignored SIGTERM ends nothing ({mode})")


def killed(t, host, problems):
    """The supervisor dies by SIGKILL: the application must not go on unsupervised with ENOSYS for every call."""
    app = ["/bin/sh", "-c", "echo go; while :; do sleep 0.05; echo $$ >> /srv/work/beat; done"]
    whole = command(t, app, "path")
    at = whole.index("--")
    one = host.start([*whole[:at], "--supervisor-loss", "kill", *whole[at:]], name="killed")
    one.wait_line("^go$", 15)
    one.signal(signal.SIGKILL)
    problems.attempt(t.equal, one.wait(15), 137, "a killed supervisor")
    left = []

    def gone():
        left[:] = [c for c, _ in host.processes().values() if c in ("sh", "sleep", "supervise")]
        return not left
    try:
        harness.wait_until(gone, 5, "the application is gone with it")
    except TimeoutError:
        problems.attempt(t.equal, left, [], "processes left after the supervisor was killed")


def main(t):
    host = t.host("exit")
    problems = Problems(t)
    statuses(t, host, problems)
    forwarded(t, host, problems)
    fresh(host)
    killed(t, host, problems)
    problems.finish()


harness.run(main)
