"""The main job without shared storage for images: the image goes over TLS to the standby, which alone keeps it. Then
the refusals: a host without a certificate of the authority, one whose name is another's, a standby for another application,
and a second start on A while B has the application."""

import re

import harness

ROUNDS, SEED = 60, 11
PORT = 7410


def main(t):
    a, b = t.host("a"), t.host("b")
    here, there = t.network(a, b)
    supervise = t.supervise_binary()
    keys = "/srv/shared/keys"
    made = a.run([supervise, "keys", keys, here, there])
    t.check("ca-key.pem" in made.stdout and f"{keys}/{there}" in made.stdout, "`keys` tells what it made")
    t.equal(a.run([supervise, "keys", keys, there], check=False).status, 125, "a host's key is never replaced")
    a.run([supervise, "keys", "/srv/shared/foreign", here])
    a.run([supervise, "keys", keys, "10.77.0.99"])
    a.run(["mkdir", "-p", "/srv/second"])
    b.run(["mkdir", "-p", "/srv/third"])
    disk = t.failing_disk("ext4")
    disk.mount_first(a, "/srv/first")
    up2, up3 = disk.path_up_script("second", "/srv/second"), disk.path_up_script("third", "/srv/third")
    down = disk.path_down_script("second", "/srv/second")
    writer = str(t.guest_path("writer"))
    target = f"{there}:{PORT}"

    def origin(*more, name="app", host=a, tls=f"{keys}/{here}", program=("true",)):
        return host.supervise(["--name", name, "--standby", target, "--tls", tls, "--images", "/srv/images", *more, "--", *program],
                              stdio="files")

    lost = origin(tls="/srv/none")
    t.equal(lost.wait(20), 125, "no key, no start")
    t.check(re.search("TLS: /srv/none/ca.pem .*supervise keys.*--tls", lost.stderr.text), "and it says how to make one")
    alone = origin()
    t.equal(alone.wait(20), 0, "a standby that can't be reached stops no start")
    t.check("standby.unreachable" in alone.stderr.text, "but is told of")

    b.run(["mkdir", "-p", "/srv/images"])
    standby = b.supervise(["standby", "--name", "app", "--path", "data=/srv/third", "--path-up", f"data={up3}", "--images",
                           "/srv/images", "--listen", f":{PORT}", "--tls", f"{keys}/{there}"], stdio="files")
    standby.wait_line("standby.ready.*listening on", 20, "stderr")
    for what, tls, why in (("another authority", "/srv/shared/foreign/" + here, "unable to get local issuer certificate|unknown ca|self-signed"),):
        refused = origin(tls=tls)
        t.equal(refused.wait(20), 0, f"{what}: the application itself is not harmed")
        t.check(re.search(f"standby.unreachable.*({why})", refused.stderr.text), f"{what}: is told ({refused.stderr.text})")
    t.check(standby.stderr.search("receive.refused", 10), "B says whom it refused")
    other = origin(name="another")
    t.equal(other.wait(20), 0, "a standby for another application is not ours")
    t.check(re.search('standby.unreachable.*standby for "app", not for "another"', other.stderr.text), "and it says so")

    app = origin("--path", "data=/srv/first,/srv/second", "--path-up", f"data={up2}", "--path-down",
                 f"data=if [ \"$SUPERVISE_REASON\" = handover ]; then {down}; fi",
                 program=[writer, "/srv/first/tree", str(ROUNDS), str(SEED), "--delay", "30"])
    app.wait_line("round 10", 30, "stdout")
    disk.fail("all", "EIO")
    t.equal(app.wait(60), 113, "A says that it handed the application over")
    t.check(re.search(r"ship.done.*MiB are at 10.77.0.2:7410 as image gen-000001", app.stderr.text), "the image went over the network")
    t.check(re.search(r"handover.done.*running on b", app.stderr.text), "A saw it running on B")
    again = origin()
    t.equal(again.wait(20), 125, "a second copy on A is refused")
    t.check(re.search("it was handed over to host b.* and runs there", again.stderr.text), f"and named ({again.stderr.text})")
    t.equal(standby.wait(60), 0, "on B the application ended as it would have")
    t.check(re.search(r"handover.resumed", standby.stderr.text), "the first good I/O on B was seen")
    for process in (app, standby):
        t.check("EIO" not in process.stdout.text, "no error was seen")
    gone = origin()
    t.equal(gone.wait(20), 125, "with B away nobody knows whether it runs there")
    t.check(re.search("it was handed over to the standby at .*can't be asked.*--take-over", gone.stderr.text), "which is told")

    b.run([writer, "--expect", "/srv/shared/expected", str(ROUNDS), str(SEED)], 60)
    done = b.run([writer, "--compare", "/srv/third/tree", "/srv/shared/expected"], 60, check=False)
    t.equal(done.status, 0, f"the tree is what an undisturbed run makes: {done.stdout[-400:]}")


if __name__ == "__main__":
    harness.run(main)
