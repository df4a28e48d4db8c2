"""PID 1 of a small world: binds DIR on /srv/data, starts PROGRAM (if any) as its PID 2, reaps for ever."""

import os
import subprocess
import sys
import time

directory, program = sys.argv[1], sys.argv[2:]
os.makedirs("/srv/data", exist_ok=True)
subprocess.run(["mount", "--bind", directory, "/srv/data"], check=True)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write("1")
if program:
    null = open("/dev/null", "r+")
    subprocess.Popen(program, stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write("5000")  # CRIU's own PIDs stay away from the program's
print("world", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.05)
