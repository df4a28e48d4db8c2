"""The first process of a host made of namespaces. Run as: hostinit.py JSON

Prints the host's init PID as seen outside, then "ready". The caller dies: this dies. This dies: the
kernel kills all that runs in the host and takes its mounts away.
"""

import fcntl
import json
import os
import signal
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from harness import system  # noqa: E402

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def furnish(spec):
    """Private /proc, /run, /tmp, /srv and /dev/shm; what must stay reachable below them is bound back."""
    system.mount(None, "/", None, system.MS_REC | system.MS_PRIVATE)
    handles = {path: os.open(path, os.O_PATH) for path in spec["keep"]}
    system.mount("proc", "/proc", "proc", system.MS_NOSUID | system.MS_NODEV)
    for directory, mode in (("/run", "755"), ("/tmp", "1777"), ("/srv", "755"), ("/dev/shm", "1777")):
        system.mount("tmpfs", directory, "tmpfs", system.MS_NOSUID | system.MS_NODEV, f"mode={mode}")
    for path, handle in handles.items():
        os.makedirs(path, exist_ok=True)
        system.mount(f"/proc/self/fd/{handle}", path, None, system.MS_BIND | system.MS_REC)
        os.close(handle)
    os.mkdir("/srv/shared")
    system.mount(spec["shared"], "/srv/shared", None, system.MS_BIND)
    socket.sethostname(spec["name"])
    loopback_up()


def init(spec):
    system.die_with_parent()
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    furnish(spec)
    os.chdir("/")
    os.write(1, b"ready\n")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    while True:
        signal.sigwaitinfo([signal.SIGCHLD])
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def main():
    spec = json.loads(sys.argv[1])
    system.die_with_parent()
    system.unshare(system.CLONE_NEWPID | system.CLONE_NEWNS | system.CLONE_NEWNET | system.CLONE_NEWUTS
                   | system.CLONE_NEWIPC)
    child = os.fork()
    if child == 0:
        try:
            init(spec)
        except OSError as error:
            os.write(2, f"host {spec['name']}: {error}\n".encode())
        os._exit(1)
    os.write(1, f"{child}\n".encode())
    os.close(1)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
