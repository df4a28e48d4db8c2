"""A terminal: job control of an interactive bash, ^C, ^Z, fg, bg, window size, job control of supervise itself."""

import re
import signal
import time

import harness
from compat_support import MODES, WORK, Problems, fresh

PROMPT = "ready> "
NOTICE = r"(?:\[\d+\].*\r\n)*"  # of a job's end, before a prompt
MACHINE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    def __init__(self, t, host, argv, name):
        self.one = host.start(argv, name=name, stdio="tty", cwd=WORK, env={"PS1": PROMPT, "HISTFILE": "", "TERM": "dumb"})
        self.at = 0

    def expect(self, pattern, seconds=10):
        """What came since the last call, up to and with `pattern`."""
        deadline = time.monotonic() + seconds
        while True:
            match = re.compile(pattern, re.MULTILINE).search(self.one.stdout.text, self.at)
            if match:
                text = self.one.stdout.text[self.at:match.end()]
                self.at = match.end()
                return MACHINE.sub("", text)
            if time.monotonic() > deadline or self.one.stdout.ended:
                rest = self.one.stdout.text[self.at:]
                raise AssertionError(f"{self.one.name}: {pattern!r} never came, but: {rest!r}")
            time.sleep(0.01)

    def send(self, text, pattern=re.escape(PROMPT), seconds=10):
        self.one.write(text)
        return self.expect(pattern, seconds)

    def type(self, text, pause=0.3):
        time.sleep(pause)
        self.one.write(text)


def shell_session(t, host, prefix, name):
    """Everything an interactive bash shows, as a list of (step, text)."""
    fresh(host)
    shell = Terminal(t, host, [*prefix, "bash", "--norc", "--noprofile", "-i"], name)
    seen = [("start", re.sub(r"bash-[0-9.]+# ", "", shell.expect(re.escape(PROMPT), 15)))]

    def step(what, text, pattern=re.escape(PROMPT)):
        text = re.sub(r"(\[\d+\]\+?) \d+", r"\1 PID", shell.send(text, pattern))
        # When bash tells of a job's end depends on when it was looking.
        seen.append((what, re.sub(r"^(\[\d+\][+-]? +)?(Terminated|Killed|Done|Exit).*\n", "", text, flags=re.MULTILINE)))

    step("a terminal on each stream", "for i in 0 1 2; do [ -t $i ] && echo yes; done\n")
    step("a foreground command", "sleep 0.2; echo done\n")
    shell.one.write("cat\n")
    shell.type("echoed by cat\n")
    step("^D", "", "echoed by cat\r\nechoed by cat\r\n")
    step("end of file", "\x04")
    shell.one.write("sleep 60\n")
    shell.type("\x03")
    step("^C", "", re.escape(PROMPT))
    step("its status", "echo $?\n")
    shell.one.write("sleep 61\n")
    shell.type("\x1a")
    step("^Z", "", re.escape(PROMPT))
    step("jobs", "jobs\n")
    step("bg", "bg\n")
    step("jobs again", "jobs\n")
    shell.one.write("fg\n")
    shell.type("\x1a")
    step("^Z after fg", "", re.escape(PROMPT))
    # Whether a shell hears of the death before its next command is chance: it is given the time.
    step("kill %1", "kill %1; sleep 0.5; echo killed\n", "^killed\r\n" + NOTICE + re.escape(PROMPT))
    step("its notice", "echo\n")
    step("drained after it", "echo drained\n", "^drained\r\n" + re.escape(PROMPT))
    step("two jobs", "sleep 62 & sleep 63 &\n")
    step("both", "jobs | wc -l; kill %1 %2; wait; echo none\n", "^none\r\n" + re.escape(PROMPT))
    step("drain notices", "echo\n")
    shell.one.write("cat | cat | tr a-z A-Z\n")
    shell.type("pipe\n")
    shell.type("\x1a")
    step("^Z of a pipeline", "", re.escape(PROMPT))
    shell.one.write("fg\n")
    shell.type("line\n")
    shell.type("\x04")
    step("fg of a pipeline", "", "LINE\r\n" + re.escape(PROMPT))
    step("background reading stops", "cat &\n")
    step("notice", "sleep 0.2; echo\n")
    step("stopped on input", "jobs\n")
    step("end it", "kill -9 %cat; sleep 0.3; echo ended\n", "^ended\r\n" + NOTICE + re.escape(PROMPT))
    step("notices", "echo\n")
    step("drained", "echo drained\n", "^drained\r\n" + re.escape(PROMPT))
    step("stty", "stty size; stty -a | grep -o 'intr = ...'\n")
    shell.one.resize(40, 132)
    seen.append(("bash draws its prompt again", shell.expect(re.escape(PROMPT)).strip(" ")))
    step("after a resize", "stty size; echo $LINES $COLUMNS\n")
    step("terminal mode", "stty -echo; stty echo; echo ok\n")
    shell.one.write("head -n 1 < /dev/tty\n")
    shell.type("from the keyboard\n")
    step("a command that reads the terminal", "", "from the keyboard\r\nfrom the keyboard\r\n" + re.escape(PROMPT))
    step("trap", "trap 'echo int' INT; sleep 0.1\n")
    step("^C at the prompt", "\x03")
    step("a subshell leads", "bash --norc --noprofile -c 'set -m; sleep 0.1 & wait; echo $?'\n")
    seen.append(("exit", shell.send("exit 23\n", "exit\r\n")))
    seen.append(("status", shell.one.wait(10)))
    return seen


