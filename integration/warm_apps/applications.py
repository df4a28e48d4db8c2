"""Real applications for the warm standby: how each is started, where it is warm, what a good answer is. All of an
application's files lie in the directory that the hosts share, so that the second one has what the image needs."""

import pwd
import re
import shutil
import struct
import subprocess
from pathlib import Path

from harness import needs

HERE = Path(__file__).resolve().parent
GET = b"GET / HTTP/1.0\r\nHost: service\r\n\r\n"


def found(tool):
    return shutil.which(tool, path=needs.search_path())


def as_user(name):
    return ["setpriv", "--reuid", name, "--regid", str(pwd.getpwnam(name).pw_gid), "--clear-groups"]


class Application:
    """`point`: --warm-point; `level`: what --ready parked can keep of it."""

    name = title = ""
    tools = ()
    port, request, good = 8000, GET, r"200 OK.*\r\n\r\n{.*}"
    later = r"-LOADING|FATAL"
    point, level, rounds = "auto", "parked", None
    stateful = False  # what it writes must be as it was when the image was made

    def __init__(self, t):
        self.t, self.dir = t, f"/srv/shared/app-{self.name}"
        self.here = t.shared / f"app-{self.name}"

    def missing(self):
        """Why it can't run here, or None."""
        absent = [tool for tool in self.tools if not found(tool)]
        return f"{', '.join(absent)} is not installed" if absent else None

    def prepare(self, host):
        self.here.mkdir()

    def argv(self):
        raise NotImplementedError

    def client(self, seconds, then, command):
        """The argv that starts `command` and asks until the answer is good."""
        return ["/usr/bin/python3", "-I", "-S", str(HERE / "client.py"), str(self.port), self.request.hex(), self.good, self.later,
                str(seconds), then, *command]

    def prove(self, host):
        """Fails unless the running one has all that it should."""

    def limited(self, log):
        """Why this host can't make its image, by what the supervisor said; None when it should have."""
        found = re.search(r"warm\.failed.*\((a process runs as another user.*?)\)", log)
        return found.group(1) if found else None

    def keep(self, state):
        """Remembers its files as they are now, as `state`; put() brings them back."""
        if self.stateful:
            subprocess.run(["cp", "-a", self.here, f"{self.here}.{state}"], check=True, timeout=120)

    def put(self, state):
        if self.stateful:
            shutil.rmtree(self.here)
            subprocess.run(["cp", "-a", f"{self.here}.{state}", self.here], check=True, timeout=120)


class Python(Application):
    name, title, port = "python", "Python, heavy imports and a model", 8001
    good = r'200 OK.*"modules": [0-9]{3,}, "model": {"rows": [0-9]{4,}'

    def missing(self):
        return None if found("python3") else "python3 is not installed"

    def prepare(self, host):
        super().prepare(host)
        done = host.run(["/usr/bin/python3", "-c", "import scipy.stats, pandas"], 120, check=False)
        self.title = f"Python: {'numpy, scipy, pandas' if done.status == 0 else 'standard library only'}, a model"

    def argv(self):
        return ["/usr/bin/python3", str(HERE / "service.py"), str(self.port)]


class Slow(Python):
    """Stands for an application that needs ten seconds of processor time to start."""

    name, title, port, rounds = "slow", "an application that computes for 10 s", 8002, 1
    good = r'200 OK.*{"worked": true}'

    def prepare(self, host):
        Application.prepare(self, host)

    def argv(self):
        return [*super().argv(), "10"]


class Node(Application):
    name, title, port, tools = "node", "Node: modules and an index of 400,000 records", 8003, ("node",)
    good = r'200 OK.*"records":400000'

    def argv(self):
        return ["node", "--expose-gc", str(HERE / "service.js"), str(self.port)]


class Jvm(Application):
    name, title, port, tools = "jvm", "JVM: thousands of classes, 40 pages compiled", 8004, ("java", "javac")
    good = r'200 OK.*"classes": [0-9]{4,}'

    def prepare(self, host):
        super().prepare(host)
        host.run(["javac", "-d", self.dir, str(HERE / "Service.java")], 120)

    def argv(self):
        # Performance data would be a file in /tmp that the second host lacks.
        return ["java", "-Xmx512m", "-XX:-UsePerfData", "-cp", self.dir, "Service", str(self.port)]


