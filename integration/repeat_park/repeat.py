"""Park, dump, adopt and restore, again and again, on processes and threads in every kind of blocking call:
the guest itself tells of a call that returned early or with EINTR, the threads counted before and after of a
lost one, the deadlines of a hang. Also of guests that fork and make threads as fast as they can meanwhile."""

import json
import os
import re
import time

import harness

WORK, STORE = "/srv/data", "/srv/shared/images"
CHECKPOINT_SECONDS = 60
# CRIU 4.2.1 dumps no POSIX message queue (its file lies on no mount that can be seen), and the room in a full
# socket pair is another one after a restore: the waiting send() finds some.
NO_DUMP, NO_RESTORE = ["mqueue"], ["mqueue", "send(full unix)"]


def threads_of(pid, inner):
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status") as file:
            fields = dict(line.rstrip("\n").split(":", 1) for line in file if ":" in line)
        state = fields["State"].split()[0]
        found[inner, fields["NSpid"].split()[-1]] = (state, fields["TracerPid"].strip() != "0")
    return found


class Application:
    """One supervised program, checkpointed on the spot or carried into the next supervisor."""

    def __init__(self, t, host, arguments):
        self.t, self.host, self.generation, self.checkpoints = t, host, 0, 0
        self.times, self.restores, self.output = [], [], ""
        (t.shared / "images").mkdir(exist_ok=True)
        self.process = host.supervise(["--name", "app", "--images", STORE, "--path", f"data={WORK}", "--", *arguments],
                                      stdio="files", name="generation-0")

    def counted(self):
        """{(process, thread): (state, traced)} by inner PIDs, from /proc and not from the supervisor."""
        found = {}
        for pid in self.host.processes():
            try:
                with open(f"/proc/{pid}/status") as file:
                    levels = next(line.split()[1:] for line in file if line.startswith("NSpid:"))
                if levels[-1] != "1" and len(levels) >= 3 + _depth():  # below the host and the world, not its init
                    found.update(threads_of(pid, levels[-1]))
            except (FileNotFoundError, ProcessLookupError, StopIteration):
                continue
        return found

    def running_as(self, before):
        """Waits until exactly these threads are there, traced, and none of them is stopped."""
        def same():
            now = self.counted()
            return now.keys() == before.keys() and all(traced and state not in "Tt" for state, traced in now.values())
        try:
            harness.wait_until(same, 10, "all threads are there and run")
        except TimeoutError:
            now = self.counted()
            lost, more = before.keys() - now.keys(), now.keys() - before.keys()
            odd = {key: value for key, value in now.items() if value[0] in "Tt" or not value[1]}
            raise AssertionError(f"checkpoint {self.checkpoints}, generation {self.generation}: lost {sorted(lost)}, "
                                 f"more {sorted(more)}, stopped or untraced {odd}") from None

    def checkpoint(self, stop=False):
        began = time.monotonic()
        done = self.host.run([self.t.supervise_binary(), "checkpoint", "app", *(["--stop"] if stop else [])],
                             CHECKPOINT_SECONDS, check=False)
        self.times.append(time.monotonic() - began)
        self.checkpoints += 1
        if done.status != 0:
            raise AssertionError(f"checkpoint {self.checkpoints}: {done}")
        images = [path for path in (self.t.shared / "images" / "app").glob("gen-*") if path.is_dir()]
        return f"{STORE}/app/{max(path.name for path in images)}"

    def renew(self):
        """checkpoint --stop, then a new supervisor that restores."""
        image = self.checkpoint(stop=True)
        self.process.wait(30)
        self.output += self.process.stdout.text
        began = time.monotonic()
        self.generation += 1
        self.process = self.host.supervise(["restore", image, "--images", STORE, "--path", f"data={WORK}"],
                                           stdio="files", name=f"generation-{self.generation}")
        self.process.wait_line("restored in", 60, "stderr")
        self.restores.append(time.monotonic() - began)

    def prune(self):
        done = self.host.run([self.t.supervise_binary(), "images", "prune", "app", "--images", STORE], 30, check=False)
        if done.status != 0:
            raise AssertionError(str(done))

    def end(self, seconds):
        status = self.process.wait(seconds)
        self.output += self.process.stdout.text
        return status


def _depth():
    """PID namespaces above this test's own, which /proc shows too when it is not the outermost."""
    with open("/proc/self/status") as file:
        return next(len(line.split()) - 2 for line in file if line.startswith("NSpid:"))


def figures(times):
    if not times:
        return "none"
    ordered = sorted(times)
    return (f"{len(times)}, median {ordered[len(ordered) // 2] * 1000:.0f} ms, slowest {ordered[-1] * 1000:.0f} ms, "
            f"{sum(times):.1f} s in all")


def start_blocking(t, host, without, limit):
    host.shell(f"rm -rf {WORK}/* /tmp/kick; mkdir {WORK}/d")
    app = Application(t, host, [str(t.guest_path("blocking")), "--dir", f"{WORK}/d", "--kick", "/tmp/kick",
                                "--tick", f"{WORK}/ticks", "--limit", limit, "--without", ",".join(without)])
    ready = app.process.wait_line(r"^ready: (\d+) kinds", 30, "stdout")
    return app, int(ready.group(1))


def end_blocking(t, app, kinds, what):
    app.host.shell("touch /tmp/kick")
    status = app.end(60)
    said = [line for line in app.output.splitlines() if line.startswith(("ERR", "END"))]
    t.equal((status, said), (0, [f"END {kinds} kinds, 0 errors"]),
            f"{what}: {kinds} kinds of call neither returned early nor with EINTR")


def in_place(t, host, count):
    """Park, dump, adopt: the application goes on where it is."""
    app, kinds = start_blocking(t, host, NO_DUMP, str(60 + count * 5))
    before = app.counted()
    for i in range(count):
        app.checkpoint()
        app.running_as(before)
        if i % 10 == 9:
            app.prune()
    t.say(f"{len(before)} threads parked, dumped and adopted: {figures(app.times)}")
    end_blocking(t, app, kinds, f"{count} checkpoints")


def from_image_to_image(t, host, count):
    """Park, dump, end, restore, adopt: a new world and a new supervisor each time."""
    app, kinds = start_blocking(t, host, NO_RESTORE, str(60 + count * 10))
    before = app.counted()
    for _ in range(count):
        app.renew()
        app.running_as(before)
        app.prune()
    t.say(f"{len(before)} threads: dumps {figures(app.times)}; restores {figures(app.restores)}")
    end_blocking(t, app, kinds, f"{count} generations")


def storm(t, host, arguments, at_least):
    """A guest that makes and ends tasks all the time."""
    host.shell(f"rm -rf {WORK}/*")
    app = Application(t, host, arguments)
    time.sleep(0.3)
    refused = []
    while app.process.poll() is None:
        done = host.run([t.supervise_binary(), "checkpoint", "app"], CHECKPOINT_SECONDS, check=False)
        if done.status == 0:
            app.checkpoints += 1
        elif app.process.poll() is None:
            refused.append(done.stderr.strip())
    status = app.end(60)
    said = [line for line in app.output.splitlines() if re.match("ERR|FAIL|not ok", line)]
    t.equal((status, said), (0, []), f"{os.path.basename(arguments[0])} storms through {app.checkpoints} checkpoints"
            + (f", {len(refused)} refused: {refused[0]}" if refused else ""))
    t.check(app.checkpoints >= at_least, f"at least {at_least} of them were made")
