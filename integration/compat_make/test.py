"""make -j4 of a generated C project: the same commands, the same objects, the same program."""

import harness
from compat_support import MODES, WORK, Problems, fresh

MAKEFILE = """
SOURCES := $(wildcard src/*.c)
OBJECTS := $(SOURCES:src/%.c=obj/%.o)
CFLAGS := -O1 -g0 -Wall -ffile-prefix-map=$(CURDIR)=.
all: program libpart.a
obj/%.o: src/%.c src/all.h | obj
\t@gcc $(CFLAGS) -MMD -c $< -o $@
obj: ; @mkdir -p obj
program: $(OBJECTS)
\t@gcc -Wl,--build-id=none $^ -o $@
libpart.a: $(wordlist 1,5,$(OBJECTS))
\t@ar rcD $@ $^
check: program; @./program
clean: ; @rm -rf obj program libpart.a
"""


def generate(host, units):
    fresh(host)
    src = host.path(f"{WORK}/src")
    src.mkdir()
    (src / "all.h").write_text("#include <stdio.h>\n" + "".join(f"int unit{i}(int x);\n" for i in range(units)))
    for i in range(units):
        body = "".join(f"  x = (x * {i + 3} + {k}) % 1000003;\n" for k in range(30))
        (src / f"unit{i}.c").write_text(f'#include "all.h"\nint unit{i}(int x) {{\n{body}  return x;\n}}\n')
    calls = "".join(f"  x = unit{i}(x);\n" for i in range(units))
    (src / "main.c").write_text(f'#include "all.h"\nint main(void) {{\n  int x = 1;\n{calls}  printf("%d\\n", x);\n  return 0;\n}}\n')
    host.path(f"{WORK}/Makefile").write_text(MAKEFILE)


def main(t):
    host = t.host("make")
    problems = Problems(t)
    results = {}
    for mode in ("native", "bare", "path"):
        generate(host, 24)
        prefix = [] if mode == "native" else [t.supervise_binary(), "run", "--log-level", "error", *MODES[mode], "--"]
        outputs = []
        for goals in (["-j4"], ["check"], ["-j4"], ["clean"], ["-j4", "check"], ["-j4", "no-such-goal"]):
            got = host.run([*prefix, "make", "--no-print-directory", *goals], 120, check=False, cwd=WORK)
            outputs.append((goals, got.status, got.stdout, got.stderr))
        host.shell(f"echo 'int broken(' > {WORK}/src/unit3.c")
        got = host.run([*prefix, "make", "-k", "-j4"], 60, check=False, cwd=WORK, env={"LC_ALL": "C"})
        outputs.append(("an error", got.status, sorted(got.stdout.splitlines()), sorted(got.stderr.splitlines())))
        sums = host.shell(f"cd {WORK}; find . -type f ! -name '*.d' | sort | xargs sha256sum").stdout
        results[mode] = (outputs, sums)
    t.equal([o[1] for o in results["native"][0]], [0, 0, 0, 0, 0, 2, 2], "make's statuses")
    for mode in ("bare", "path"):
        for native, other in zip(results["native"][0], results[mode][0]):
            problems.attempt(t.equal, other, native, f"make {native[0]} ({mode})")
        problems.attempt(t.equal, results[mode][1], results["native"][1], f"all files ({mode})")
    problems.finish()


harness.run(main)
