"""Standard streams: pipes, files, append, one description for two of them, closed ones, /dev/null, here-documents."""

import harness
from compat_support import Problems, command, once

SHOW = "for i in 0 1 2; do readlink /proc/self/fd/$i | sed 's/[0-9][0-9]*/N/g'; done"
FLAGS = "for i in 0 1 2; do sed -n 's/^\\(pos\\|flags\\):\\t/\\1 /p' /proc/self/fdinfo/$i 2>/dev/null; done"


def main(t):
    host = t.host("stdio")
    problems = Problems(t)
    problems.same(host, "stdin through a pipe", ["sh", "-c", "cat; echo to stderr >&2; exit 3"], stdin="line\n" * 20000, status=3)
    problems.same(host, "stdin at its end", ["sh", "-c", "cat; read x; echo $?"], stdin="", status=0)
    problems.same(host, "much on both outputs", ["sh", "-c", "seq 1 60000; seq 60001 90000 >&2"], status=0)
    problems.same(host, "no descriptor but three", ["sh", "-c", "ls /proc/self/fd | wc -l"], status=0)

    # Each case is a shell command around the program under test, which stands for $RUN.
    scripts = {
        "output to a file": "$RUN sh -c 'echo one; echo two >&2' > out 2> err; echo $?; cat out err",
        "output appended": "echo before > out; $RUN sh -c 'echo one; echo two >&2' >> out 2>> out; cat out",
        "2>&1 into one file": "$RUN sh -c 'echo one; echo two >&2; echo three' > out 2>&1; cat out",
        "2>&1 into one pipe": "$RUN sh -c 'echo one; echo two >&2; echo three' 2>&1 | cat",
        "stdin from a file, read in part": "seq 1 5 > in; { read a; $RUN sh -c 'read b; echo $b'; } < in",
        "a description shared with the shell": "{ echo first; $RUN echo second; echo third; } > out; cat out",
        "an offset that moves for the shell": "seq 1 2000 > in; { $RUN sh -c 'head -c 400 >/dev/null; exec dd bs=100 count=1 of=/dev/null 2>/dev/null' ; sh -c 'read x; echo $x'; } < in > out; cat out",
        "closed stdin": "$RUN sh -c 'cat; echo $?' <&- 2>&1 | sed 's/.*: //'",
        "closed stdout": "$RUN sh -c 'echo x; exit 4' >&- 2>/dev/null; echo $?",
        "/dev/null": "$RUN sh -c 'cat; echo x >&2' < /dev/null > /dev/null 2> /dev/null; echo $?",
        "/dev/full": "$RUN sh -c 'echo x' > /dev/full 2> err; echo $?; sed 's/.*: //' err",
        "here-document": "$RUN cat <<END\nfrom a document\nEND\n",
        "a FIFO": "mkfifo f; $RUN cat f > out & echo through > f; wait $!; cat out",
        "read-write stdin": "echo data > rw; $RUN sh -c 'cat; echo more >&0' <> rw; cat rw",
        "a broken pipe": "$RUN sh -c 'yes; echo not reached' 2>/dev/null | head -n 3; echo ${PIPESTATUS[0]}",
        "names of the streams": f"{{ $RUN sh -c \"{SHOW}\" > out; }} 2> err < /dev/null; cat out err",
        "flags and offsets": f"echo 12345 > in; {{ $RUN sh -c \"{FLAGS}\" >> out; }} < in 2> /dev/null; cat out",
        "stdout is a directory's file made later": "mkdir d; $RUN sh -c 'echo a' > d/out; cat d/out; rm -r d; echo $?",
        "an unlinked file": "exec 5> gone; rm gone; $RUN sh -c 'echo kept' >&5; $RUN sh -c 'cat /proc/self/fd/0 | wc -c' < /proc/$$/fd/5",
        "a pipeline of supervised programs": "$RUN seq 1 1000 | $RUN sort -n | $RUN tail -n 1",
        "working directory, umask, environment": "cd /srv; umask 027; X=1 $RUN sh -c 'pwd; umask; echo $X; echo $0 \"$@\"' zero one 'two three' ''",
        "limits and niceness": "ulimit -n 77; ulimit -c 0; nice -n 5 $RUN sh -c 'ulimit -n; ulimit -c; nice; ulimit -s'",
        "ignored signals are inherited": "trap '' USR1 HUP; $RUN sh -c 'kill -USR1 $$; kill -HUP $$; echo alive'",
        "user and groups": "$RUN id",
        "a socket as stdin": "$RUN /usr/bin/python3 -c 'import os; print(os.fstat(0).st_mode >> 12)' < /dev/null",
    }
    for what, script in scripts.items():
        outcomes = {}
        for mode in ("native", "bare", "path"):
            run = " ".join(command(t, [], mode))
            outcomes[mode] = once(t, host, ["bash", "-c", f"RUN='{run}'\n{script}"], "native", seconds=30)
        for mode in ("bare", "path"):
            problems.attempt(t.equal, outcomes[mode].text(), outcomes["native"].text(), f"{what} ({mode})")
    problems.finish()


harness.run(main)
