"""Runs tests of the standard library and prints one sorted line a test: "outcome id".

unittests.py [--times FILE] NAME...   NAME: a module (test_os), a class or a test (test_os.ForkTests.test_fork),
                                      -NAME leaves out what begins so.
Resources that need a network, much memory or much time are off, as in a plain `python3 -m test`.
"""

import faulthandler
import importlib
import os
import sys
import time
import unittest

from test import support


class Outcomes(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.found, self.times, self.texts = {}, {}, []

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()
        self.found.setdefault(test.id(), "ok")

    def stopTest(self, test):
        super().stopTest(test)
        self.times[test.id()] = time.monotonic() - self.began

    def note(self, test, outcome, error=None):
        identity = getattr(test, "test_case", test).id()
        if self.found.get(identity, "ok") == "ok" or outcome == "FAIL":
            self.found[identity] = outcome
        if error:
            self.texts.append(f"{identity}\n{self._exc_info_to_string(error, test)}")

    def addError(self, test, error):
        self.note(test, "FAIL", error)

    def addFailure(self, test, error):
        self.note(test, "FAIL", error)

    def addSubTest(self, test, subtest, error):
        if error:
            self.note(test, "FAIL", error)

    def addSkip(self, test, reason):
        self.note(test, "skip")

    def addExpectedFailure(self, test, error):
        self.note(test, "xfail")

    def addUnexpectedSuccess(self, test):
        self.note(test, "unexpected")


def each(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each(item)
        else:
            yield item


def main(names):
    times = None
    if names[:1] == ["--times"]:
        times, names = names[1], names[2:]
    support.use_resources = []
    support.verbose = 0
    faulthandler.enable(sys.__stderr__)
    out = tuple(f"test.{n[1:]}" for n in names if n.startswith("-"))
    modules, chosen = {}, []
    for name in names:
        if not name.startswith("-"):
            modules.setdefault(name.split(".")[0], []).append(f"test.{name}")
    for module, wanted in modules.items():
        loaded = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(f"test.{module}"))
        for test in each(loaded):
            begins = tuple(wanted)
            if test.id().startswith(begins) and not (out and test.id().startswith(out)):
                chosen.append(test)
    result = Outcomes()
    work = f"unittests-{os.getpid()}"
    os.mkdir(work)
    os.chdir(work)
    unittest.TestSuite(chosen).run(result)
    os.chdir("..")
    lines = sorted(f"{outcome} {identity}" for identity, outcome in result.found.items())
    sys.stdout.write("\n".join(["RESULTS", *lines, ""]))
    sys.stdout.flush()
    sys.stderr.write("\n".join(result.texts))
    if times:
        with open(times, "w") as file:
            for identity, seconds in sorted(result.times.items(), key=lambda x: -x[1]):
                file.write(f"{seconds:.2f} {identity}\n")
    os._exit(0 if chosen else 3)


if __name__ == "__main__":
    main(sys.argv[1:])
