"""The main job's guest without any fault: what it leaves under supervise is what a plain run leaves."""

import harness
from compat_support import WORK, command, fresh


def main(t):
    host = t.host("writer")
    guest = t.guest_path("writer")
    host.run([guest, "--expect", "/srv/expected", "40", "7", "--big", "24"], 60)
    for mode in ("native", "bare", "path"):
        fresh(host)
        result = host.run(command(t, [guest, f"{WORK}/tree", "40", "7", "--big", "24", "--delay", "10"], mode), 90, check=False)
        t.check(result.status == 0 and result.stdout.endswith("done: 40 rounds, 0 failures\n"),
                f"forty rounds ({mode})" if result.status == 0 else f"{mode}: {result}")
        compared = host.run([guest, "--compare", f"{WORK}/tree", "/srv/expected"], 60, check=False)
        t.check(compared.status == 0, f"the tree is as expected ({mode})" if compared.status == 0 else f"{mode}: {compared}")

    host.shell(f"printf X | dd of={WORK}/tree/scatter.dat bs=1 seek=999 conv=notrunc 2>/dev/null; rm {WORK}/tree/state/state.json")
    compared = host.run([guest, "--compare", f"{WORK}/tree", "/srv/expected"], 60, check=False)
    t.check(compared.status == 1 and "scatter.dat: first other byte at offset 999" in compared.stdout and
            "state/state.json: missing" in compared.stdout, "the comparison finds a changed byte and a missing file")


harness.run(main)
