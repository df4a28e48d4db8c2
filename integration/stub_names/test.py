"""Programs that make, rename, truncate and remove files in directories that they share, most of it in process; then the
first path fails, and after the switch they go on. What must be there in the end is there on the second path, and
nothing else: also the order of changes to one name by several processes is right."""

import os
import re
import sys
import time

import harness


def found(base):
    files = {}
    for path in sorted(base.rglob("*")):
        if path.is_dir():
            continue
        total = 0
        for byte in path.read_bytes():
            total = (total * 31 + byte) & 0xFFFFFFFF
        stat = path.lstat()
        files[str(path.relative_to(base))] = f"{stat.st_mode & 0o7777:o} {stat.st_size} {total}"
    return files


def one(t, number, seconds):
    host = t.host(f"h{number}")
    host.run(["mkdir", "-p", "/srv/second"])
    disk = t.failing_disk("ext4")
    disk.mount_first(host, "/srv/first")
    up = disk.path_up_script("second", "/srv/second")
    end = t.shared / f"end{number}"
    app = host.supervise(["--name", "app", "--path", "data=/srv/first,/srv/second", "--path-up", f"data={up}", "--log-level", "debug",
                          "--", str(t.guest_path("stub_names")), "/srv/first/base", f"/srv/shared/{end.name}", str(number)],
                         stdio="files")
    app.wait_line("^ready", 20, "stdout")
    time.sleep(seconds)
    disk.fail("all", "EIO")
    app.wait_line("path.switched", 60, "stderr")
    time.sleep(0.5)
    end.touch()
    t.equal(app.wait(60), 0, "its exit status")
    text = app.stdout.text
    t.check("FAILED" not in text and "done" in text, "no call gave another result than it must")
    expected = {m[1]: m[2] for m in re.finditer(r"^file (\S+) (.*)$", text, re.M)}
    rounds = sum(int(n) for n in re.findall(r"^rounds (\d+)", text, re.M))
    t.say(f"{rounds} changes, {len(expected)} files")
    now = found(host.path("/srv/second/base"))
    wrong = {k: (expected.get(k), now.get(k)) for k in expected.keys() | now.keys() if expected.get(k) != now.get(k)}
    t.equal(wrong, {}, "what is on the second path, and what must be there, where they differ")
    if os.environ.get("SCENARIO_STUB") != "off":
        made = re.search(r'"in_process":.*?"calls":(\d+)', app.stderr.text)
        t.check(made and int(made.group(1)) > 10 * rounds / 20, "most calls were made in process")
    host.power_off()


def main(t):
    for number, seconds in enumerate((0.3, 1.0, 2.5)):
        one(t, number, seconds)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
