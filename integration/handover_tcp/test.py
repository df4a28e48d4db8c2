"""Connections between the application's own processes, over loopback TCP and a unix socket, go on after a
hand-over: each message is answered once, in order."""

import harness

PROGRAM = r"""
import os, socket, struct, sys, time
d = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
one, two = socket.socketpair()
if os.fork() == 0:
    conn, _ = listener.accept()
    listener.close()
    while True:
        data = conn.recv(8, socket.MSG_WAITALL)
        if not data:
            os._exit(0)
        two.sendall(data)
        conn.sendall(struct.pack("q", struct.unpack("q", data)[0] * 2))
client = socket.create_connection(listener.getsockname())
log = os.open(d + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
for i in range(150):
    client.sendall(struct.pack("q", i))
    assert struct.unpack("q", client.recv(8, socket.MSG_WAITALL))[0] == 2 * i
    assert struct.unpack("q", one.recv(8, socket.MSG_WAITALL))[0] == i
    os.write(log, b"%d\n" % i)
    os.fsync(log)
    print("answered", i, flush=True)
    time.sleep(0.02)
"""


def main(t):
    a, b = t.host("a"), t.host("b")
    (t.shared / "program.py").write_text(PROGRAM)
    (t.shared / "images").mkdir()
    a.run(["mkdir", "-p", "/srv/second"])
    b.run(["mkdir", "-p", "/srv/third"])
    disk = t.failing_disk("ext4")
    disk.mount_first(a, "/srv/first")
    up2, up3 = disk.path_up_script("second", "/srv/second"), disk.path_up_script("third", "/srv/third")
    down = disk.path_down_script("second", "/srv/second")
    standby = b.supervise(["standby", "--name", "app", "--path", "data=/srv/third", "--path-up", f"data={up3}",
                           "--from", "dir:/srv/shared/images"], stdio="files")
    app = a.supervise(["--name", "app", "--path", "data=/srv/first,/srv/second", "--path-up", f"data={up2}",
                       "--path-down", f"data=if [ \"$SUPERVISE_REASON\" = handover ]; then {down}; fi",
                       "--standby", "dir:/srv/shared/images", "--", "/usr/bin/python3", "/srv/shared/program.py",
                       "/srv/first"], stdio="files")
    app.wait_line("answered 20", 20, "stdout")
    disk.fail("all", "EIO")
    t.equal(app.wait(40), 113, "A handed the application over")
    t.equal(standby.wait(40), 0, "on B it ended as it would have")
    t.equal((b.path("/srv/third") / "log").read_text(), "".join(f"{i}\n" for i in range(150)), "each answer once, in order")


if __name__ == "__main__":
    harness.run(main)
