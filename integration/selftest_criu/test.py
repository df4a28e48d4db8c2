"""CRIU inside a host made of namespaces: a program in a world of its own (PIDs, mounts) is dumped on one
host and goes on on another, its storage reached another way, the first host switched off."""

import shutil

import harness


def pid_levels(pid):
    """Its PID in each namespace, outermost first."""
    with open(f"/proc/{pid}/status") as file:
        return next(line for line in file if line.startswith("NSpid:")).split()[1:]


class World:
    """A PID, mount and IPC namespace on a host; self.pid is its PID 1 as the host sees it."""

    def __init__(self, host, directory, *program):
        self.host = host
        script = ["/usr/bin/python3", "-B", "/srv/shared/world.py", directory, *program]
        self.process = host.start(["unshare", "--pid", "--mount", "--ipc", "--fork", "--kill-child", "--mount-proc",
                                   *script], name="world")
        self.process.wait_line("^world$", 10, "stdout")
        self.pid = next(levels[-2] for levels in map(pid_levels, host.processes()) if levels[-1:] == ["1"])

    def criu(self, *words):
        command = ["nsenter", "-t", self.pid, "-p", "-m", "-i", harness.criu_binary(), *words, "--shell-job",
                   "--manage-cgroups=ignore", "-D", "/srv/shared/image", "-v4", "-o", "log"]
        done = self.host.run(command, 60, check=False)
        if done.status != 0:
            log = self.host.shell("tail -n 30 /srv/shared/image/log", check=False).stdout
            raise AssertionError(f"{done}\n{log}")


def numbers(host, directory):
    log = host.path(f"{directory}/log")
    return [int(line) for line in log.read_text().splitlines()] if log.exists() else []


def main(t):
    for name in ("world.py", "counter.py"):
        shutil.copy(t.folder / name, t.shared)
    (t.shared / "image").mkdir()
    disk = t.failing_disk("ext4")
    one, two = t.host("one"), t.host("two")
    disk.mount_first(one, "/srv/first")
    world = World(one, "/srv/first", "/usr/bin/python3", "/srv/shared/counter.py")
    harness.wait_until(lambda: len(numbers(one, "/srv/first")) > 20, 10, "the program counts")
    world.criu("dump", "-t", "2")
    counted = numbers(one, "/srv/first")
    one.power_off()
    t.check(not one.alive, "the first host is off")

    disk.mount_third(two, "/srv/third")
    t.equal(numbers(two, "/srv/third"), counted, "what was durable is there by way of the third path")
    world = World(two, "/srv/third")
    world.criu("restore", "-d")
    harness.wait_until(lambda: len(numbers(two, "/srv/third")) > len(counted) + 20, 10, "it counts on the second host")
    seen = numbers(two, "/srv/third")
    t.equal(seen, list(range(1, len(seen) + 1)), f"no number lost, none twice ({len(counted)} on the first, {len(seen)} in all)")


harness.run(main)
