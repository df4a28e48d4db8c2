"""Mappings of a file whose device fails: loads, stores, msync and system calls on mapped buffers go on over
the second path, dirty shared pages are on it, and the application's SIGBUS handler never runs."""

import sys

import harness


def main(t):
    for fs, break_it in (("ext4", "device"), ("xfs", "device"), ("xfs", "shutdown")):
        host = t.host(f"{fs}-{break_it}")
        host.run(["mkdir", "-p", "/srv/second"])
        disk = t.failing_disk(fs)
        disk.mount_first(host, "/srv/first")
        up = disk.path_up_script("second", "/srv/second")
        app = host.supervise(["--name", "app", "--path", "data=/srv/first,/srv/second", "--path-up", f"data={up}", "--",
                              str(t.guest_path("sigbus")), "/srv/first/file", "--handler", "--evict",
                              "--rounds", "12", "--delay", "20"], stdio="files")
        app.wait_line("round 2$", 20, "stdout")
        if break_it == "device":
            disk.fail("all", "EIO")
        else:
            harness.system.shutdown_file_system(host.path("/srv/first"))
        t.equal(app.wait(40), 0, f"{fs}, {break_it}: the guest's exit status")
        t.check("path.switched" in app.stderr.text, "it went over the second path")
        t.check("FAIL" not in app.stdout.text, "every load, store and call was right")
        t.check("not_moved" not in app.stderr.text, "everything was moved")
        bus = "SIGBUS at" in app.stderr.text
        t.say(f"the first error was {'a SIGBUS' if bus else 'that of a call'}")
        host.umount("/srv/first")
        # The guest left FILE as its model says; its own check is over the page cache, this one is not.
        host.umount("/srv/second")
        disk.mount(host, "/srv/second", "second")
        content = host.path("/srv/second/file").read_bytes()
        fixed = host.path("/srv/second/file.fixed").read_bytes()
        wanted = bytearray(bytes(i * 31 + i // 4096 & 255 for i in range(1 << 20)))
        t.equal(fixed, bytes(wanted), "the file that is only read")
        for turn in range(12):
            for page in range(256):
                at = page * 4096 + (turn * 17 + page) % 4096
                wanted[at] = wanted[at] + 1 & 255
        t.check(content[:1 << 20] == bytes(wanted), "each stored byte is on the storage")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    harness.run(main)
