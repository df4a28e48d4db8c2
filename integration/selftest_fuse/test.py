"""The fault file system: an ordinary directory while it is healthy, and each error on command."""

import harness

CALLS = r"""
import errno, os, sys
path = sys.argv[1]
def show(what, call):
    try:
        call()
        print(what, "ok")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
held = os.open(path + "/held", os.O_RDWR | os.O_CREAT)
os.write(held, b"x" * 8192)
os.makedirs(path + "/dir", exist_ok=True)
sys.stdout.write("ready\n"); sys.stdout.flush()
for line in sys.stdin:
    op = line.strip()
    show(op, {
        "read": lambda: os.pread(held, 10, 0),
        "write": lambda: os.pwrite(held, b"y", 0),
        "open": lambda: os.close(os.open(path + "/held", os.O_RDONLY)),
        "create": lambda: os.close(os.open(path + "/new", os.O_CREAT | os.O_WRONLY)),
        "fsync": lambda: os.fsync(held),
        "flush": lambda: os.close(os.dup(held)),
        "getattr": lambda: os.fstat(held),
        "lookup": lambda: os.stat(path + "/dir"),
        "rename": lambda: os.rename(path + "/new", path + "/newer"),
        "link": lambda: os.link(path + "/held", path + "/hard"),
        "symlink": lambda: os.symlink("x", path + "/soft"),
        "readlink": lambda: os.readlink(path + "/soft"),
        "unlink": lambda: os.unlink(path + "/hard"),
        "mkdir": lambda: os.mkdir(path + "/more"),
        "rmdir": lambda: os.rmdir(path + "/more"),
        "truncate": lambda: os.ftruncate(held, 9000),
        "chmod": lambda: os.fchmod(held, 0o600),
        "utimens": lambda: os.utime(held),
        "fallocate": lambda: os.posix_fallocate(held, 0, 20000),
        "lseek": lambda: os.lseek(held, 0, os.SEEK_DATA),
        "statfs": lambda: os.statvfs(path),
        "setxattr": lambda: os.setxattr(path + "/held", "user.x", b"1"),
        "getxattr": lambda: os.getxattr(path + "/held", "user.x"),
        "readdir": lambda: os.listdir(path),
        "opendir": lambda: os.listdir(path),
        "fsyncdir": lambda: os.fsync(os.open(path, os.O_RDONLY)),
    }[op])
    sys.stdout.flush()
"""

OPS = ["read", "write", "open", "create", "fsync", "flush", "getattr", "lookup", "rename", "link", "symlink",
       "readlink", "unlink", "mkdir", "rmdir", "truncate", "chmod", "utimens", "fallocate", "lseek", "statfs",
       "setxattr", "getxattr", "readdir", "opendir", "fsyncdir"]

ERRNOS = ["EIO", "ENOSPC", "EROFS", "ESTALE", "ENXIO", "ETIMEDOUT", "EHOSTDOWN", "EREMOTEIO", "EDQUOT"]

LOSS = r"""
import errno, os, sys
def show(what, call):
    try:
        call()
        print(what, "ok")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
fd = os.open(sys.argv[1], os.O_RDWR)
show("write", lambda: os.pwrite(fd, b"new!" * 1024, 0))
show("fsync", lambda: os.fsync(fd))
show("again", lambda: os.fsync(fd))
"""


class Caller:
    """A program inside the host that makes one call when told to."""

    def __init__(self, host, directory):
        self.process = host.start(["/usr/bin/python3", "-c", CALLS, directory], name="caller")
        self.process.wait_line("^ready$", 10)

    def send(self, op):
        self.at = len(self.process.stdout.text)
        self.process.write(op + "\n")

    def answer(self, seconds=10):
        return self.process.wait_line(r"^\w+ (\w+)$", seconds, "stdout", self.at).group(1)

    def __call__(self, op):
        self.send(op)
        return self.answer()


