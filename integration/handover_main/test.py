"""The main job: the device under the first path begins to fail while the guest writes; it never sees an
error, goes over the second path, is handed over, and goes on on the second host over the third path."""

import re

import harness

ROUNDS, SEED = 60, 7
FS = "ext4"


def scenario(t, fs):
    a, b = t.host(f"{fs}-a"), t.host(f"{fs}-b")
    store = t.shared / f"images-{fs}"
    store.mkdir()
    a.run(["mkdir", "-p", "/srv/second"])
    b.run(["mkdir", "-p", "/srv/third"])
    disk = t.failing_disk(fs)
    disk.mount_first(a, "/srv/first")
    up2 = disk.path_up_script("second", "/srv/second")
    down = disk.path_down_script("second", "/srv/second")
    up3 = disk.path_up_script("third", "/srv/third")
    writer = str(t.guest_path("writer"))
    inside = f"/srv/shared/images-{fs}"

    standby = b.supervise(["standby", "--name", "app", "--path", "data=/srv/third", "--path-up", f"data={up3}",
                           "--from", f"dir:{inside}"], stdio="files")
    app = a.supervise(["--name", "app", "--path", "data=/srv/first,/srv/second", "--path-up", f"data={up2}",
                       "--path-down", f"data=if [ \"$SUPERVISE_REASON\" = handover ]; then {down}; fi",
                       "--standby", f"dir:{inside}", "--",
                       writer, "/srv/first/tree", str(ROUNDS), str(SEED), "--delay", "30"], stdio="files")
    app.wait_line("round 10", 30, "stdout")
    disk.fail("all", "EIO")
    status = app.wait(60)
    t.equal(status, 113, "A says that it handed the application over")
    t.equal(standby.wait(60), 0, "on B the application ended as it would have")
    t.check(re.search(r"handover.resumed", standby.stderr.text), "the first good I/O on B was seen")
    for host, process in ((a, app), (b, standby)):
        t.check("EIO" not in process.stdout.text, f"no error was seen on {host.name}")

    expected = "/srv/shared/expected-" + fs
    b.run([writer, "--expect", expected, str(ROUNDS), str(SEED)], 60)
    done = b.run([writer, "--compare", "/srv/third/tree", expected], 60, check=False)
    if done.status != 0:
        print(b.shell("ls -laR /srv/third/tree/names | head -60; ls -la /srv/shared/expected-*/names/box3; cat /proc/mounts | grep loop; dmesg | tail -5", check=False).stdout, done.stderr)
    t.equal(done.status, 0, f"the tree is what an undisturbed run makes: {done.stdout[-400:]}")


def main(t):
    scenario(t, FS)


if __name__ == "__main__":
    harness.run(main)