class Redis(Application):
    """It listens before it loads its data: it is warm when it waits for clients. On loopback it can be parked."""

    name, port, tools, point = "redis", 8005, ("redis-server", "redis-cli"), "accept"
    request, address, keys, size = b"PING\r\nGET last\r\n", "127.0.0.1", 1200000, 250
    good = r"PONG\r\n\$3\r\nkey\r\n"

    @property
    def title(self):
        return f"redis on {self.address}: {self.keys:,} keys, {self.mib} MiB of RDB"

    def server(self):
        return ["redis-server", "--port", str(self.port), "--bind", self.address, "--protected-mode", "no", "--dir", self.dir,
                "--save", "", "--logfile", "", "--rdbcompression", "no", "--enable-debug-command", "yes"]

    argv = server

    def ask(self, host, *words):
        return host.run(["redis-cli", "-p", str(self.port), *words], 60).stdout.strip()

    def prepare(self, host):
        super().prepare(host)
        one = host.start(self.server(), name="redis-fill", stdio="files")
        one.wait_line("Ready to accept connections", 20)
        self.ask(host, "debug", "populate", str(self.keys - 1), "key", str(self.size))
        self.ask(host, "set", "last", "key")
        self.digest = self.ask(host, "debug", "digest")
        self.t.equal(self.ask(host, "save"), "OK", "the data set is saved")
        self.ask(host, "shutdown", "nosave")
        one.wait(30)
        self.mib = (self.here / "dump.rdb").stat().st_size >> 20

    def prove(self, host):
        self.t.equal(self.ask(host, "dbsize"), str(self.keys), "all keys are there")
        self.t.equal(self.ask(host, "debug", "digest"), self.digest, "and each has its value")


class OpenRedis(Redis):
    """The same where other hosts reach it: kept in memory, not parked."""

    name, port, address, level = "redis-open", 8006, "0.0.0.0", "cached"


class Nginx(Application):
    name, title, port, tools = "nginx", "nginx: a master and two workers", 8007, ("nginx",)
    good = r"200 OK.*\r\n\r\nserved"

    def prepare(self, host):
        super().prepare(host)
        (self.here / "www").mkdir()
        (self.here / "www/index.html").write_text("served\n")
        temporary = " ".join(f"{what}_temp_path {self.dir}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.here / "nginx.conf").write_text(
            f"user root; daemon off; worker_processes 2; pid {self.dir}/pid; error_log {self.dir}/error.log;\n"
            "events { worker_connections 64; }\n"
            f"http {{ access_log off; {temporary} server {{ listen 0.0.0.0:{self.port}; root {self.dir}/www; }} }}\n")

    def argv(self):
        return ["nginx", "-p", self.dir, "-c", f"{self.dir}/nginx.conf", "-e", f"{self.dir}/error.log"]


class Postgres(Application):
    """It refuses to run as root. A query that is answered needs a whole start."""

    name, title, port, stateful = "postgresql", "PostgreSQL, up to listening", 8008, True
    request = struct.pack("!ii", 41, 196608) + b"user\0postgres\0database\0postgres\0\0"
    good = r"Z\x00\x00\x00\x05I"

    def programs(self):
        return sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))[-1:]

    def missing(self):
        if not self.programs():
            return "postgresql is not installed"
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "there is no user postgres"
        return None

    def prepare(self, host):
        super().prepare(host)
        shutil.chown(self.here, "postgres", "postgres")
        host.run([*as_user("postgres"), str(self.programs()[0].with_name("initdb")), "-D", f"{self.dir}/data", "-A", "trust", "-N"], 120)

    def argv(self):
        # A segment of the default kind would be a file in /dev/shm that the second host lacks.
        return [*as_user("postgres"), str(self.programs()[0]), "-D", f"{self.dir}/data", "-p", str(self.port), "-h", "0.0.0.0", "-k", self.dir,
                "-c", "dynamic_shared_memory_type=sysv"]


ALL = (Python, Slow, Node, Jvm, Redis, OpenRedis, Nginx, Postgres)
