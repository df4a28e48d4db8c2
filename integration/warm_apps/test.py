"""Real servers: the image is taken at the warm point, the original goes on, its host dies, and the copy that is woken
on the second host answers clients, with all the data that the original had loaded."""

import json

import harness
from applications import Nginx, Node, OpenRedis, Python, Redis

STORE = "/srv/shared/images"
STOPPED = {"auto": "listen", "accept": ""}  # the class of the reference before which a thread stands


class SmallRedis(Redis):
    name, keys = "redis-small", 60000

    def prove(self, host):
        super().prove(host)
        self.t.equal(self.ask(host, "set", "later", "1"), "OK", f"{self.name}: and it takes more")


class SmallOpenRedis(OpenRedis, SmallRedis):
    name, keys = "redis-open-small", 60000


def good(t, app, host, then, command, what):
    done = host.run(app.client(60, then, command), 90, check=False)
    t.check(done.status == 0, f"{app.name}: {what} {done.stdout[-200:] if done.status else ''}{done.stderr[-400:]}")
    return json.loads(done.stdout)


def case(t, cls):
    app, a, b = cls(t), t.host("a"), t.host("b")
    app.prepare(a)
    origin = a.supervise(["--name", app.name, "--warm-point", app.point, "--standby", f"dir:{STORE}", "--", *app.argv()], stdio="files",
                         name=f"{app.name}-origin")
    origin.wait_line(r"warm\.image", 60, "stderr")
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
    for cls in (Python, Node, SmallRedis, SmallOpenRedis, Nginx):
        reason = cls(t).missing()
        if reason:
            t.say(f"SKIPPED {cls.name}: {reason}")
        else:
            case(t, cls)


harness.run(main)
