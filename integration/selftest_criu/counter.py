"""Appends a number a line to /srv/data/log, durable one by one."""

import os
import time

log = os.open("/srv/data/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
number = 0
while True:
    number += 1
    os.write(log, f"{number}\n".encode())
    os.fsync(log)
    time.sleep(0.005)
