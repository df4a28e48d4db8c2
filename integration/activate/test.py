"""A standby that resumes on command only. A hand-over is committed and the first host is destroyed at once: nothing
runs until `supervise activate`; then the application goes on there. The same from an image that `supervise checkpoint
--stop` has made."""

import os
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kill_steps"))
import steps  # noqa: E402

FIRST, SECOND, THIRD, STORE = "/srv/first", "/srv/second", "/srv/third", "/srv/shared/images"
ROUNDS = 60


class Two(steps.Pair):
    def __init__(self, t):
        super().__init__(t, ROUNDS, 20)
        for host, path in ((self.a, FIRST), (self.b, THIRD)):
            host.umount(path)
        self.a.mkdir(SECOND)
        self.disk = t.failing_disk("ext4")
        self.disk.mount_first(self.a, FIRST)
        self.up2 = self.disk.path_up_script("second", SECOND)
        self.up3 = self.disk.path_up_script("third", THIRD)

    def standby(self):
        one = self.b.supervise(["standby", "--name", "app", "--path", f"data={THIRD}", "--path-up", f"data={self.up3}",
                                "--from", f"dir:{STORE}", "--activate", "command"], stdio="files", name="standby")
        one.wait_line("standby.ready", 20, "stderr")
        self.standbys.append(one)
        return one

    def start(self):
        self.app = self.a.supervise(["--name", "app", "--path", f"data={FIRST},{SECOND}", "--path-up", f"data={self.up2}",
                                     "--standby", f"dir:{STORE}", "--images", STORE, "--", self.writer, f"{FIRST}/tree",
                                     str(ROUNDS), str(steps.SEED), "--delay", "20"], stdio="files", name="origin")
        self.app.wait_line("round 5", 30, "stdout")

    def activate(self):
        return self.b.run([self.t.supervise_binary(), "activate", "app"], 30, check=False)


def after_a_hand_over(t):
    pair = Two(t)
    standby = pair.standby()
    pair.start()
    done = pair.activate()
    t.check(done.status != 0 and "no " in done.stderr, f"there is nothing to activate yet: {done.stderr.strip()}")
    pair.disk.fail("all", "EIO")
    pair.app.wait_line("committed: from here on", 40, "stderr")
    pair.a.power_off(crash=True)
    t.equal(pair.copies(), [], "the first host is gone, and the standby waits for the command")
    done = pair.activate()
    t.equal(done.status, 0, f"it is activated {done.stderr}")
    pair.goes_on(standby, "on B after activate")
    pair.whole(standby.wait(60))
    again = pair.activate()
    t.check(again.status != 0, "and can't be activated when it has ended")
    pair.b.power_off()


def from_a_checkpoint(t):
    pair = Two(t)
    standby = pair.standby()
    pair.start()
    done = pair.a.run([t.supervise_binary(), "checkpoint", "app", "--stop"], 60, check=False)
    t.equal(done.status, 0, f"an image is made, and the application ended {done.stderr}")
    pair.app.wait(30)
    t.check(any(name.startswith("gen-") for name in os.listdir(t.shared / "images" / "app")), "it is in the standby's store")
    pair.a.power_off(crash=True)
    t.equal(pair.copies(), [], "nothing runs until the command")
    done = pair.activate()
    t.equal(done.status, 0, f"it is activated {done.stderr}")
    pair.goes_on(standby, "on B from the newest image")
    pair.whole(standby.wait(60))


def main(t):
    after_a_hand_over(t)
    for name in ("images", "data", "expected"):
        t.run(["rm", "-rf", str(t.shared / name)])
    from_a_checkpoint(t)


harness.run(main)
