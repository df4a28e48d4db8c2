"""Hosts, programs, deadlines and the census prove themselves; scenarios that end badly leave nothing."""

import os
import shutil
import signal
import time

import harness
from harness import census


def isolation(t):
    one, two = t.host("one"), t.host("two")
    t.equal(one.run(["hostname"]).stdout.strip(), "one", "a host has its name")
    one.shell("echo mine > /srv/file; echo mine > /run/file; echo mine > /tmp/file; echo mine > /dev/shm/file; "
              "echo ours > /srv/shared/file")
    listing = two.shell("ls /srv /run /tmp /dev/shm; cat /srv/shared/file").stdout
    t.check("file\n" not in listing.replace("ours", ""), "each host has /srv, /run, /tmp and /dev/shm of its own")
    t.check("ours" in listing, "and /srv/shared in common")
    t.check(not os.path.exists("/run/file") and not os.path.exists("/srv/file"), "and not with this machine")
    t.equal(one.shell("cat /proc/1/comm").stdout.strip(), "python3", "its PID 1 is its own init")
    loopback = ("import socket; s=socket.create_server(('127.0.0.1', 8080)); "
                "c=socket.create_connection(('127.0.0.1', 8080)); print('connected')")
    for host in (one, two):  # the same port on both
        server = host.start(["/usr/bin/python3", "-u", "-c", loopback + "; input()"], name="server")
        server.wait_line("^connected$", 5)
    t.check(one.namespaces.items() & two.namespaces.items() == set(), "no namespace in common")


