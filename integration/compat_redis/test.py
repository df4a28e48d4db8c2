"""redis: clients, append-only file and snapshots, natively and under supervise: the same answers, the same data."""

import harness
from compat_support import MODES, WORK, Problems, fresh

COMMANDS = """
SET a 1
INCRBY a 41
APPEND text hello
SETRANGE text 10 world
RPUSH list 1 2 3 4 5
LRANGE list 0 -1
HSET hash f1 v1 f2 v2
HGETALL hash
ZADD scores 3 c 1 a 2 b
ZRANGE scores 0 -1 WITHSCORES
SADD set x
EXPIRE a 10000
MULTI
INCR counter
INCR counter
EXEC
EVAL "for i = 1, 500 do redis.call('RPUSH', 'long', i) end return redis.call('LLEN', 'long')" 0
BGSAVE
GET missing
BADCOMMAND
DBSIZE
"""


def session(t, host, mode):
    fresh(host)
    prefix = [] if mode == "native" else [t.supervise_binary(), "run", "--log-level", "error", *MODES[mode], "--"]
    server = [*prefix, "redis-server", "--port", "7777", "--bind", "127.0.0.1", "--dir", WORK, "--appendonly", "yes", "--appendfsync", "always",
              "--save", "", "--logfile", "", "--daemonize", "no"]

    def client(*words, stdin=None):
        return host.run(["redis-cli", "-p", "7777", *words], 30, stdin=stdin).stdout

    one = host.start(server, name=f"redis-{mode}")
    one.wait_line("Ready to accept connections", 20)
    answers = [client(stdin=COMMANDS)]
    answers.append(host.run(["redis-benchmark", "-p", "7777", "-q", "-n", "3000", "-c", "20", "-t", "set,get,incr,lpush,mset", "--csv"], 120).stdout.count("\n"))
    harness.wait_until(lambda: "rdb_bgsave_in_progress:0" in client("info", "persistence"), 20, "the snapshot is done")
    answers.append("rdb_last_bgsave_status:ok" in client("info", "persistence"))
    answers.append(client("bgrewriteaof"))
    harness.wait_until(lambda: "aof_rewrite_in_progress:0" in client("info", "persistence"), 20, "the rewrite is done")
    answers.append("aof_last_bgrewrite_status:ok" in client("info", "persistence"))
    answers.append(client("dbsize"))
    one.signal(15)
    answers.append(one.wait(20))

    # A second run reads what the first has written.
    one = host.start(server, name=f"redis-again-{mode}")
    one.wait_line("Ready to accept connections", 20)
    answers.append(client("lrange", "long", "490", "-1"))
    answers.append(client("get", "counter"))
    answers.append(client("dbsize"))
    client("shutdown", "nosave")
    answers.append(one.wait(20))
    answers.append(host.run(["redis-check-aof", f"{WORK}/appendonlydir/appendonly.aof.manifest"], 30, check=False).status)
    return answers


def main(t):
    host = t.host("redis")
    problems = Problems(t)
    native = session(t, host, "native")
    t.check("(error)" not in native[0] or "ERR unknown command" in native[0], "the native server answers")
    for mode in ("bare", "path"):
        got = problems.attempt(session, t, host, mode)
        if got:
            problems.attempt(t.equal, got, native, f"answers, statuses and data ({mode})")
    problems.finish()


harness.run(main)
