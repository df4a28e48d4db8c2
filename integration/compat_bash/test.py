"""bash: pipelines, traps, job control in scripts, process substitution, co-processes, subshells."""

import harness
from compat_support import Problems, without

SCRIPTS = {
    "pipelines and their statuses": """
        seq 1 1000 | grep 7 | sort -r | head -n 5; echo "${PIPESTATUS[@]}"
        false | true | (exit 3); echo "${PIPESTATUS[@]}"
        set -o pipefail; (exit 4) | true; echo $?; ! true; echo $?""",
    "substitutions and co-processes": """
        diff <(seq 1 5) <(seq 2 6); echo $?
        tee >(wc -l > count) < <(seq 1 300) > /dev/null; sleep 0.3; cat count
        coproc C { while read x; do echo "got $x"; done; }
        echo hello >&${C[1]}; read y <&${C[0]}; echo $y; exec {C[1]}>&-; wait $C_PID; echo $?
        x=$(echo a; exit 5); echo $? $x; echo $( (echo deep; (echo deeper) ) )""",
    "background jobs and wait": """
        for i in 1 2 3 4 5; do (sleep 0.0$i; exit $i) & p[$i]=$!; done
        for i in 5 4 3 2 1; do wait ${p[$i]}; echo $i $?; done
        wait 1 2>/dev/null; echo $?
        (sleep 0.1; exit 9) & wait -n; echo $?
        sleep 30 & kill $!; wait $!; echo $?; jobs""",
    "traps": """
        trap 'echo usr1' USR1; trap 'echo exit $?' EXIT; trap 'echo err' ERR; trap 'echo chld' CHLD
        kill -USR1 $$; false; (exit 3)
        trap - CHLD; (kill -USR1 $$; sleep 0.1); sleep 0.1
        (trap 'echo inner; exit 6' TERM; kill -TERM $BASHPID; sleep 1); echo $?
        exit 7""",
    "a trap during wait": """
        trap 'echo caught' USR1
        (sleep 0.2; kill -USR1 $$) & sleep 0.6 & wait $!; echo $?; wait; echo $?""",
    "job control in a script": """
        set -m
        sleep 30 & kill -STOP %1; sleep 0.2; jobs | sed 's/  */ /g'
        kill -CONT %1; sleep 0.2; jobs | sed 's/  */ /g'
        kill %1; wait %1; echo $?
        (sleep 0.2; exit 3) & fg %% >/dev/null 2>&1; echo $?
        (kill -STOP $BASHPID; exit 8) & sleep 0.3; jobs | sed 's/  */ /g'; bg %% 2>/dev/null; wait; echo $?""",
    "suspend and signals to a group": """
        set -m
        (trap 'echo member 1; exit 1' TERM; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; done) 2>/dev/null & p=$!
        sleep 0.3; kill -TERM -- -$p; wait $p; echo $?""",
    "exec, redirections, descriptors": """
        exec 7>seven 8<&0; echo seven >&7; exec 7>&-; cat seven
        { echo out; echo err >&2; } 2>&1 >/dev/null | sed 's/^/piped /'
        exec 9<<<"here string"; cat <&9; exec 9<&-
        (exec bash -c 'echo $0 $1' name arg); echo $?
        exec bash -c 'echo replaced; exit 12'""",
    "many short programs": """
        n=0; for i in $(seq 1 150); do /bin/true && n=$((n+1)); x=$(/bin/echo $i); done; echo $n $x""",
    "subshell trees": """
        f() { [ $1 -gt 0 ] && { (f $(($1-1))) & (f $(($1-1))) & wait; }; echo leaf >> leaves; }
        f 5; wait; wc -l < leaves""",
    "timeouts": """
        timeout 0.3 sleep 10; echo $?; timeout -s KILL 0.3 sleep 10; echo $?; timeout 5 true; echo $?
        timeout --foreground 0.2 sleep 5; echo $?; read -t 0.2 x < <(sleep 1); echo $?""",
    "ulimit and a file that is too large": """
        ulimit -f 1; trap '' XFSZ; head -c 5000 /dev/zero > big; echo $?; wc -c < big""",
    "orphans that write later": """
        (setsid bash -c '(sleep 0.4; echo late >> late) &' ); sleep 0.9; cat late""",
    "set -e in a pipeline of functions": """
        set -e; f() { false; echo not reached; }; if f; then echo in a condition; fi; (f); echo never""",
    "find, xargs, tar, gzip": """
        mkdir -p t/a t/b; for i in $(seq 1 40); do echo $i > t/a/f$i; done
        find t -type f | sort | xargs -n 7 -P 3 cat | sort -n | md5sum
        tar czf t.tgz t; mkdir u; tar xzf t.tgz -C u; diff -r t u/t; echo $?; cp -a t v; mv v w; rm -r t; ls w/a | wc -l""",
}


def main(t):
    host = t.host("bash")
    problems = Problems(t)
    # "[1] 1234" and "line 3: 1234 Stopped" carry PIDs.
    clean = without(r"(?<=\] )\d+", r"(?<=: )\s*\d+(?= )", r"\b\d{3,}\b(?= (Stopped|Terminated|Killed))",
                    r"^\[\d\].*(Done|Exit \d+).*\n")  # told or not, by when bash was looking
    for what, script in SCRIPTS.items():
        problems.same(host, what, ["bash", "-c", "\n".join(line.strip() for line in script.strip().splitlines())], clean=clean)
    problems.finish()


harness.run(main)
