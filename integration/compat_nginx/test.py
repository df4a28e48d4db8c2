"""nginx: master and workers, static files, a log, reload, reopen, quit and a daemon, natively and under supervise."""

import harness
from compat_support import MODES, WORK, Problems, fresh

CONFIGURATION = f"""
worker_processes 2;
pid {WORK}/nginx.pid;
error_log {WORK}/error.log notice;
events {{ worker_connections 64; }}
http {{
  log_format short '$request $status $body_bytes_sent';
  access_log {WORK}/access.log short;
  sendfile on;
  client_body_temp_path {WORK}/body; proxy_temp_path {WORK}/proxy; fastcgi_temp_path {WORK}/f; uwsgi_temp_path {WORK}/u; scgi_temp_path {WORK}/s;
  server {{
    listen 127.0.0.1:8080;
    root {WORK}/www;
    location /dir/ {{ autoindex on; autoindex_format json; }}
    location /gone {{ return 410; }}
    location /again {{ proxy_pass http://127.0.0.1:8080/big; }}
  }}
}}
"""


def furnish(host, daemon):
    fresh(host)
    www = host.path(f"{WORK}/www")
    (www / "dir").mkdir(parents=True)
    (www / "index.html").write_text("index\n")
    (www / "big").write_bytes(bytes(range(256)) * 8000)
    host.shell(f"chmod -R a+rX {WORK}; : > {WORK}/error.log")
    host.path(f"{WORK}/nginx.conf").write_text(f"user root;\ndaemon {daemon};\n{CONFIGURATION}")


def requests(host):
    script = """
    u=http://127.0.0.1:8080
    for p in / /big /missing /dir/ /gone /again; do curl -s -o body -w '%{http_code} %{size_download} ' $u$p; [ $p = /dir/ ] || md5sum < body; done
    curl -s -r 1000-1999 $u/big | md5sum; curl -sI $u/big | grep -c -i content-length; curl -s -X POST -d x $u/ -o /dev/null -w '%{http_code}\\n'
    for i in $(seq 1 60); do curl -s $u/big & done | md5sum"""
    return host.shell(f"cd /tmp; {script}", 60).stdout


def session(t, host, mode):
    seen = []
    prefix = [] if mode == "native" else [t.supervise_binary(), "run", "--log-level", "error", *MODES[mode], "--"]
    argv = [*prefix, "nginx", "-p", WORK, "-c", f"{WORK}/nginx.conf"]

    def up():
        return host.shell("curl -s -o /dev/null http://127.0.0.1:8080/", check=False).status == 0

    def lines():
        return host.shell(f"sort {WORK}/access.log | uniq -c").stdout

    furnish(host, "off")
    seen.append(host.run([*argv, "-t"], 20, check=False).status)
    one = host.start(argv, name=f"nginx-{mode}")
    harness.wait_until(up, 15, "nginx answers")
    host.shell(f": > {WORK}/access.log")
    seen.append(requests(host))
    seen.append(lines())
    one.signal(1)  # reload: new workers
    harness.wait_until(lambda: "reconfiguring" in host.path(f"{WORK}/error.log").read_text(), 10, "a reload")
    harness.wait_until(up, 10, "nginx answers after the reload")
    host.shell(f"mv {WORK}/access.log {WORK}/old.log")
    one.signal(10)  # USR1: reopen the logs
    harness.wait_until(lambda: host.path(f"{WORK}/access.log").exists(), 10, "the log is made again")
    seen.append(requests(host))
    seen.append(lines())
    one.signal(3)
    seen.append(one.wait(20))
    seen.append(sorted(c for c, _ in host.processes().values() if c == "nginx"))

    # As a daemon the master leaves its parent; what ends it is asked of the daemon itself.
    furnish(host, "on")
    one = host.start(argv, name=f"nginx-daemon-{mode}")
    harness.wait_until(up, 15, "the daemon answers")
    seen.append(requests(host))
    if mode == "native":
        host.shell(f"kill -QUIT $(cat {WORK}/nginx.pid)")
    else:
        one.signal(3)
    seen.append(one.wait(20))
    harness.wait_until(lambda: not any(c == "nginx" for c, _ in host.processes().values()), 15, "the daemon is gone")
    return seen


def main(t):
    host = t.host("nginx")
    problems = Problems(t)
    native = session(t, host, "native")
    t.check("200 2048000" in native[1] and native[5] == 0, "the native server serves")
    for mode in ("bare", "path"):
        got = problems.attempt(session, t, host, mode)
        for i, (have, want) in enumerate(zip(got or [], native)):
            problems.attempt(t.equal, have, want, f"answer {i} ({mode})")
    problems.finish()


harness.run(main)
