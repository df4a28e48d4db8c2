"""What a scenario's `needs` file may name, and the probe behind each word."""

import os
import shutil
import subprocess
from pathlib import Path

CRIU_PREFIX = "/opt/supervise/criu"


def criu_binary():
    for candidate in (os.environ.get("CRIU_BIN"), f"{CRIU_PREFIX}/sbin/criu", shutil.which("criu")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    return None


def _file_system(name, tool):
    known = name in Path("/proc/filesystems").read_text().split()
    if not known:
        return f"this kernel has no {name}"
    return None if shutil.which(tool, path=search_path()) else f"{tool} is not installed"


def search_path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _tool(name):
    return None if shutil.which(name, path=search_path()) else f"{name} is not installed"


def _root():
    return None if os.geteuid() == 0 else "not root"


def _namespaces():
    done = subprocess.run(["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"],
                          capture_output=True, text=True, timeout=10)
    return None if done.returncode == 0 else f"no namespaces: {done.stderr.strip()}"


def _network():
    done = subprocess.run(["unshare", "--net", "sh", "-c", "ip link add v0 type veth peer name v1 && ip link add b0 type bridge"],
                          capture_output=True, text=True, timeout=10)
    return None if done.returncode == 0 else f"no veth or bridge: {done.stderr.strip()}"


def _loop():
    return None if os.access("/dev/loop-control", os.R_OK | os.W_OK) else "/dev/loop-control can't be opened"


def _fuse():
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
        return None
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"


def _criu():
    return None if criu_binary() else f"no CRIU in {CRIU_PREFIX} (scripts/setup.sh builds it)"


def _supervise(scenario):
    path = scenario.supervise_binary()
    return None if os.access(path, os.X_OK) else f"{path} is not built"


def _memory(megabytes):
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            have = int(line.split()[1]) // 1024
            return None if have >= int(megabytes) else f"{have} MiB of memory available, {megabytes} needed"
    return None


def missing(need, scenario):
    """Why `need` is not met, or None. An unknown word is an error of the scenario."""
    word, _, argument = need.partition(":")
    probes = {
        "root": _root,
        "namespaces": _namespaces,
        "network": _network,
        "fuse": _fuse,
        "loop": _loop,
        "ext4": lambda: _file_system("ext4", "mkfs.ext4"),
        "xfs": lambda: _file_system("xfs", "mkfs.xfs"),
        "btrfs": lambda: _file_system("btrfs", "mkfs.btrfs"),
        "criu": _criu,
        "sqlite3": lambda: _tool("sqlite3"),
        "supervise": lambda: _supervise(scenario),
        "tool": lambda: _tool(argument),
        "guest": lambda: None if scenario.guest_path(argument).exists() else f"guest {argument} is not built",
        "memory": lambda: _memory(argument),
        "file": lambda: None if os.path.exists(argument) else f"{argument} does not exist",
    }
    if word not in probes:
        raise ValueError(f"unknown need '{need}'; known: {', '.join(sorted(probes))}")
    return probes[word]()
