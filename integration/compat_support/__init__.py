"""The same program natively and under `supervise`: output, exit status and terminating signal compared.

Each run has an empty /srv/work as its working directory; "path" runs declare it as a storage path, so
that every call on it goes the long way. supervise logs nothing below an error, so stderr must be equal.
"""

import difflib
import os
import re

WORK = "/srv/work"
MODES = {"bare": [], "path": ["--path", f"data={WORK}"]}


def command(t, argv, mode="bare", options=()):
    """The argv that runs `argv` in a mode; "native" is without supervise."""
    argv = [os.fspath(word) for word in argv]
    if mode == "native":
        return argv
    return [t.supervise_binary(), "run", "--log-level", "error", *MODES[mode], *options, "--", *argv]


def fresh(host):
    host.shell(f"rm -rf {WORK} && mkdir -p {WORK}")


class Outcome:
    def __init__(self, status, stdout, stderr):
        self.status, self.stdout, self.stderr = status, stdout, stderr

    def text(self, clean=None):
        out, err = (clean(self.stdout), clean(self.stderr)) if clean else (self.stdout, self.stderr)
        return f"{out}--- stderr\n{err}--- status {self.status}\n"


def once(t, host, argv, mode="native", seconds=60, stdin=None, env=None, options=(), prepare=None):
    fresh(host)
    if prepare:
        prepare(host)
    result = host.run(command(t, argv, mode, options), seconds, check=False, stdin=stdin, env=env, cwd=WORK)
    return Outcome(result.status, result.stdout, result.stderr)


def difference(native, other, mode, clean=None):
    a, b = native.text(clean).splitlines(), other.text(clean).splitlines()
    return list(difflib.unified_diff(a, b, "native", mode, lineterm="", n=2))


def same(t, host, what, argv, modes=("bare", "path"), clean=None, status=None, **more):
    """Fails with the difference unless every mode gives what the native run gives. `status`, if given,
    is what the native run must end with: a program that fails at once proves nothing."""
    native = once(t, host, argv, "native", **more)
    if status is not None and native.status != status:
        raise AssertionError(f"{what}: the native run ended with {native.status}, not {status}\n{native.text()[-3000:]}")
    for mode in modes:
        other = once(t, host, argv, mode, **more)
        lines = difference(native, other, mode, clean)
        if lines:
            raise AssertionError(f"{what} differs under supervise ({mode}):\n" + "\n".join(lines[:80]))
    t.say(f"ok: {what}: same natively and supervised ({', '.join(modes)}), status {native.status}")
    return native


class Problems:
    """Collects failures, so that one run tells them all."""

    def __init__(self, t):
        self.t, self.found = t, []

    def attempt(self, function, *arguments, **more):
        try:
            return function(*arguments, **more)
        except (AssertionError, TimeoutError, ProcessLookupError) as error:
            self.t.say(f"PROBLEM: {error}")
            self.found.append(str(error))
            return None

    def same(self, host, what, argv, **more):
        return self.attempt(same, self.t, host, what, argv, **more)

    def finish(self):
        if self.found:
            names = "\n".join(text.splitlines()[0] for text in self.found)
            raise AssertionError(f"{len(self.found)} problems:\n{names}")


def without(*patterns):
    """A cleaner that replaces each match of the patterns with '?', or with nothing if it takes whole lines."""
    expressions = [(re.compile(p, re.MULTILINE), "" if p.endswith("\\n") else "?") for p in patterns]

    def clean(text):
        for expression, instead in expressions:
            text = expression.sub(instead, text)
        return text
    return clean
