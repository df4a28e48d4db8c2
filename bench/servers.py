"""Servers that run in the mode, with their directory declared as the storage path; the client runs natively, and counts."""

import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path

from harness import system
from place import Command
from workloads import Row, Workload, at_most

SECONDS = 300


class Server(Workload):
    process = ""  # the name of its first process

    def argv(self, directory):
        raise NotImplementedError

    def ready(self, directory):
        raise NotImplementedError

    def load(self, context, directory):
        """Runs the client; microseconds for each request."""
        raise NotImplementedError

    def once(self, context, prefix, directory):
        server = Command(context.place, [*prefix, *self.argv(directory)], directory, f"{self.key}'s server")
        try:
            def up():
                if server.process.poll() is not None:
                    server.fail(f"ended at once with {server.process.returncode}")
                return self.ready(directory)
            try:
                system.wait_until(up, 60, f"{self.key} answers", pause=0.05)
            except TimeoutError as error:
                server.fail(str(error))
            value = self.load(context, directory)
            if server.process.poll() is not None:
                server.fail(f"ended with {server.process.returncode} meanwhile")
            return {self.key: value}
        finally:
            self.stop(server)

    def stop(self, server):
        # The server itself: a tracer might go without it.
        pid = server.first(self.process)
        if pid:
            os.kill(pid, signal.SIGTERM)
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def quiet(argv, seconds=30):
    return subprocess.run([str(word) for word in argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=seconds, check=False)


class Redis(Server):
    process = "redis-server"

    def __init__(self, row, fsync, pipelined, full, quick):
        super().__init__(row, tools="redis-server redis-cli redis-benchmark")
        self.fsync, self.pipelined, self.counts = fsync, pipelined, (full, quick)

    def argv(self, directory):
        return ["redis-server", "--port", "0", "--unixsocket", f"{directory}/socket", "--dir", directory, "--save", "", "--appendonly", "yes",
                "--appendfsync", self.fsync, "--logfile", ""]

    def ready(self, directory):
        return quiet(["redis-cli", "-s", f"{directory}/socket", "ping"]).stdout == "PONG\n"

    def load(self, context, directory):
        client = Command(context.place, ["redis-benchmark", "-s", f"{directory}/socket", "-n", self.counts[context.quick], "-c", "20", "-t", "set", "-d",
                                         "100", "-r", "10000", "--csv", *(["-P", "16"] if self.pipelined else [])], directory, f"{self.key}'s client")
        found = re.search(r'^"SET","([\d.]+)"', client.end(SECONDS)[1], re.M)
        if not found or float(found.group(1)) <= 0:
            client.fail("told no rate")
        return 1e6 / float(found.group(1))


class Nginx(Server):
    process = "nginx"
    port = 18473

    def prepare(self, context, directory):
        (directory / "www").mkdir()
        (directory / "www/index.html").write_text("served\n" * 100)
        temporary = " ".join(f"{what}_temp_path {directory}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (directory / "nginx.conf").write_text(
            f"user root; daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;\n"
            "events { worker_connections 128; }\n"
            f"http {{ access_log {directory}/access.log; sendfile on; keepalive_requests 1000000; {temporary}\n"
            f"  server {{ listen 127.0.0.1:{self.port}; root {directory}/www; }} }}\n")

    def argv(self, directory):
        return ["nginx", "-p", directory, "-c", f"{directory}/nginx.conf", "-e", f"{directory}/error.log"]

    def ready(self, directory):
        return quiet(["curl", "-s", "-m", "10", f"http://127.0.0.1:{self.port}/"]).stdout.startswith("served")

    def load(self, context, directory):
        client = Command(context.place, ["wrk", "-t", "1", "-c", "20", "-d", f"{1 if context.quick else 5}s", f"http://127.0.0.1:{self.port}/"], directory,
                         f"{self.key}'s client")
        text = client.end(SECONDS)[1]
        found = re.search(r"^Requests/sec:\s+([\d.]+)", text, re.M)
        if not found or float(found.group(1)) <= 0 or "Non-2xx" in text:
            client.fail("told no rate of good answers")
        if not (directory / "access.log").stat().st_size:
            client.fail("the access log is empty")
        return 1e6 / float(found.group(1))


class Postgres(Server):
    process = "postgres"
    port = 18474
    user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]

    @property
    def programs(self):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        return found[-1].parent if found else None

    def missing(self):
        if not self.programs:
            return "postgresql is not installed"
        if not any(entry.pw_name == "postgres" for entry in pwd.getpwall()):
            return "there is no user postgres"
        return super().missing()

    def prepare(self, context, directory):
        """One initialized data directory for all rounds, copied."""
        template = context.place.root / "tools/postgres"
        if not template.exists():
            template.mkdir()
            shutil.chown(template, "postgres", "postgres")
            subprocess.run([*self.user, self.programs / "initdb", "-D", template / "data", "-A", "trust", "-N"], cwd=template, check=True,
                           timeout=SECONDS, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            server = Command(context.place, self.argv(template), template, "pgbench's preparation")
            try:
                system.wait_until(lambda: self.ready(template), 60, "PostgreSQL answers")
                subprocess.run([self.programs / "pgbench", "-i", "-q", "-s", "4", *self.to(template)], check=True, timeout=SECONDS,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            finally:
                self.stop(server)
        subprocess.run(["cp", "-a", template / "data", directory], check=True, timeout=SECONDS)
        shutil.chown(directory, "postgres", "postgres")
        subprocess.run(["sync", "-f", directory], check=True, timeout=SECONDS)

    def argv(self, directory):
        return [*self.user, self.programs / "postgres", "-D", directory / "data", "-p", self.port, "-c", "listen_addresses=", "-k", directory,
                "-c", "max_wal_size=4GB"]

    def to(self, directory):
        return ["-h", directory, "-p", str(self.port), "-U", "postgres", "postgres"]

    def ready(self, directory):
        return quiet([self.programs / "pg_isready", *self.to(directory)[:4]]).stdout.rstrip().endswith("accepting connections")

    def load(self, context, directory):
        client = Command(context.place, [self.programs / "pgbench", "-n", "-c", "4", "-j", "2", "-T", 2 if context.quick else 8, *self.to(directory)],
                         directory, f"{self.key}'s client")
        text = client.end(SECONDS)[1]
        found = re.search(r"^tps = ([\d.]+)", text, re.M)
        if not found or float(found.group(1)) <= 0 or re.search(r"failed transactions: [1-9]", text):
            client.fail("told no rate")
        return 1e6 / float(found.group(1))


AOF = "redis, log synced each second, 20 clients", "redis, log synced each time, 20 clients"
SERVERS = (
    Redis(Row("redis_everysec", AOF[0], "us", at_most(1.05)), "everysec", False, 100000, 20000),
    Redis(Row("redis_everysec_pipelined", f"{AOF[0]}, 16 at a time", "us", at_most(1.05)), "everysec", True, 500000, 50000),
    Redis(Row("redis_always", AOF[1], "us", at_most(1.05)), "always", False, 20000, 4000),
    Redis(Row("redis_always_pipelined", f"{AOF[1]}, 16 at a time", "us", at_most(1.05)), "always", True, 200000, 20000),
    Postgres(Row("pgbench", "pgbench, 4 clients, each synced", "us", at_most(1.05)), tools="setpriv"),
    Nginx(Row("nginx", "nginx with an access log, wrk, 20 connections", "us"), tools="nginx wrk curl"),
)