def programs(t):
    host = t.host("programs")
    for script, status in (("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)):
        t.equal(host.shell(script, check=False).status, status, f"'{script}' ends with {status}")
    t.equal(host.run(["/no/such/program"], check=False).status, 127, "a missing program: 127")
    t.equal(host.run(["/etc/passwd"], check=False).status, 126, "not a program: 126")
    t.equal(host.run(["cat"], stdin="through\n").stdout, "through\n", "stdin and stdout")
    t.equal(host.run(["pwd"], cwd="/srv/shared").stdout, "/srv/shared\n", "the working directory")

    began = time.monotonic()
    try:
        host.shell("trap '' TERM; sleep 60 & sleep 60", 0.5)
        raise AssertionError("no deadline")
    except TimeoutError:
        t.check(time.monotonic() - began < 5, "a command that takes too long is killed")
    harness.wait_until(lambda: "sleep" not in [c for c, _ in host.processes().values()], 5, "its children die too")

    process = host.start(["/bin/sh", "-c", "echo first; echo second >&2; sleep 0.2; echo third"], name="lines")
    t.equal(process.wait_line("^th(.*)$", 5).group(1), "ird", "a line that comes later is found")
    t.equal(process.wait(5), 0, "exit status")
    t.equal((process.stdout.text, process.stderr.text), ("first\nthird\n", "second\n"), "stdout and stderr apart")
    try:
        process.wait_line("fourth", 5)
        raise LookupError
    except AssertionError as error:
        t.check("ended with 0" in str(error), "a line that never comes is an error that tells the end")

    script = ("import os, re; mounts=[l.split()[0] for l in open('/proc/self/mountinfo')]; "
              "print(all(re.search(r'mnt_id:\\s*(\\d+)', open(f'/proc/self/fdinfo/{n}').read()).group(1) in mounts "
              "for n in (0, 1, 2)))")
    files = host.start(["/usr/bin/python3", "-c", script], stdio="files", name="files")
    files.wait(10)
    t.equal(files.stdout.text, "True\n", "redirected files are opened inside the host")

    sleeper = "import signal, time; signal.signal(2, signal.SIG_DFL); print('go', flush=True); time.sleep(60)"
    shell = host.start(["/bin/sh", "-c", f'tty; stty size; exec /usr/bin/python3 -c "{sleeper}"'], stdio="tty",
                       name="terminal")
    shell.wait_line("^go", 5)
    t.check("/dev/pts/" in shell.stdout.text and "25 100" in shell.stdout.text, "a terminal of its own")
    shell.write("\x03")
    t.equal(shell.wait(5), 130, "its ^C reaches the program")


def power(t):
    host = t.host("power")
    host.start(["unshare", "--pid", "--mount", "--fork", "--mount-proc", "sh", "-c", "sleep 300 & sleep 301"],
               name="nested")
    host.shell("setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > /srv/shared/daemon; sleep 302' >/dev/null 2>&1 &")
    stopped = host.start(["sleep", "303"], name="stopped")
    stopped.signal(signal.SIGSTOP)

    def sleeps():
        return sorted(c for c, _ in host.processes().values() if c == "sleep")
    harness.wait_until(lambda: len(sleeps()) == 4, 5, "four programs sleep on the host")
    before = list(host.processes())
    host.power_off()
    t.equal([p for p in before if os.path.exists(f"/proc/{p}")], [], "nothing survives a power-off")
    t.check(not host.alive, "the host is off")


def child(t, mode, seconds=30, folder=None):
    script = os.path.join(folder or t.folder, "child.py")
    environment = {k: os.environ[k] for k in ("PYTHONPATH", "FAULT_BIN", "PYTHONDONTWRITEBYTECODE") if k in os.environ}
    environment.setdefault("PYTHONPATH", str(t.folder.parent))
    environment["SCENARIO_SECONDS"] = str(seconds)
    return harness.Process(t, ["/usr/bin/python3", "-B", script, mode], name=f"child {mode}", env=environment)


def traces(process, seconds=10):
    """What the census finds of a child scenario, waiting a little for the kernel."""
    match = process.stdout.search(r"^furnished (\w+) (\S+)$", 0)
    marker, work = match.groups()

    def left():
        found = census.leftovers(marker, work, set())
        return [entry for entry in found if entry != f"a directory: {work}"]
    try:
        harness.wait_until(lambda: not left(), seconds, "nothing left")
    except TimeoutError:
        pass
    directory = os.listdir(work) if os.path.exists(work) else []
    return left() + directory


def bad_ends(t):
    killed = child(t, "killed")
    t.equal(killed.wait(20), 137, "a scenario that is killed outright")
    t.equal(traces(killed), [], "leaves nothing but an empty directory")
    work = killed.stdout.search(r"^furnished \w+ (\S+)$", 0).group(1)

    failed = child(t, "failing")
    t.equal(failed.wait(25), 1, "a scenario that fails says so")
    t.equal(traces(failed), [], "and leaves nothing")
    text = failed.stdout.text
    t.check("FAIL" in text and "one is two" in text and "what it printed" in text, "its programs' output is shown")
    t.check(not os.path.exists(work), "a later scenario sweeps the empty directory")

    stopped = child(t, "waiting")
    stopped.wait_line("^furnished", 15)
    stopped.signal(signal.SIGTERM)
    t.equal(stopped.wait(25), 1, "a scenario that gets SIGTERM ends")
    t.equal(traces(stopped), [], "and leaves nothing")

    late = child(t, "waiting", seconds=25)
    t.equal(late.wait(30), 1, "a scenario past its deadline ends")
    t.check("deadline" in late.stdout.text, "and says why")
    t.equal(traces(late), [], "and leaves nothing")


def census_finds(t):
    leak = child(t, "leaking_process")
    t.equal(leak.wait(20), 1, "a scenario that leaves a process fails")
    t.check("a process: " in leak.stdout.text and "sleep" in leak.stdout.text, "the census names it")
    t.check(traces(leak, 0) != [], "and it is really there")
    for pid in harness.system.pids():
        state = harness.system.process_state(pid)
        if state and state[0] == "sleep" and leak.stdout.search(r"^furnished (\w+)", 0).group(1).encode() in \
                census._environment(pid):
            os.kill(pid, signal.SIGKILL)

    loop = child(t, "leaking_loop")
    t.equal(loop.wait(20), 1, "a scenario that leaves a loop device fails")
    t.check("a loop device: " in loop.stdout.text, "the census names it")
    t.equal(traces(loop), [], "the end of its process takes it away")


def skips(t):
    skipped = child(t, "skipping")
    t.equal(skipped.wait(20), 77, "a skipped scenario exits 77")
    t.check("for the sake of it" in skipped.stdout.text, "with its reason")
    folder = t.work / "unmet"
    folder.mkdir()
    shutil.copy(t.folder / "child.py", folder)
    (folder / "needs").write_text("root\ntool:no-such-tool\n")
    unmet = child(t, "failing", folder=folder)
    t.equal(unmet.wait(20), 77, "an unmet need skips")
    t.check("no-such-tool is not installed" in unmet.stdout.text, "and names the tool")


def main(t):
    isolation(t)
    programs(t)
    power(t)
    bad_ends(t)
    census_finds(t)
    skips(t)


harness.run(main)
