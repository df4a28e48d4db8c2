"""Transactions in a loop: a ledger whose every row is known in advance.

    ledger.py DIR TRANSACTIONS DELAY_MS [MIB]    one process each with a rollback journal and a write-ahead log
    ledger.py --expect DIR TRANSACTIONS [MIB]    the same databases, made quickly
    ledger.py --verify DIR TRANSACTIONS          each transaction once, sound, nothing to recover

MIB: each database holds a stock of so many MiB from the start, and a transaction also changes 50 items all over it.

A row that is there twice, a commit that failed or had to be repeated, and an answer that differs from
the model end it with 1.
"""

import hashlib
import os
import random
import sqlite3
import sys
import time

MODES = ("delete", "wal")
ITEM = 4000  # bytes; with its row, about a page
CHANGED = 50


def payload(number, row):
    return hashlib.sha512(f"{number}.{row}".encode()).digest() * (1 + number % 40)


def item(number, version):
    return (hashlib.sha512(f"{number}/{version}".encode()).digest() * (ITEM // 64 + 1))[:ITEM]


def make_stock(db, mib):
    """In transactions of 16 MiB."""
    db.execute("CREATE TABLE stock(number INTEGER PRIMARY KEY, data BLOB)")
    total = mib * (1 << 20) // ITEM
    for first in range(0, total, 4096):
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO stock VALUES(?,?)",
                       ((n, item(n, 0)) for n in range(first, min(first + 4096, total))))
        db.execute("COMMIT")
    return [0] * total


def change_stock(db, chance, versions, transaction):
    for _ in range(CHANGED):
        number = chance.randrange(len(versions))
        found = db.execute("SELECT data FROM stock WHERE number=?", (number,)).fetchone()[0]
        assert found == item(number, versions[number]), f"item {number} is not as transaction {versions[number]} left it"
        db.execute("UPDATE stock SET data=? WHERE number=?", (item(number, transaction), number))
        versions[number] = transaction


def open_ledger(directory, mode, quick=False):
    db = sqlite3.connect(f"{directory}/{mode}.db", isolation_level=None, timeout=5)
    found = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
    assert found == mode, f"journal mode {found} instead of {mode}"
    db.execute(f"PRAGMA synchronous={'OFF' if quick else 'FULL'}")
    # Small, so that pages are read again and written before the commit.
    db.execute("PRAGMA cache_size=8")
    db.execute("PRAGMA wal_autocheckpoint=60")
    return db


def run(directory, mode, count, delay, quick=False, mib=0):
    chance = random.Random(mode)
    db = open_ledger(directory, mode, quick)
    versions = make_stock(db, mib) if mib else []
    db.execute("CREATE TABLE ledger(number INTEGER, row INTEGER, data BLOB, UNIQUE(number, row))")
    db.execute("CREATE TABLE total(number INTEGER)")
    db.execute("INSERT INTO total VALUES(0)")
    for number in range(1, count + 1):
        db.execute("BEGIN IMMEDIATE")
        for row in range(3):
            db.execute("INSERT INTO ledger VALUES(?,?,?)", (number, row, payload(number, row)))
            if delay:
                time.sleep(delay / 3000)
        if number % 7 == 0:
            db.execute("ROLLBACK")
            db.execute("BEGIN IMMEDIATE")
            for row in range(3):
                db.execute("INSERT INTO ledger VALUES(?,?,?)", (number, row, payload(number, row)))
        if versions:
            change_stock(db, chance, versions, number)
        changed = db.execute("UPDATE total SET number=? WHERE number=?", (number, number - 1)).rowcount
        assert changed == 1, f"{mode}: transaction {number - 1} is not there before {number}"
        db.execute("COMMIT")
        back = chance.randrange(1, number + 1)
        found = db.execute("SELECT data FROM ledger WHERE number=? ORDER BY row", (back,)).fetchall()
        assert found == [(payload(back, row),) for row in range(3)], f"{mode}: rows of {back} differ"
        if not quick:
            print(f"{mode} {number}", flush=True)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def both(directory, count, delay, quick=False, mib=0):
    os.makedirs(directory, exist_ok=True)
    children = []
    for mode in MODES:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                run(directory, mode, count, delay, quick, mib)
                status = 0
            except BaseException as error:
                print(f"FAIL {mode}: {error!r}", flush=True)
            os._exit(status)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def verify(directory, count):
    for mode in MODES:
        left = [name for name in os.listdir(directory) if name.startswith(f"{mode}.db-")]
        assert not left, f"{left} would be recovered from"
        db = sqlite3.connect(f"file:{directory}/{mode}.db?mode=ro&immutable=1", uri=True)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], mode
        assert db.execute("SELECT number FROM total").fetchall() == [(count,)], mode
        rows = db.execute("SELECT number, row, data FROM ledger ORDER BY number, row").fetchall()
        wanted = [(number, row, payload(number, row)) for number in range(1, count + 1) for row in range(3)]
        assert rows == wanted, f"{mode}: {len(rows)} rows instead of {len(wanted)}, or other ones"
        db.close()
        with open(f"{directory}/{mode}.db", "rb") as file:
            print(mode, hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


def main(words):
    if words[0] == "--expect":
        return both(words[1], int(words[2]), 0, True, int((words[3:] or [0])[0]))
    if words[0] == "--verify":
        return verify(words[1], int(words[2]))
    status = both(words[0], int(words[1]), int(words[2]), False, int((words[3:] or [0])[0]))
    print("done", status, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