def healthy(t, host):
    script = t.folder / "tour.py"
    host.mkdir("/srv/plain")
    host.mount("tmpfs", "/srv/plain", "tmpfs")
    expected = host.run(["/usr/bin/python3", script, "/srv/plain"]).stdout
    for name, writeback, options in (("through", False, []), ("back", True, []), ("cached", True, ["--cache", "60"])):
        directory = f"/srv/tour-{name}"
        harness.FuseDirectory(t, host, directory, writeback, options=options)
        seen = host.run(["/usr/bin/python3", script, directory]).stdout
        for ours, theirs in zip(seen.splitlines() + ["<end>"], expected.splitlines() + ["<end>"]):
            t.check(ours == theirs, f"{name}: {theirs}") if ours != theirs else None
        t.equal(len(seen), len(expected), f"{name}: {len(expected.splitlines())} answers as from an ordinary directory")
        for mode in ("wal", "delete"):
            sql = (f"pragma journal_mode={mode}; create table t(x); "
                   "with recursive n(i) as (select 1 union all select i+1 from n where i<20000) "
                   "insert into t select i from n; update t set x=x+1; pragma integrity_check; "
                   "select count(*), sum(x) from t;")
            done = host.run(["sqlite3", f"{directory}/{mode}.db", sql], 60)
            t.equal(done.stdout.split(), [mode, "ok", "20000|200030000"], f"{name}: sqlite3 in {mode} mode")


def errors(t, host):
    directory = harness.FuseDirectory(t, host, "/srv/errors")
    call = Caller(host, "/srv/errors")
    for op in OPS:
        rule = directory.fail(op, "EIO")
        t.equal(call(op), "EIO", f"{op} fails")
        directory.clear(rule)
        t.equal(call(op), "ok", f"{op} works again")
    for name in ERRNOS:
        rule = directory.fail("write", name)
        t.equal(call("write"), name, f"write says {name}")
        directory.clear(rule)
    directory.fail("write", "EIO", nth=3)
    t.equal([call("write") for _ in range(4)], ["ok", "ok", "EIO", "ok"], "the third write fails")
    directory.clear()
    directory.fail("write", "EIO", byte_range=(4096, None))
    t.equal(call("write"), "ok", "a write before the range works")
    directory.fail("write", "EIO", byte_range=(0, 100))
    t.equal(call("write"), "EIO", "a write inside a range fails")
    directory.clear()
    directory.fail("open", "EACCES", path="/held")
    t.equal([call("open"), call("create")], ["EACCES", "ok"], "only the named file fails")
    directory.clear()
    for line in ("fail write NOSUCH", "fail", "fail write EIO nth=x", "jump", "clear 999"):
        try:
            directory.daemon.command(line)
            raise AssertionError(f"'{line}' was accepted")
        except ValueError:
            pass

    directory.daemon.hang("write")
    call.send("write")
    harness.wait_until(lambda: directory.daemon.stats()["hanging"] == 1, 5, "a write hangs")
    t.equal(call.process.stdout.search(r"^write (\w+)$", 0.2, call.at), None, "the caller sleeps")
    directory.daemon.unhang()
    t.equal(call.answer(), "ok", "and goes on after unhang")
    directory.daemon.hang("read,write")
    call.send("read")
    harness.wait_until(lambda: directory.daemon.stats()["hanging"] == 1, 5, "a read hangs")
    directory.kill_daemon()
    t.check(call.answer() in ("ENOTCONN", "ECONNABORTED"), "the daemon's death frees a caller that hangs")
    for op in ("write", "open", "getattr", "lookup"):
        t.equal(call(op), "ENOTCONN", f"{op} without a daemon")


def loss(t, host):
    directory = harness.FuseDirectory(t, host, "/srv/back", writeback=True)
    host.shell("head -c 4096 /dev/zero | tr '\\0' o > /srv/back/file; sync -f /srv/back")
    directory.fail("write", "EIO", times=1)
    lines = host.run(["/usr/bin/python3", "-c", LOSS, "/srv/back/file"]).stdout.splitlines()
    t.equal(lines, ["write ok", "fsync EIO", "again ok"], "write-back: the write succeeds, fsync says EIO once")
    directory.mount_direct(host, "/srv/direct")
    t.equal(host.path("/srv/direct/file").read_bytes(), b"o" * 4096, "the bytes are absent below")


def main(t):
    host = t.host("fuse")
    healthy(t, host)
    errors(t, host)
    loss(t, host)


harness.run(main)