def own_job_control(t, host, problems):
    """supervise in an interactive shell: ^Z stops it with its application, fg lets both go on, ^C ends them."""
    run = f"{t.supervise_binary()} run --log-level error --"
    beat = "i=0; while :; do i=$((i+1)); echo $i > beat; sleep 0.05; done"
    fresh(host)
    shell = Terminal(t, host, ["bash", "--norc", "--noprofile", "-i"], "outer shell")
    shell.expect(re.escape(PROMPT), 15)

    def beats():
        return int(host.path(f"{WORK}/beat").read_text() or 0) if host.path(f"{WORK}/beat").exists() else 0

    shell.one.write(f"{run} sh -c '{beat}'\n")
    harness.wait_until(lambda: beats() > 2, 15, "the application runs")
    shell.type("\x1a", 0.5)
    shell.expect("Stopped.*\n.*" + re.escape(PROMPT), 10)
    before = beats()
    time.sleep(0.6)
    problems.attempt(t.equal, beats(), before, "^Z stops the application with supervise")
    shell.one.write("fg\n")
    problems.attempt(harness.wait_until, lambda: beats() > before + 3, 10, "fg lets both go on")
    shell.type("\x1a")
    shell.expect("Stopped.*\n.*" + re.escape(PROMPT), 10)
    before = beats()
    shell.send("bg\n")
    problems.attempt(harness.wait_until, lambda: beats() > before + 3, 10, "bg too")
    shell.one.write("fg\n")
    shell.type("\x03")
    shell.expect(re.escape(PROMPT), 10)
    text = shell.send("echo status $?\n", r"^status \d+\r\n")
    problems.attempt(t.equal, text.split()[-1], "130", "^C ends both with 130")
    shell.one.write(f"{run} cat\n")
    shell.type("typed\n", 1)
    shell.expect("typed\r\ntyped\r\n")
    shell.one.write("\x04")
    shell.expect(re.escape(PROMPT), 10)
    shell.send(f"seq 1 3 | {run} cat | tail -n 1; echo $?\n", "3\r\n0\r\n")
    shell.send(f"{run} sleep 0.5 & wait; echo waited $?\n", "^waited 0\r\n", 15)
    shell.send("exit\n", "exit")


def hangup(t, host, problems):
    for mode in ("bare",):
        fresh(host)
        one = Terminal(t, host, [t.supervise_binary(), "run", "--log-level", "error", *MODES[mode], "--", "sh", "-c",
                                 "trap 'echo hup > hup; exit 0' HUP; echo go; while :; do sleep 0.1; done"], "hangup")
        one.expect("go\r\n", 15)
        one.one.signal(signal.SIGHUP)
        one.one.wait(10)
        problems.attempt(t.check, host.path(f"{WORK}/hup").exists(), "SIGHUP reaches the application")


def main(t):
    host = t.host("terminal")
    problems = Problems(t)
    native = shell_session(t, host, [], "native")
    for what, text in native:
        t.say(f"{what}: {text!r}")
    # That the native run shows job control at all.
    shown = dict(native)
    t.check("Stopped" in shown["^Z"] and "Stopped" in shown["jobs"] and "Running" in shown["jobs again"] and "40 132" in shown["after a resize"],
            "the native session shows what is compared")
    for mode in ("bare", "path"):
        prefix = [t.supervise_binary(), "run", "--log-level", "error", *MODES[mode], "--"]
        got = problems.attempt(shell_session, t, host, prefix, mode)
        for (what, want), (_, have) in zip(native, got or []):
            problems.attempt(t.equal, have, want, f"{what} ({mode})")
    problems.attempt(own_job_control, t, host, problems)
    problems.attempt(hangup, t, host, problems)
    problems.finish()


harness.run(main)
