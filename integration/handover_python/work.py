"""A Python program as people write them: threads, subprocesses, buffered files, fsync, temporary files
and renames, all under one directory. What it leaves depends on ROUNDS alone.

    work.py DIR ROUNDS DELAY_MS
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

problems = []


def text(kind, number, size):
    line = hashlib.sha256(f"{kind}{number}".encode()).hexdigest() + "\n"
    return line * (size // len(line) + 1)


def rounds(kind):
    for number in range(ROUNDS):
        yield number
        time.sleep(DELAY)


def buffered():
    """One file open all the time; the buffer is flushed and made durable now and then."""
    with open("buffered.log", "w", buffering=16384) as log:
        for number in rounds("buffered"):
            log.write(text("buffered", number, 3000))
            if number % 5 == 4:
                log.flush()
                os.fsync(log.fileno())


def replaced():
    """State that is replaced as a whole, and must never be half there."""
    for number in rounds("replaced"):
        with tempfile.NamedTemporaryFile("w", dir=".", prefix="state-", delete=False) as file:
            json.dump({"number": number, "data": text("replaced", number, 5000)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(file.name, "state.json")
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
        with open("state.json") as file:
            found = json.load(file)
        assert found["number"] == number and found["data"] == text("replaced", number, 5000)


def children():
    """A pipe to a child that reads and writes files, and one that is started each round."""
    sink = subprocess.Popen(["/bin/sh", "-c", "while read -r l; do echo \"$l\" >> lines.txt; done"],
                            stdin=subprocess.PIPE, text=True)
    for number in rounds("children"):
        sink.stdin.write(f"{number} {text('child', number, 10)}")
        sink.stdin.flush()
        if number % 4 == 0:
            done = subprocess.run(["/bin/sh", "-c", f"tee part-{number}.txt | wc -c"], text=True,
                                  input=text("part", number, 2000), capture_output=True, check=True)
            assert int(done.stdout) == len(text("part", number, 2000)), done.stdout
    sink.stdin.close()
    assert sink.wait() == 0


def trees():
    """Directories made, copied, listed and removed; a file without a name; one written in place."""
    nameless = tempfile.TemporaryFile(dir=".")
    with open("in-place.bin", "w+b") as file:
        file.truncate(65536)
        for number in rounds("trees"):
            os.makedirs(f"tree/{number}/deep", exist_ok=True)
            with open(f"tree/{number}/deep/file", "w") as small:
                small.write(text("tree", number, 700))
            shutil.copytree(f"tree/{number}", f"copy-{number}")
            if number >= 3:
                shutil.rmtree(f"copy-{number - 3}")
            file.seek(number * 977 % 60000)
            file.write(text("place", number, 200).encode())
            nameless.write(text("nameless", number, 100).encode())
    nameless.seek(0)
    wanted = "".join(text("nameless", number, 100) for number in range(ROUNDS)).encode()
    assert nameless.read() == wanted


def guarded(function):
    try:
        function()
    except BaseException as error:
        problems.append(f"{function.__name__}: {error!r}")
        print(f"FAIL {problems[-1]}", flush=True)


if __name__ == "__main__":
    ROUNDS, DELAY = int(sys.argv[2]), int(sys.argv[3]) / 1000
    os.makedirs(sys.argv[1], exist_ok=True)
    os.chdir(sys.argv[1])
    threads = [threading.Thread(target=guarded, args=(f,)) for f in (buffered, replaced, children, trees)]
    for thread in threads:
        thread.start()
    # An image has it open; on the second host it is that host's.
    instance = open(os.environ.get("SUPERVISE_GENERATION_FILE", "/dev/null"))
    for number in rounds("main"):
        instance.seek(0)
        print(f"round {number}", flush=True)
        print(f"instance {instance.readline()}", end="", flush=True)
    for thread in threads:
        thread.join()
    print("done", len(problems), flush=True)
    sys.exit(1 if problems else 0)
