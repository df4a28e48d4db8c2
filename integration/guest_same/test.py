"""Guests that print every result: the same lines natively and under supervise."""

import harness
from compat_support import WORK, Problems


def main(t):
    host = t.host("guests")
    problems = Problems(t)
    cases = [
        ("exit status and signals of processes", "forks", [], None),
        ("signals", "signals", [], None),
        ("threads", "threads", ["10"], None),
        ("calls on files and names", "iocalls", [f"{WORK}/io"], None),
        ("an application's own filter", "appfilter", [f"{WORK}/file"], None),
        ("other call tables", "arch32", [f"{WORK}/file"], None),
        ("long arguments", "bigargs", [], None),
        ("mappings", "sigbus", [f"{WORK}/file", "--handler", "--rounds", "6", "--delay", "1"], None),
        ("mappings, pages dropped", "sigbus", [f"{WORK}/file", "--evict", "--rounds", "6", "--delay", "1"], None),
        ("a storm of processes", "forks", ["--storm", "8", "--children", "20"], None),
    ]
    for what, guest, arguments, clean in cases:
        problems.same(host, what, [t.guest_path(guest), *arguments], clean=clean, seconds=120, status=0)
    problems.finish()


harness.run(main)
