"""What is left on the machine: processes, mounts in any namespace, loop devices, namespaces.

leftovers() looks for one scenario's own traces. `python3 -m harness census save FILE` and
`... compare FILE` tell what a whole test run has left, against everything else on the machine.
"""

import json
import os
import subprocess

from . import system

KINDS = ("mnt", "pid", "net", "ipc", "uts", "time", "user", "cgroup")


def _environment(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _mounts_everywhere():
    """{mount namespace inode: [mountinfo lines]}, one reading for each namespace."""
    found = {}
    for pid in system.pids():
        inode = system.namespace(pid, "mnt")
        if inode is None or inode in found:
            continue
        try:
            with open(f"/proc/{pid}/mountinfo") as file:
                found[inode] = file.read().splitlines()
        except OSError:
            pass
    return found


def loops_of(marker, work):
    """Loop devices of a scenario, by their label, or by their backing file while its mount exists."""
    return [f"a loop device: {name} over {backing}" for name, (label, backing) in system.loop_devices().items()
            if marker in label or str(work) in backing]


def leftovers(marker, work, namespaces):
    """Sentences about what still exists of the scenario with that marker, work directory and
    namespaces ({(kind, inode)}). Empty when all is gone."""
    problems = []
    needle = f"SUPERVISE_SCENARIO={marker}".encode()
    for pid in system.pids():
        if pid == os.getpid():
            continue
        state = system.process_state(pid)
        if not state or state[1] in "ZX":
            continue
        ours = needle in _environment(pid).split(b"\0")
        inside = [kind for kind, inode in namespaces if system.namespace(pid, kind) == inode]
        if ours or inside:
            what = "a stopped process" if state[1] in "Tt" else "a process"
            where = f", in its {','.join(inside)} namespaces" if inside else ""
            problems.append(f"{what}: {pid} {state[0]} (state {state[1]}{where})")
    own = system.namespace("self", "mnt")
    for inode, lines in _mounts_everywhere().items():
        for line in lines:
            if str(work) in line:
                where = "the scenario's own" if inode == own else inode
                problems.append(f"a mount in mount namespace {where}: {line}")
    problems += loops_of(marker, work)
    if os.path.exists(work):
        problems.append(f"a directory: {work}")
    return problems


def _firewall():
    try:
        done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, timeout=10)
        return done.stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return []


def machine():
    """A snapshot of the whole machine, comparable and printable."""
    processes, spaces = {}, set()
    for pid in system.pids():
        state = system.process_state(pid)
        if state and state[1] in "Tt":
            processes[f"stopped process {pid} {state[0]}"] = True
        for kind in KINDS:
            inode = system.namespace(pid, kind)
            if inode:
                spaces.add(f"{kind} namespace {inode}")
    mounts = [f"mount {' '.join(line.split()[3:])}" for lines in _mounts_everywhere().values() for line in lines]
    return {
        "stopped processes": sorted(processes),
        "namespaces": sorted(spaces),
        "mounts": sorted(set(mounts)),
        "loop devices": sorted(f"loop device {name} over {backing}" for name, (_, backing) in system.loop_devices().items()),
        "firewall rules": _firewall(),
    }


def save(path):
    with open(path, "w") as file:
        json.dump(machine(), file, indent=1)


def compare(path):
    """What exists now and did not when save() was called."""
    with open(path) as file:
        before = json.load(file)
    return [entry for kind, entries in machine().items() for entry in entries if entry not in set(before[kind])]
