"""The file system of the first path shuts down while the guest writes: it goes on over the second path,
sees no error, and leaves the tree of an undisturbed run."""

import sys

import harness

ROUNDS, SEED = 40, 11


def fail_over(t, host, first, break_it, second="/srv/second", up=None, delay=20):
    """Runs the writer on `first`, calls break_it() in the middle, and compares what it left on `second`."""
    writer = str(t.guest_path("writer"))
    app = host.supervise(["--name", "app", "--path", f"data={first},{second}", *(["--path-up", f"data={up}"] if up else []),
                          "--", writer, f"{first}/tree", str(ROUNDS), str(SEED), "--delay", str(delay)], stdio="files")
    app.wait_line("round 10", 30, "stdout")
    break_it()
    t.equal(app.wait(60), 0, "the writer's exit status")
    t.check("path.switched" in app.stderr.text, "it went over the second path")
    t.check("error.reported" not in app.stderr.text, "no error was reported to it")
    t.check("not_moved" not in app.stderr.text, "everything was moved")
    expected = f"/srv/expected-{t.next_index()}"
    host.run([writer, "--expect", expected, str(ROUNDS), str(SEED)], 60)
    done = host.run([writer, "--compare", f"{second}/tree", expected], 60, check=False)
    t.equal(done.status, 0, f"the tree is what an undisturbed run makes: {done.stdout[-400:]}")
    return app


def main(t):
    for fs in ("xfs", "ext4"):
        host = t.host(fs)
        host.run(["mkdir", "-p", "/srv/second"])
        disk = t.failing_disk(fs)
        disk.mount_first(host, "/srv/first")
        up = disk.path_up_script("second", "/srv/second")
        fail_over(t, host, "/srv/first", lambda: harness.system.shutdown_file_system(host.path("/srv/first")), up=up)
        host.umount("/srv/first")
        t.say(f"ok: nothing keeps the dead {fs} busy")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
