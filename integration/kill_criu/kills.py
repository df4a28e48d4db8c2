"""CRIU is killed at a random moment of a dump, again and again, over a guest in every kind of blocking call:
no thread is lost, none returns early or with EINTR, and no process is changed by it."""

import random
import sys
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "repeat_park"))
import repeat  # noqa: E402

LONGEST = 0.12  # seconds; a dump of these threads takes about as long
CAUGHT = "SigCgt"


def wrapper(t):
    """A program for SUPERVISE_CRIU: kills a dump after as many seconds as the file `delay` says, once."""
    path = t.shared / "criu.sh"
    path.write_text(f"""#!/bin/bash
if [ "$1" = dump ] && [ -e /srv/shared/delay ]; then
  delay=$(cat /srv/shared/delay); rm /srv/shared/delay
  {harness.criu_binary()} "$@" & criu=$!
  sleep $delay; kill -9 $criu; wait $criu; exit 137
fi
exec {harness.criu_binary()} "$@"
""")
    path.chmod(0o755)
    return {"SUPERVISE_CRIU": "/srv/shared/criu.sh"}


class Host:
    """A host whose supervisors use the wrapper."""

    def __init__(self, host, env):
        self._host, self._env = host, env

    def __getattr__(self, name):
        return getattr(self._host, name)

    def supervise(self, arguments, **more):
        return self._host.supervise(arguments, env=self._env, **more)


def caught(app):
    """{(process, thread): signals with a handler}, by inner PIDs."""
    found = {}
    for pid in app.host.processes():
        try:
            with open(f"/proc/{pid}/status") as file:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields["Name"] == "blocking":
            found[fields["NSpid"].split()[-1]] = fields[CAUGHT]
    return found


def many(t, count, seed):
    host = t.host("one")
    host.mount("tmpfs", repeat.WORK, "tmpfs")
    host = Host(host, wrapper(t))
    app, kinds = repeat.start_blocking(t, host, repeat.NO_RESTORE, "3000")
    before, handlers = app.counted(), caught(app)
    chance = random.Random(seed)
    killed = 0
    for app.checkpoints in range(count):
        (t.shared / "delay").write_text(f"{chance.uniform(0, LONGEST):.4f}")
        done = host.run([t.supervise_binary(), "checkpoint", "app"], 60, check=False)
        killed += done.status != 0
        app.running_as(before)
    t.check(killed >= count * 0.8, f"{killed} of {count} dumps were killed, {len(before)} threads go on each time, "
            f"{app.process.stderr.text.count('image.repaired')} times after a repair")
    t.equal(caught(app), handlers, "no process has a handler that it had not")
    app.checkpoint()
    t.equal(caught(app), handlers, "nor after a dump that succeeds")
    app.renew()
    app.running_as(before)
    t.equal(caught(app), handlers, "nor after a restore")
    repeat.end_blocking(t, app, kinds, f"{count} kills")
