"""Dumps and restores a child that listens on a TCP socket.

Runs as PID 1 of PID, mount and network namespaces of its own, so that neither its PIDs nor its port
can collide with anything. argv[1] is the criu to try. Prints one line and ends with 0 on success.
"""
import fcntl
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time


def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(s, 0x8914, request)  # SIOCSIFFLAGS


def child(listener):
    """Answers each connection with a secret that lives only in memory, and a count."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    keep = listener.fileno()
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            try:
                os.close(int(name))
            except OSError:
                pass
    os.chdir("/")
    secret = secrets.token_hex(8)
    count = 0
    while True:
        peer, _ = listener.accept()
        count += 1
        peer.sendall(f"{os.getpid()} {secret} {count}".encode())
        peer.close()


def ask(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        s.settimeout(5)
        data = b""
        while chunk := s.recv(100):
            data += chunk
    pid, secret, count = data.decode().split()
    return int(pid), secret, int(count)


def criu(images, *arguments):
    log = arguments[0] + ".log"
    command = [sys.argv[1], *arguments, "-D", images, "-o", log, "-v3",
               "--manage-cgroups=ignore", "--shell-job"]
    begin = time.monotonic()
    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=20).returncode
    except subprocess.TimeoutExpired:
        status = "timeout after 20 s"
    if status != 0:
        try:
            with open(os.path.join(images, log), errors="replace") as f:
                sys.stdout.writelines(f.readlines()[-20:])
        except OSError:
            pass
        sys.exit(f"criu {arguments[0]} failed: {status}")
    return (time.monotonic() - begin) * 1000


def main():
    loopback_up()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    pid = os.fork()
    if pid == 0:
        child(listener)
    listener.close()
    before = ask(port)
    with tempfile.TemporaryDirectory(prefix="supervise-smoke-") as images:
        dumped = criu(images, "dump", "-t", str(pid))
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"the dumped child ended with status {status}, not by SIGKILL")
        restored = criu(images, "restore", "-d", "--restore-sibling")
        after = ask(port)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if after != (before[0], before[1], before[2] + 1):
        sys.exit(f"the restored child answered {after} after {before}")
    print(f"    CRIU works here: dump {dumped:.0f} ms, restore {restored:.0f} ms")


if __name__ == "__main__":
    main()
