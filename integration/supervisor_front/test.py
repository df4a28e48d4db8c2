"""Where the death of the supervisor would be taken for the application's, a front stands before it: as the first process of a
container, as the main process of a service. Supervisors are killed, a keeper goes on, another version adopts; the front gets
the signals and passes them on, with their values, reaps what is left to it, and ends with the application's own status."""

import json
import sys
from pathlib import Path

import harness

for folder in ("kill_steps", "supervisor_loss_resumed", "adopt_support"):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / folder))
import adopt_support  # noqa: E402
import steps  # noqa: E402
from losses import lose, supervisor  # noqa: E402

# Says each value that comes with SIGRTMIN; 0 ends it.
VALUES = """
import ctypes, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
libc, wanted, info = ctypes.CDLL(None), (ctypes.c_ulong * 16)(1 << (signal.SIGRTMIN - 1)), (ctypes.c_int * 32)()
print("up", flush=True)
while True:
    libc.sigwaitinfo(wanted, info)
    print("value", info[6], flush=True)
    if info[6] == 0: raise SystemExit(9)
"""
TRAP = "trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.02; echo tick; done"
ORPHANS = "for i in 1 2 3 4 5; do (sleep 0.1 & exit 0); done; sleep 0.3"
ZOMBIES = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"


def service(t, host, arguments, **more):
    """As systemd starts it."""
    return host.start(["sh", "-c", 'export SYSTEMD_EXEC_PID=$$; exec "$@"', "sh", t.supervise_binary(), *arguments],
                      **{"stdio": "files", "name": "service", **more})


def goes_on(said, word="tick"):
    before = said.stdout.text.count(word)
    harness.wait_until(lambda: said.stdout.text.count(word) > before + 2, 20, "it goes on")


def as_a_service(t):
    host = t.host("s")
    one = service(t, host, ["--name", "app", "--", "sh", "-c", TRAP])
    one.wait_line("up", 20, "stdout")
    front = int(host.shell("pgrep -o -x supervise").stdout)
    t.check(supervisor(t, host)["pid"] != front, "the supervisor is not what was started")
    lose(t, host, one, 2)
    t.equal(host.run([t.next_version, "adopt", "app"], 30, check=False).status, 0, "another version takes over")
    lose(t, host, one, 2, 4)
    goes_on(one)
    host.run(["kill", "-TERM", str(front)], 10)
    t.equal(one.wait(20), 5, "four supervisors died, and the service ends as the application ended when it was told to")
    t.check("\nterm\n" in one.stdout.text, "by its own handler")
    host.power_off()


def values(t):
    host = t.host("v")
    one = service(t, host, ["--name", "app", "--", "/usr/bin/python3", "-c", VALUES])
    one.wait_line("up", 20, "stdout")
    front = host.shell("pgrep -o -x supervise").stdout.strip()
    send = lambda value: host.run(["/bin/kill", "-q", str(value), "-s", "RTMIN", front], 10)
    send(17)
    one.wait_line("value 17", 20, "stdout")
    lose(t, host, one, 1)
    send(18)
    one.wait_line("value 18", 20, "stdout")
    send(0)
    t.equal(one.wait(20), 9, "the values of queued signals come to the application, and its status back")
    host.power_off()


def without_a_keeper(t):
    host = t.host("k")
    one = service(t, host, ["--name", "app", "--supervisor-loss", "kill", "--", "sh", "-c", TRAP])
    one.wait_line("up", 20, "stdout")
    host.run(["kill", "-KILL", str(json.loads(host.run([t.supervise_binary(), "status", "app", "--json"], 20).stdout)["pid"])], 10)
    t.equal(one.wait(20), 137, "without a keeper the service ends with its supervisor")
    harness.wait_until(lambda: not [p for p in host.processes().values() if p[1] != "Z"], 10, "nothing is left")
    one = service(t, host, ["--name", "app", "--", "/no/such"])
    t.equal(one.wait(20), 127, "a program that is not there")
    host.power_off()


class Inside:
    """A host whose processes see those of a container only."""

    def __init__(self, host, first):
        self.host, self.prefix = host, ["nsenter", "-t", first, "-p", "-m"]

    def run(self, arguments, seconds, check=True):
        return self.host.run([*self.prefix, *arguments], seconds, check=check)


def as_the_first_process(t):
    host = t.host("c")
    one = host.start(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", t.supervise_binary(), "--name", "app", "--",
                      "sh", "-c", TRAP + " & wait; exit 6"], stdio="files", name="container")
    one.wait_line("up", 20, "stdout")
    first = host.shell("pgrep -o -x supervise").stdout.split()[0]
    inside = Inside(host, first)
    t.equal(inside.run(["cat", "/proc/1/comm"], 10).stdout, "supervise\n", "it is process 1")
    lose(t, inside, one, 3)
    inside.run(["sh", "-c", ORPHANS], 10)
    harness.wait_until(lambda: inside.run(["sh", "-c", ZOMBIES], 10).stdout == "0\n", 10, "what is left to process 1 is reaped")
    goes_on(one)
    host.run(["kill", "-KILL", first], 10)
    one.wait(20)  # with what unshare makes of it
    harness.wait_until(lambda: not [p for p in host.processes().values() if p[1] != "Z"], 10, "a container that is killed takes all with it")
    one = host.start(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", t.supervise_binary(), "--name", "app", "--",
                      "sh", "-c", "setsid sleep 300 & exit 6"], stdio="files", name="container")
    t.equal(one.wait(20), 6, "the application's first process ended, and so has the container")
    host.power_off()


def after_a_hand_over(t):
    pair = steps.Pair(t, rounds=60, delay=60)
    pair.b.supervise = lambda arguments, **more: service(t, pair.b, arguments, **more)
    standby = pair.standby()
    pair.start()
    t.equal(pair.hand_over().status, 0, "the hand-over")
    pair.goes_on(standby, "on B")
    lose(t, pair.b, standby, 3)
    pair.goes_on(standby, "on B after three deaths")
    pair.whole(standby.wait(60))
    for host in (pair.a, pair.b):
        host.power_off()


def main(t):
    adopt_support.install_next_version(t)
    as_a_service(t)
    values(t)
    without_a_keeper(t)
    as_the_first_process(t)
    after_a_hand_over(t)


harness.run(main)
