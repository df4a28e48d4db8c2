"""node: files, worker threads, child processes, sockets and signals, natively and under supervise."""

import harness
from compat_support import WORK, Problems


def main(t):
    host = t.host("node")
    problems = Problems(t)
    problems.same(host, "a small server and its files", ["node", t.folder / "work.js", f"{WORK}/node"], seconds=60, status=17)
    problems.same(host, "an uncaught error", ["node", "-e", "process.on('exit', c => console.log('exit', c)); null.x"], seconds=30, status=1)
    problems.same(host, "stdin to stdout", ["node", "-e", "process.stdin.on('data', d => process.stdout.write(String(d).toUpperCase()))"],
                  stdin="text\n" * 3000, seconds=30, status=0)
    problems.finish()


harness.run(main)
