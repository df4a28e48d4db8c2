"""The supervisor of an application is killed, again and again, while a keeper stands."""

import json
import random
import re
import time

import harness


def supervisor(t, host):
    """Its status, once it has a keeper."""
    def there():
        done = host.run([t.supervise_binary(), "status", "app", "--json"], 30, check=False)
        found[:] = [json.loads(done.stdout)] if done.status == 0 else []
        return found and found[0]["keeper"] > 0
    found = []
    harness.wait_until(there, 30, "a supervisor with a keeper")
    return found[0]


def lose(t, host, said, times, total=None):
    chance = random.Random(3)
    former = 0
    for _ in range(times):
        harness.wait_until(lambda: supervisor(t, host)["pid"] != former, 30, "another supervisor")
        former = supervisor(t, host)["pid"]
        time.sleep(chance.uniform(0, 0.3))
        host.run(["kill", "-KILL", str(former)], 10)
    total = total or times
    harness.wait_until(lambda: len(re.findall("supervisor.taken_over", said.stderr.text)) == total, 30, f"{total} keepers took over")
    return supervisor(t, host)["pid"]
