"""What the scenarios of calls in process share."""

import json
import re

from compat_support import fresh

OUTSIDE = "/srv/outside"


def run_told(t, host, options, argv, seconds=60):
    """A run (with `--stub=on` unless the options say otherwise) and all that the log tells: (result, log)."""
    fresh(host)
    host.shell(f"mkdir -p {OUTSIDE}")
    stub = [] if any(o.startswith("--stub") for o in options) else ["--stub=on"]
    argv = [t.supervise_binary(), "run", "--log-level", "debug", *stub, *options, "--", *map(str, argv)]
    got = host.run(argv, seconds, check=False, cwd="/srv/work")
    return got, got.stderr


def figures(t, host, options, argv, seconds=60):
    """How many calls the program made in process: `in_process` of the status at its end."""
    got, log = run_told(t, host, options, argv, seconds)
    t.equal(got.status, 0, f"{argv} under --stub=on\n{got.stdout[-1000:]}")
    found = re.search(r"stub\.figures: (\{.*\})", log)
    t.check(found, "it tells how many calls were made in process")
    return json.loads(found.group(1))["in_process"]
