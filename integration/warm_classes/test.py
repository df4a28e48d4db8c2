"""What is outside by its kind: a file on a network file system, before whose open a thread stops; and what can't be,
since the application has an IPC and a PID namespace of its own: System V objects and message queues of the same
key, processes of the same number."""

import json

import harness

NETWORK = """
import os, threading
def one(name):
    with open("/srv/net/" + name) as file: print("read", file.read().strip(), flush=True)
threads = [threading.Thread(target=one, args=(n,)) for n in ("first", "second")]
for t in threads: t.start()
while not os.path.exists("/srv/shared/go"): pass
for t in threads: t.join()
"""

# Both sides make objects of these names. The outside one has a number that the application's processes are far from.
COMMON = r"""
import ctypes, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
KEY, CREATE, EXCLUSIVE = 0x5afe, 0o1000, 0o2000
libc.shmat.restype = ctypes.c_void_p
class Message(ctypes.Structure): _fields_ = [("type", ctypes.c_long), ("text", ctypes.c_char * 8)]
def got(what, value):
    if value < 0: raise SystemExit(f"ERR {what}: {os.strerror(ctypes.get_errno())}")
    return value
def refused(what, value):
    print(what, "seen" if value >= 0 else os.strerror(ctypes.get_errno()), flush=True)
def make(word):
    shm = got("shmget", libc.shmget(KEY, 4096, CREATE | EXCLUSIVE | 0o600))
    sem = got("semget", libc.semget(KEY, 1, CREATE | EXCLUSIVE | 0o600))
    msg = got("msgget", libc.msgget(KEY, CREATE | EXCLUSIVE | 0o600))
    place = libc.shmat(shm, None, 0)
    ctypes.memmove(place, word, len(word))
    got("semctl", libc.semctl(sem, 0, 16, word[0]))
    got("msgsnd", libc.msgsnd(msg, ctypes.byref(Message(1, word)), len(word), 0))
    def look():
        m = Message()
        got("msgrcv", libc.msgrcv(msg, ctypes.byref(m), 8, 0, 0o4000))
        again = libc.msgrcv(msg, ctypes.byref(Message()), 8, 0, 0o4000)
        print("found", ctypes.string_at(place, len(word)).decode(), chr(libc.semctl(sem, 0, 12)), m.text.decode(), again, flush=True)
    return look
"""
OUTSIDE = COMMON + """
with open("/proc/sys/kernel/ns_last_pid", "w") as last: last.write("20000")
if os.fork(): os.wait(); sys.exit()
signal.signal(signal.SIGUSR1, lambda *_: print("signalled", flush=True))
queue = got("mq_open", libc.mq_open(b"/outside", os.O_RDWR | os.O_CREAT, 0o600, None))
look = make(b"outside")
print("process", os.getpid(), flush=True)
sys.stdin.readline()
look()
libc.mq_unlink(b"/outside")
"""
INSIDE = COMMON + """
outside = int(sys.argv[1])
refused("shmget", libc.shmget(KEY, 4096, 0))
refused("semget", libc.semget(KEY, 1, 0))
refused("msgget", libc.msgget(KEY, 0))
refused("mq_open", libc.mq_open(b"/outside", os.O_RDWR))
refused("kill", libc.kill(outside, signal.SIGUSR1))
refused("pidfd_open", libc.syscall(434, outside, 0))
queue = got("mq_open", libc.mq_open(b"/inside", os.O_RDWR | os.O_CREAT, 0o600, None))
os.close(queue)
libc.mq_unlink(b"/inside")
look = make(b"inside")
print("ready", flush=True)
sys.stdin.readline()
look()
"""


def app(t, host, name, program, *arguments):
    return host.supervise(["--name", name, "--warm-point", "auto", "--warm-settle", "150ms", "--images", "/srv/images", "--",
                           "/usr/bin/python3", "-c", program, *arguments], name=name)


def stopped(t, host, name):
    shown = host.run([t.supervise_binary(), "images", "inspect", name, "--images", "/srv/images", "--json"]).stdout
    return sorted((one["class"], one["peer"]) for one in json.loads(shown)["threads"] if one["class"])


def network_files(t, host):
    net = harness.FuseDirectory(t, host, "/srv/net", options=["--type", "sshfs"])
    for name in ("first", "second"):
        (net.lower / name).write_text(f"{name}\n")
    opened = net.daemon.count("open")
    one = app(t, host, "net", NETWORK)
    one.wait_line("warm.stopped.*network-file", 30, "stderr")
    harness.wait_until(lambda: one.stderr.text.count("warm.stopped") == 2, 30, "both threads stop")
    t.equal(net.daemon.count("open"), opened, "the server has seen no open")
    (t.shared / "go").touch()
    one.wait_line("warm.image", 30, "stderr")
    t.equal(one.wait(30), 0, "then they read")
    t.check("read first\n" in one.stdout.text and "read second\n" in one.stdout.text, "what is there")
    t.equal(net.daemon.count("open"), opened + 2, "with one open each")
    t.equal(stopped(t, host, "net"), [("network-file", f"network-file /srv/net/{name} (fuse.sshfs)") for name in ("first", "second")],
            "the image tells it")


def own_namespaces(t, host):
    outside = host.start(["/usr/bin/python3", "-c", OUTSIDE], name="outside")
    pid = outside.wait_line(r"process (\d+)", 20, "stdout").group(1)
    one = app(t, host, "ipc", INSIDE, pid)
    one.wait_line("warm.image", 30, "stderr")
    t.equal(stopped(t, host, "ipc"), [], "no thread stopped: there is nobody else")
    one.write("\n")
    t.equal(one.wait(20), 0, "it ends well")
    said = one.stdout.text.splitlines()
    for call in ("shmget", "semget", "msgget", "mq_open"):
        t.check(f"{call} No such file or directory" in said, f"{call}: the outside object is not there")
    for call in ("kill", "pidfd_open"):
        t.check(f"{call} No such process" in said, f"{call}: the outside process is not there")
    t.equal(said[-1], "found inside i inside -1", "its own objects of the same key are its own, also after the image")
    outside.write("\n")
    t.equal(outside.wait(20), 0, "the outside process ends well")
    t.equal(outside.stdout.text.splitlines()[1:], ["found outside o outside -1"], "and nobody has touched what it has")


def main(t):
    host = t.host("a")
    host.shell("mkdir -p /srv/images")
    network_files(t, host)
    own_namespaces(t, host)


harness.run(main)
