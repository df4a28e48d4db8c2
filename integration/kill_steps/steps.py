"""Two hosts, one tree on storage common to both, the guest `writer` under it. A planned hand-over is
disturbed at one step; afterwards one copy runs, and at the end the tree is that of an undisturbed run."""

import json
import re

import harness

SEED = 11
FIRST, THIRD, STORE = "/srv/first", "/srv/third", "/srv/shared/images"


class Pair:
    def __init__(self, t, rounds, delay=20, store=STORE):
        self.t, self.rounds, self.delay, self.store = t, rounds, delay, store
        self.a, self.b = t.host("a"), t.host("b")
        for name in ("images", "data"):
            (t.shared / name).mkdir()
        self.a.bind("/srv/shared/data", FIRST)
        self.b.bind("/srv/shared/data", THIRD)
        self.standbys = []
        self.writer = str(t.guest_path("writer"))

    def start(self, env=None, points=""):
        self.app = self.a.supervise(["--name", "app", "--path", f"data={FIRST}", "--standby", f"dir:{self.store}", "--",
                                     self.writer, f"{FIRST}/tree", str(self.rounds), str(SEED), "--delay", str(self.delay)],
                                    stdio="files", name="origin", env={**(env or {}), **_points(points)})
        self.app.wait_line("round 3", 30, "stdout")

    def standby(self, points="", env=None):
        one = self.b.supervise(["standby", "--name", "app", "--path", f"data={THIRD}", "--from", f"dir:{self.store}"],
                               stdio="files", name=f"standby-{len(self.standbys)}", env={**(env or {}), **_points(points)})
        one.wait_line("standby.ready", 20, "stderr")
        self.standbys.append(one)
        return one

    def hand_over(self, seconds=60):
        return self.a.run([self.t.supervise_binary(), "handover", "app"], seconds, check=False)

    def ask(self):
        """`supervise handover`, not waited for."""
        return self.a.start([self.t.supervise_binary(), "handover", "app"], name="handover")

    def copies(self):
        """The hosts on which the guest runs."""
        return [host.name for host in (self.a, self.b)
                if any(name == "writer" and state != "Z" for name, state in host.processes().values())]

    def round_of(self, process):
        found = re.findall(r"round (\d+)", process.stdout.text)
        return int(found[-1]) if found else -1

    def goes_on(self, process, what):
        """It makes progress from now on, and nowhere else does a copy run."""
        before = self.round_of(process)
        harness.wait_until(lambda: self.round_of(process) > before, 30, f"the application goes on {what}")
        self.t.equal(len(self.copies()), 1, f"one copy runs {what}")

    def whole(self, status, expected=0):
        self.t.equal(status, expected, "the application ends as it would have")
        self.b.run([self.writer, "--expect", "/srv/shared/expected", str(self.rounds), str(SEED)], 60)
        done = self.b.run([self.writer, "--compare", f"{THIRD}/tree", "/srv/shared/expected"], 60, check=False)
        self.t.equal(done.status, 0, f"the tree is what an undisturbed run makes {done.stdout[-300:] if done.status else ''}")
        for one in [self.app, *self.standbys]:
            self.t.check(not re.search(r"^(ERR|FAIL)", one.stdout.text, re.M), f"no error was seen ({one.name})")


def _points(points):
    return {"SUPERVISE_FAULT_POINTS": points} if points else {}


def criu_wrapper(t):
    """A program for SUPERVISE_CRIU that does what the file criu-mode says, once."""
    path = t.shared / "criu.sh"
    path.write_text(f"""#!/bin/bash
mode=$(cat /srv/shared/criu-mode 2>/dev/null)
case "$1 $mode" in
  "dump kill-dump-"* | "restore kill-restore-"*)
    rm /srv/shared/criu-mode
    {harness.criu_binary()} "$@" & criu=$!
    sleep "${{mode##*-}}"; kill -9 $criu; wait $criu; exit 137 ;;
  "dump hang" | "restore hang-restore")
    rm /srv/shared/criu-mode; exec sleep 600 ;;
esac
exec {harness.criu_binary()} "$@"
""")
    path.chmod(0o755)
    return {"SUPERVISE_CRIU": "/srv/shared/criu.sh", "SUPERVISE_CRIU_DEADLINE": "4"}


def criu_mode(t, mode):
    (t.shared / "criu-mode").write_text(mode)
