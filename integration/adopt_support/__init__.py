"""What the scenarios of `supervise adopt` share: an application that two versions of the program take in turns."""

import json
import re
import shutil
from pathlib import Path

import harness

FIRST, SECOND = "/srv/first", "/srv/second"
ROUNDS, SEED = 60, 7


def install_next_version(t):
    build = Path(t.supervise_binary()).resolve().parent.parent
    for part in ("supervisor", "libexec"):
        (t.shared / "next" / part).mkdir(parents=True)
    shutil.copy2(build / "supervisor/supervise", t.shared / "next/supervisor/supervise")
    shutil.copytree(build / "libexec/supervise", t.shared / "next/libexec/supervise")
    t.next_version = "/srv/shared/next/supervisor/supervise"


class Supervised:
    """One host with a device that can fail, and an application on it."""

    def __init__(self, t, name, command, options=(), place=None, **more):
        self.t, self.name, self.host = t, name, t.host(name)
        self.host.mkdir(SECOND)
        self.disk = t.failing_disk("ext4")
        self.disk.mount_first(self.host, FIRST)
        if place:  # the device is small
            self.host.mkdir(place)
            options = [*options, "--path", f"large={place}"]
        up = self.disk.path_up_script("second", SECOND)
        self.app = self.host.supervise(["--name", "app", "--path", f"data={FIRST},{SECOND}", "--path-up", f"data={up}",
                                        *options, "--", *command], name=name, **{"stdio": "files", **more})
        self.versions = [t.supervise_binary(), t.next_version]
        self.adoptions = 0

    def status(self):
        done = self.host.run([self.t.supervise_binary(), "status", "app", "--json"], 30)
        return json.loads(done.stdout)

    def program(self):
        return self.host.run(["readlink", f"/proc/{self.status()['pid']}/exe"], 10).stdout.strip()

    def adopt(self, check=True):
        """By the other of the two versions; what it says."""
        self.adoptions += 1
        done = self.host.run([self.versions[self.adoptions % 2], "adopt", "app", "--json"], 60, check=False)
        if check and done.status != 0:
            raise AssertionError(f"adopt ends with {done.status}: {done.stderr}")
        return done

    def adopt_often(self, times):
        for _ in range(times):
            if self.app.poll() is not None:
                break
            pid = self.status()["pid"]
            answer = json.loads(self.adopt().stdout)
            if answer["pid"] != pid:
                raise AssertionError(f"process {answer['pid']} goes on in place of {pid}")
            if not self.program().startswith(str(Path(self.versions[self.adoptions % 2]).parent.parent)):
                raise AssertionError(f"it is {self.program()} that goes on")

    def fail(self):
        self.disk.fail("all", "EIO")
        harness.wait_until(lambda: "path.switched" in self.app.stderr.text, 60, "the path is switched")

    def well(self, status=0):
        self.t.equal(self.app.wait(120), status, f"{self.name}: the application's own exit status, after {self.adoptions} adoptions")
        self.t.equal(re.findall(r"^(?:FAIL|ERR|Traceback).*", self.app.stdout.text + self.app.stderr.text, re.M), [],
                     f"{self.name}: no error was seen")


def writer_of(t, name, delay=50, options=(), rounds=ROUNDS, **more):
    """The writer in its second round; `whole` compares what it writes with an undisturbed run."""
    one = Supervised(t, name, [str(t.guest_path("writer")), f"{FIRST}/tree", str(rounds), str(SEED), "--delay", str(delay)], options, **more)
    one.app.wait_line("round 2", 30, "stdout")
    return one


def expect(t):
    t.run([str(t.guest_path("writer")), "--expect", str(t.shared / "expected"), str(ROUNDS), str(SEED)], 60)


def same_tree(t, one):
    done = one.host.run([str(t.guest_path("writer")), "--compare", f"{SECOND}/tree", "/srv/shared/expected"], 60, check=False)
    t.equal(done.status, 0, f"the tree is whole {done.stdout[-300:] if done.status else ''}")
    one.host.power_off()


def whole(t, one):
    one.well()
    t.check(re.search(rf"^done: {ROUNDS} rounds, 0 failures", one.app.stdout.text, re.M), "the writer ends as it would have")
    same_tree(t, one)
