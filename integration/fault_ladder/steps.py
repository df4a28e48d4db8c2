"""One write each way, with a fault that begins at an exact point.

    steps.py WHAT DIR SOCKET
"""

import errno
import os
import socket
import sys
import time

PIECE = 64 * 1024


def content(size):
    return b"".join(b"%015d\n" % number for number in range(size // 16))


def command(line):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(sys.argv[3])
        connection.sendall(line.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000).startswith(b"ok"), line


def opened():
    f = os.open(f"{sys.argv[2]}/file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.write(f, b"." * PIECE)
    os.fsync(f)
    return f


def once():
    """The device fails one write, that of the data, and is good again."""
    f = opened()
    command("fail write EIO times=1")
    os.pwrite(f, content(PIECE), 0)
    os.fsync(f)
    print("durable", flush=True)


def told():
    """Whether the error arrives."""
    f = opened()
    command("fail all EIO")
    os.pwrite(f, content(PIECE), 0)
    try:
        os.fsync(f)
        print("no error", flush=True)
    except OSError as error:
        print("got", errno.errorcode[error.errno], flush=True)


def never():
    """Writes far more than a journal's limit, and never makes it durable."""
    f = os.open(f"{sys.argv[2]}/file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    whole = content(96 * PIECE)
    for at in range(0, len(whole), PIECE):
        if at == 60 * PIECE:
            command("fail all EIO")
        os.write(f, whole[at:at + PIECE])
        time.sleep(0.003)
    os.close(f)


def leaves():
    """Ends at once, with nothing made durable."""
    f = os.open(f"{sys.argv[2]}/file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(f, content(4 * PIECE))
    os.mkdir(f"{sys.argv[2]}/directory")
    os.rename(f"{sys.argv[2]}/file", f"{sys.argv[2]}/directory/renamed")
    command("fail all EIO")
    sys.exit(7)


if __name__ == "__main__":
    {"once": once, "told": told, "never": never, "leaves": leaves}[sys.argv[1]]()
