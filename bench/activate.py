#!/usr/bin/python3
"""Activations of warm images, measured: the whole `supervise activate` command, the claim, the wake, the time
from the wake to the application's first action, for parked copies; and cached ones against `criu restore`.

  PYTHONPATH=integration SUPERVISE_BIN=... FAULT_BIN=... GUESTS=... python3 bench/activate.py [PARKED [MIB [CACHED]]]   (activations; 200 100 200)
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import harness
import report

ROWS = []


def figures(name, values):
    values = sorted(values)
    at = lambda q: values[min(len(values) - 1, int(len(values) * q))]
    ROWS.append((name, *(f"{ms:.3f}" for ms in (at(0.5), at(0.99), values[0])), len(values)))


def spawn_ms(t, argv):
    """Milliseconds from posix_spawn to the reaped end, as a small program sees it, the status, and the output."""
    done = subprocess.run([str(t.guest_path("ticker")), "--time", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60, check=False)
    return float(re.search(r"^spawn_ms: (\S+)", done.stdout, re.M).group(1)), done.returncode, done.stdout


def parked(t, count):
    """In this process's own namespaces: entering a host's would be measured too."""
    run = t.shared / "run"
    os.environ["SUPERVISE_RUNDIR"] = str(run)
    run.mkdir(mode=0o700)
    supervise = t.supervise_binary()
    store = f"{t.shared}/images"
    logs = [open(t.logs / name, "w") for name in ("app.out", "app.err", "standby.out", "standby.err")]
    app = subprocess.Popen([supervise, "--name", "bench", "--images", store, "--", str(t.guest_path("ticker")), "--gap"],
                           stdin=subprocess.DEVNULL, stdout=logs[0], stderr=logs[1])
    read = lambda name: (t.logs / name).read_text()
    harness.wait_until(lambda: "ready" in read("app.out"), 20, "the guest is ready")
    subprocess.run([supervise, "checkpoint", "bench", "--stop"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    app.wait(20)
    standby = subprocess.Popen([supervise, "standby", "--name", "bench", "--from", f"dir:{store}", "--ready", "parked", "--activate",
                                "command", "--instances", str(count)], stdin=subprocess.DEVNULL, stdout=logs[2], stderr=logs[3])
    t.defer(lambda: standby.poll() is None and standby.kill())
    try:
        harness.wait_until(lambda: read("standby.err").count("standby.parked") == count, 300, "all copies are parked")
        figures("a program that does nothing, start to exit", [spawn_ms(t, ["/bin/true"])[0] for _ in range(count)])
        whole, asked, wake, claim, first = [], [], [], [], []
        for n in range(count):
            ms, status, text = spawn_ms(t, [supervise, "activate", "bench"])
            if status != 0:
                raise AssertionError(text)
            field = lambda key: float(re.search(rf"^{key}: (\S+)", text, re.M).group(1))
            whole.append(ms)
            asked.append(field("ms"))
            wake.append(field("wake_ms"))
            claim.append(field("claim_ms"))
            woken = int(re.search(r"^woken_unix_ns: (\d+)", text, re.M).group(1))
            harness.wait_until(lambda: read("standby.out").count("woke ") > n, 10, "its first action", 0.002)
            first.append((int(re.findall(r"woke (\d+)", read("standby.out"))[n]) - woken) / 1e6)
            time.sleep(0.02)
        figures("parked: `supervise activate`, start to exit", whole)
        figures("parked: request to awake, in the standby", asked)
        figures("parked: of it the claim", claim)
        figures("parked: letting all threads go", wake)
        figures("parked: wake to the first action", first)
    finally:
        standby.terminate()
        standby.wait(30)


def cached(t, mib, rounds):
    supervise = t.supervise_binary()
    store = f"{t.shared}/cached"
    times, plain = [], []
    for n in range(rounds):
        out, err = t.logs / f"c{n}.out", t.logs / f"c{n}.err"
        with open(out, "w") as o, open(err, "w") as e:
            app = subprocess.Popen([supervise, "--name", "big", "--images", store, "--", str(t.guest_path("ticker")), "--mib", str(mib),
                                    "--ticks", "40"], stdin=subprocess.DEVNULL, stdout=o, stderr=e)
            harness.wait_until(lambda: "ready" in out.read_text(), 30, "the guest is ready")
            subprocess.run([supervise, "checkpoint", "big", "--stop"], check=True, stdout=subprocess.DEVNULL, timeout=60)
            app.wait(20)
            standby = subprocess.Popen([supervise, "standby", "--name", "big", "--from", f"dir:{store}", "--ready", "cached", "--activate",
                                        "command"], stdin=subprocess.DEVNULL, stdout=o, stderr=e)
            harness.wait_until(lambda: "standby.cached" in err.read_text(), 60, "the image is cached")
            ms, status, text = spawn_ms(t, [supervise, "activate", "big"])
            if status != 0:
                raise AssertionError(text)
            times.append(ms)
            standby.wait(30)
            image = sorted(Path(store, "big").glob("gen-*"))[-1]
            for f in image.glob("claim*"):
                f.unlink()
            began = time.monotonic_ns()
            done = subprocess.run(["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "bash", "-c", "echo 20000 >/proc/sys/kernel/ns_last_pid; "
                            f"(exec {harness.criu_binary()} restore -D {image} -o {t.logs}/criu.log --shell-job --manage-cgroups=ignore --file-locks "
                            f"--network-lock skip --tcp-established -d --restore-sibling "
                            f"--inherit-fd 'fd[11]:{str(out).lstrip('/')}' --inherit-fd 'fd[12]:{str(err).lstrip('/')}'"
                            f" 0</dev/null 1>/dev/null 2>&1 11>>{out} 12>>{err}); exit"], timeout=60, check=False)
            if done.returncode != 0:
                print("criu restore:", done.returncode, err.read_text()[-300:], flush=True)
            plain.append((time.monotonic_ns() - began) / 1e6)
            shutil.rmtree(Path(store, "big"))
    figures(f"cached {mib} MiB: `supervise activate`", times)
    figures("`criu restore` of the same in new namespaces", plain)


def main():
    count, mib, rounds = (int(a) for a in [*sys.argv[1:], *("200", "100", "200")[len(sys.argv) - 1:]])
    with harness.Scenario("bench-activate", seconds=3600, verbose=False) as t:
        print(report.machine(), flush=True)
        parked(t, count)
        cached(t, mib, rounds)
    report.table(("milliseconds", "p50", "p99", "least", "of"), ROWS)


if __name__ == "__main__":
    main()
