"""Appends numbered records to DIR/log, each with fsync, until COUNT are there.

    records.py DIR COUNT
"""

import errno
import os
import sys
import time

f = os.open(f"{sys.argv[1]}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
try:
    for number in range(int(sys.argv[2])):
        os.write(f, b"%08d\n" % number)
        os.fsync(f)
        print("record", number, flush=True)
        time.sleep(0.01)
except OSError as error:
    print("got", errno.errorcode[error.errno], flush=True)
    sys.exit(1)
