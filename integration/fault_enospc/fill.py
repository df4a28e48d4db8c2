"""Writes CHUNKS records of 64 KiB to DIR/file; each write and fsync must succeed wholly.

    fill.py DIR CHUNKS       says when one was short; exit 1 with the error's name when one fails
"""

import errno
import hashlib
import os
import sys


def chunk(number):
    return hashlib.sha256(b"%d" % number).digest() * 2048


if __name__ == "__main__":
    f = os.open(f"{sys.argv[1]}/file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        for number in range(int(sys.argv[2])):
            print("writes", number, flush=True)
            done = os.write(f, chunk(number))
            if done != 65536:
                print("short", done, flush=True)
                os.write(f, chunk(number)[done:])
            os.fsync(f)
    except OSError as error:
        print("got", errno.errorcode[error.errno], flush=True)
        sys.exit(1)
    print("end", flush=True)
