"""supervise as PID 1, beside other processes, with orphans and daemons; and when it lacks the privileges."""

import os

import harness
from compat_support import MODES, WORK, Problems, fresh, once

ZOMBIES = "ps -eo stat= | grep -c '^Z'"


def prefix(t, mode):
    return [t.supervise_binary(), "run", "--log-level", "error", *MODES[mode], "--"]


def as_pid_1(t, host, problems):
    """What a container runtime does: a PID namespace whose first process is supervise."""
    fresh(host)
    box = ["unshare", "--pid", "--mount", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    for mode in ("bare", "path"):
        run = [*box, *prefix(t, mode)]
        got = host.run([*run, "sh", "-c", "echo alive; exit 19"], 30, check=False)
        problems.attempt(t.equal, (got.status, got.stdout, got.stderr), (19, "alive\n", ""), f"as PID 1 ({mode})")
        # Orphans are reaped while the application goes on, and what is left ends with it.
        script = ("for i in 1 2 3 4 5 6 7 8; do (sh -c 'sleep 0.1 & exit 0' &) ; done; sleep 0.6; "
                  f"echo zombies $({ZOMBIES}); (setsid sleep 300 &); sleep 0.2; exit 3")
        got = host.run([*run, "sh", "-c", script], 30, check=False)
        problems.attempt(t.equal, (got.status, got.stdout), (3, "zombies 0\n"), f"orphans as PID 1 ({mode})")
        one = host.start([*run, "sh", "-c", "trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.05; done"], name=f"pid1-{mode}")
        one.wait_line("^up$", 15)
        # Its PID 1 is supervise: the signal goes there, as a container's stop does.
        first = [p for p in one.descendants() if _in_namespace_pid(p) == 1]
        problems.attempt(t.equal, len(first) >= 1, True, "supervise is PID 1")
        if first:
            os.kill(first[0], 15)
        problems.attempt(one.wait_line, "^term$", 10)
        problems.attempt(t.equal, one.wait(15), 5, f"SIGTERM to PID 1 ({mode})")


def _in_namespace_pid(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            line = next(x for x in file if x.startswith("NSpid:"))
            name = open(f"/proc/{pid}/comm").read().strip()
    except (OSError, StopIteration):
        return 0
    # The outermost level below the host is the container's.
    numbers = line.split()[1:]
    return int(numbers[2]) if len(numbers) > 2 and name == "supervise" else 0


def orphans(t, host, problems):
    script = "(setsid sh -c 'sleep 0.3; echo late >> late' >/dev/null 2>&1 &); exit 6"
    for mode in ("bare", "path"):
        got = once(t, host, [*prefix(t, mode), "sh", "-c", script])
        problems.attempt(t.equal, got.status, 6, f"the application ends, an orphan lives on ({mode})")
        late = host.shell(f"sleep 0.8; cat {WORK}/late 2>/dev/null; true").stdout
        t.say(f"the orphan's work after the application's end ({mode}): {late.strip() or 'ended with it'}")
        got = once(t, host, [*prefix(t, mode), "sh", "-c", f"for i in $(seq 1 30); do (sh -c 'sleep 0.05 & exit 0' &); done; sleep 0.5; {ZOMBIES}"])
        problems.attempt(t.equal, got.stdout, "0\n", f"thirty orphans are reaped ({mode})")
        got = once(t, host, [*prefix(t, mode), "sh", "-c", "sh -c 'sleep 0.2 & echo $! > pid'; p=$(cat pid); read -r _ _ _ parent _ < /proc/$p/stat; "
                                                           "[ $parent != $$ ] && echo adopted; sleep 0.4; kill -0 $p 2>/dev/null || echo gone"])
        problems.attempt(t.equal, got.stdout, "adopted\ngone\n", f"an orphan is adopted and reaped ({mode})")
    left = [c for c, _ in host.processes().values() if c in ("sleep", "supervise", "sh")]
    problems.attempt(t.equal, left, [], "nothing is left on the host")


def daemon(t, host, problems):
    """A program that forks, lets its parent end, and works on: supervise stays with it until it ends."""
    program = ("import os, sys, time\n"
               "if os.fork(): os._exit(0)\n"
               "os.setsid()\n"
               "if os.fork(): os._exit(0)\n"
               "null = os.open('/dev/null', os.O_RDWR)\n"
               "for i in (0, 1, 2): os.dup2(null, i)\n"
               "f = open('beats', 'w')\n"
               "for i in range(10): f.write(f'beat {i}\\n'); f.flush(); os.fsync(f.fileno()); time.sleep(0.1)\n")
    for mode in ("bare", "path"):
        got = once(t, host, [*prefix(t, mode), "/usr/bin/python3", "-c", program], seconds=30)
        beats = host.shell(f"cat {WORK}/beats").stdout
        t.say(f"daemon ({mode}): status {got.status}, {beats.count('beat')} beats when supervise ended")
        problems.attempt(t.equal, (got.status, beats.count("beat")), (0, 10), f"supervise stays until the daemon has ended ({mode})")


def many(t, host, problems):
    """Several supervised programs at once on one host, each with its own PIDs, and one inside another."""
    fresh(host)
    runs = [host.start([*prefix(t, "bare"), "sh", "-c", f"sleep 0.{i}; exit {i}"], name=f"many-{i}") for i in range(1, 7)]
    problems.attempt(t.equal, [one.wait(20) for one in runs], [1, 2, 3, 4, 5, 6], "six at once")
    got = host.run([*prefix(t, "bare"), *prefix(t, "bare"), "sh", "-c", "echo inner; exit 8"], 30, check=False)
    t.say(f"supervise under supervise: status {got.status}, {got.stdout!r}, {got.stderr!r}")
    problems.attempt(t.check, got.status in (8, 125) and (got.status == 8 or got.stderr), "one inside another works, or says why not")


def unprivileged(t, host, problems):
    """Without root: it supervises what it can and says what it can't."""
    fresh(host)
    host.shell(f"chmod 777 {WORK}")
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    for mode in ("bare", "path"):
        argv = [t.supervise_binary(), "run", *MODES[mode], "--", "sh", "-c", f"echo data > {WORK}/of-nobody; cat {WORK}/of-nobody; id -u; exit 24"]
        got = host.run([*user, *argv], 30, check=False, env={"HOME": WORK}, cwd=WORK)
        t.say(f"as nobody ({mode}): {got.stderr.strip()}")
        problems.attempt(t.equal, (got.status, got.stdout), (24, "data\n65534\n"), f"as an ordinary user ({mode})")
        problems.attempt(t.check, got.stderr.strip(), f"and tells what it can't do ({mode})")
    few = ["setpriv", "--bounding-set=-sys_admin,-sys_ptrace,-sys_resource", "--inh-caps=-all"]
    got = host.run([*few, *[t.supervise_binary(), "run", "--", "sh", "-c", "echo still; exit 25"]], 30, check=False)
    t.say(f"root without SYS_ADMIN: {got.stderr.strip()}")
    problems.attempt(t.equal, (got.status, got.stdout), (25, "still\n"), "as root without CAP_SYS_ADMIN")


def main(t):
    host = t.host("family")
    problems = Problems(t)
    for part in (as_pid_1, orphans, daemon, many, unprivileged):
        problems.attempt(part, t, host, problems)
    problems.finish()


harness.run(main)
