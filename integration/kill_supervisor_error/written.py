"""Whether a tree of the guest `writer`, which was killed in round N+1, holds all that it wrote before.

The trees of undisturbed runs of N and of N+1 rounds say what may be there: what N rounds wrote, and
of the last round any part."""

import os
import re

RECORDS = ("append.log", "shared.log")  # of several writers, in an order of their own
NEAR = 32  # a byte that a round wrote twice may by chance end as it began; not so many in a row


def differences(tree, before, after):
    found = []
    old, new, got = (_files(path) for path in (before, after, tree))
    for name in sorted(old.keys() & new.keys()):
        # Renamed to and fro within a round.
        there = got.get(name, got.get(name.replace("names/box3", "names/moved")))
        if there is None:
            if not name.endswith("/sized"):
                found.append(f"{name} is missing")
            continue
        found += [f"{name}: {what}" for what in _file(name, there, old[name], new[name])]
    return found


def _files(top):
    top, found = os.fspath(top), {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = f"{folder}/{name}"
            if not os.path.islink(path) and os.path.isfile(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, top)] = file.read()
    return found


def _file(name, got, old, new):
    if name in RECORDS:
        have, least, most = (_records(data) for data in (got, old, new))
        return [f"writer {who}: {len(have.get(who, []))} records, {len(least[who])} were written" for who in least
                if not (_starts(have.get(who, []), least[who]) and _starts(most[who], have.get(who, [])))]
    if name == "state/state.json":
        return [] if got in (old, new) else [f"{len(got)} bytes that it never held"]
    if name.endswith("/sized"):  # made anew in the round
        return []
    if _starts(new, old):
        return [] if _starts(got, old) and _starts(new, got) else [f"{len(got)} bytes, {len(old)} were written, or others"]
    if not len(old) <= len(got) <= len(new):
        return [f"{len(got)} bytes instead of {len(old)}"]
    new = new.ljust(len(got), b"\0")
    old = old.ljust(len(got), b"\0")
    may = bytearray(len(got))
    for at in (i for i in range(len(got)) if old[i] != new[i]):
        may[max(0, at - NEAR):at + NEAR] = b"\1" * len(may[max(0, at - NEAR):at + NEAR])
    wrong = [i for i in range(len(got)) if got[i] != old[i] and not may[i]]
    return [f"{len(wrong)} bytes lost, the first at {wrong[0]}"] if wrong else []


def _starts(whole, start):
    return whole[:len(start)] == start


def _records(data):
    """{writer: its records}; the guest's --compare has the format."""
    found, at = {}, 0
    while at < len(data):
        head = re.match(rb"(\w+) (\d+) (\d+) ", data[at:at + 64])
        if not head:
            found.setdefault("?", []).append(data[at:at + 40])  # nobody's
            break
        end = at + head.end() + int(head.group(3)) + 1
        found.setdefault(head.group(1).decode(), []).append(data[at:end])
        at = end
    return found
