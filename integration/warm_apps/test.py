"""Real servers: the image is taken at the warm point, the original goes on, its host dies, and the copy that is woken
on the second host answers clients, with all the data that the original had loaded."""

import json
import shutil

import harness
from applications import HERE, Nginx, Node, OpenRedis, Postgres, Python, Redis, Slow, as_user

STORE = "/srv/shared/images"
STOPPED = {"auto": "listen", "accept": ""}  # the class of the reference before which a thread stands


class SmallRedis(Redis):
    name, keys = "redis-small", 60000

    def prove(self, host):
        super().prove(host)
        self.t.equal(self.ask(host, "set", "later", "1"), "OK", f"{self.name}: and it takes more")


class SmallOpenRedis(OpenRedis, SmallRedis):
    name, keys = "redis-open-small", 60000


class OtherUser(Slow):
    name = "other-user"

    def prepare(self, host):
        super().prepare(host)
        shutil.copy(HERE / "service.py", self.here)  # the checkout may be closed to others

    def argv(self):
        return [*as_user("nobody"), "/usr/bin/python3", f"{self.dir}/service.py", str(self.port), "0.1"]


def good(t, app, host, then, command, what):
    done = host.run(app.client(60, then, command), 90, check=False)
    t.check(done.status == 0, f"{app.name}: {what}" + (f"{done.stdout[-200:]} {done.stderr[-400:]}" if done.status else ""))
    return json.loads(done.stdout)


def case(t, cls):
    app, a, b = cls(t), t.host("a"), t.host("b")
    app.prepare(a)
    origin = a.supervise(["--name", app.name, "--warm-point", app.point, "--standby", f"dir:{STORE}", "--", *app.argv()], stdio="files",
                         name=f"{app.name}-origin")
    if "failed" in origin.wait_line(r"warm\.(image|failed).*\n", 60, "stderr").group(0):
        t.check(app.limited(origin.stderr.text), f"{app.name}: only for want of a capability there is no image")
        good(t, app, a, "leave", ["/bin/true"], "the original goes on")
        return t.say(f"SKIPPED {app.name}: {app.limited(origin.stderr.text)}")
    inspected = json.loads(a.run([t.supervise_binary(), "images", "inspect", app.name, "--images", STORE, "--json"], 60).stdout)
    classes = {thread["class"] for thread in inspected["threads"]} - {""}
    t.equal(classes, {STOPPED[app.point]} - {""}, f"{app.name}: its threads stand where they should")
    good(t, app, a, "leave", ["/bin/true"], "the original goes on")
    app.prove(a)
    a.power_off(crash=True)
    standby = b.supervise(["standby", "--name", app.name, "--from", f"dir:{STORE}", "--ready", "parked", "--activate", "command"],
                          stdio="files", name=f"{app.name}-standby")
    standby.wait_line(rf"standby\.{app.level}:", 60, "stderr")
    took = good(t, app, b, "leave", [t.supervise_binary(), "activate", app.name], f"the {app.level} copy answers")
    t.equal(took["status"], 0, f"{app.name}: {app.level}, first answer {took['first_ms']:.1f} ms after the start of the command")
    app.prove(b)
    good(t, app, b, "leave", ["/bin/true"], "and again")
    standby.signal(15)
    standby.wait(30)
    harness.wait_until(lambda: not [1 for _, state in b.processes().values() if state != "Z"], 15, "nothing is left")
    b.power_off()


def main(t):
    (t.shared / "images").mkdir()
    for cls in (Python, OtherUser, Node, SmallRedis, SmallOpenRedis, Nginx, Postgres):
        reason = cls(t).missing()
        if reason:
            t.say(f"SKIPPED {cls.name}: {reason}")
        else:
            case(t, cls)


harness.run(main)
