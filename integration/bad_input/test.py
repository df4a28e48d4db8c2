"""Wrong options, rules, paths and images are refused by name with 125 before anything starts; a full store, a
CRIU that hangs and a standby that refuses leave the application running, and the log says so."""

import json
import re

import harness

DATA, STORE = "/srv/data", "/srv/store"

WRONG = [  # arguments, what the message must name
    (["--nonsense", "--", "true"], "nonsense"),
    (["--path", "data", "--", "true"], "--path"),
    (["--path", "data=/srv/nowhere", "--", "true"], "/srv/nowhere"),
    (["--path", "data=relative", "--", "true"], "relative"),
    (["--path", f"data={DATA}", "--path", f"data={DATA}", "--", "true"], "data"),
    (["--path-up", "other=true", "--path", f"data={DATA}", "--", "true"], "other"),
    (["--on", "*:read:EIO=retry(3", "--", "true"], "--on"),
    (["--on", "*:nocall:EIO=report", "--", "true"], "nocall"),
    (["--on", "*:read:ENOTHING=report", "--", "true"], "ENOTHING"),
    (["--on", "*:read:EIO=fly", "--", "true"], "fly"),
    (["--journal", "some", "--", "true"], "some"),
    (["--journal-limit", "many", "--", "true"], "many"),
    (["--tcp", "maybe", "--", "true"], "maybe"),
    (["--handover-exit-code", "126", "--", "true"], "126"),
    (["--standby", "dir:/srv/nowhere", "--", "true"], "/srv/nowhere"),
    (["--log-level", "loud", "--", "true"], "loud"),
    (["--config", "/srv/nowhere.conf", "--", "true"], "/srv/nowhere.conf"),
    (["standby", "--name", "x"], "--from"),
    (["restore"], "IMAGE"),
    (["restore", "/srv/nowhere"], "/srv/nowhere"),
    (["images", "inspect", "/srv/nowhere"], "/srv/nowhere"),
    (["--name", "a/b", "--", "true"], "a/b"),
    ([], ""),
]


def options(t, host):
    program = t.supervise_binary()
    for words, names in WRONG:
        done = host.run([program, *[word.replace("true", "/srv/started") if word == "true" else word for word in words]],
                        20, check=False)
        t.check(done.status == 125 and names in done.stderr, f"`supervise {' '.join(words)}`: {done.status}, "
                f"{done.stderr.strip().splitlines()[:1]}")
    for descriptor in ("9</etc/passwd", "9<&-"):  # not what a supervisor leaves for the one that adopts
        done = host.shell(f"SUPERVISE_SUCCESSION=9 {program} -- /srv/started {descriptor}", 20, check=False)
        t.check(done.status == 125 and "unset it" in done.stderr, done.stderr.strip())
    t.check(not host.path("/srv/ran").exists(), "nothing was started")
    t.equal(host.run([program, "--", "/srv/none"], 20, check=False).status, 127, "a program that is not there: 127")
    t.equal(host.run([program, "--", "/srv/data"], 20, check=False).status, 126, "one that can't be executed: 126")


def start(t, host, name="app", env=None, more=()):
    app = host.supervise(["--name", name, "--images", STORE, "--path", f"data={DATA}", *more, "--", "/bin/sh", "-c",
                          f"i=0; while :; do i=$((i+1)); echo tick $i; echo $i >> {DATA}/{name}.ticks; sleep 0.1; done"],
                         stdio="files", name=name, env=env)
    app.wait_line("tick 2", 20, "stdout")
    return app


def goes_on(t, app, why):
    before = app.stdout.text.count("tick")
    harness.wait_until(lambda: app.stdout.text.count("tick") > before + 1, 15, f"the application goes on ({why})")
    t.check(True, f"the application goes on ({why})")


def control(t, host):
    program = t.supervise_binary()
    app = start(t, host)
    second = host.run([program, "--name", "app", "--", "/srv/started"], 20, check=False)
    t.check(second.status == 125 and "app" in second.stderr, f"a second supervisor of this name: {second.stderr.strip()}")
    sockets = host.shell("find /run /tmp /var/run -type s -path '*supervise*' -exec stat -c '%a %U %n' {} +", check=False).stdout
    t.check(re.match(r"600 root .*app", sockets), f"its control socket is the owner's only: {sockets.strip()}")
    told = json.loads(host.run([program, "status", "app", "--json"], 20).stdout)
    t.check(told["name"] == "app" and told["paths"][0]["place"] == DATA and told["threads"] >= 1, "status --json")
    t.check("app" in host.run([program, "status"], 20).stdout, "status as text")
    done = host.run([program, "status", "nobody"], 20, check=False)
    t.check(done.status != 0 and "nobody" in done.stderr, f"status of a name that is not there: {done.stderr.strip()}")
    done = host.run([program, "handover", "app"], 30, check=False)
    t.check(done.status == 1, f"a hand-over without a standby: {done.stderr.strip()}")
    goes_on(t, app, "after a refused hand-over")
    t.equal(host.run([program, "checkpoint", "app"], 60).status, 0, "checkpoint")
    goes_on(t, app, "after a checkpoint")
    return app


def images(t, host, app):
    program = t.supervise_binary()
    listed = host.run([program, "images", "list", "--images", STORE], 20).stdout
    t.check("app" in listed, f"images list: {listed.strip().splitlines()[-1]}")
    image = host.shell(f"ls -d {STORE}/app/gen-*").stdout.split()[0]
    inspected = host.run([program, "images", "inspect", image, "--json"], 20).stdout
    t.check(json.loads(inspected) and "/bin/sh" in inspected and DATA in inspected, "images inspect --json")
    host.run([program, "images", "verify", image], 20)
    app.signal(15)
    app.wait(20)
    manifest = json.loads(host.path(f"{image}/manifest.json").read_text())
    parts = [part["name"] for part in manifest["parts"]]
    t.check(len(parts) > 5, f"{len(parts)} parts")
    for part in parts:
        copy = "/srv/copy/gen-000001"
        host.shell(f"rm -rf /srv/copy; mkdir /srv/copy; cp -r {image} {copy}; "
                   f"printf '\\377' | dd of={copy}/{part} bs=1 seek=3 conv=notrunc 2>/dev/null; "
                   f"cmp -s {image}/{part} {copy}/{part} && printf '\\1' | dd of={copy}/{part} bs=1 seek=3 conv=notrunc 2>/dev/null; true")
        done = host.run([program, "images", "verify", copy], 20, check=False)
        if done.status == 0 or part not in done.stdout + done.stderr:
            raise AssertionError(f"a touched {part} was not refused by name: {done}")
    t.check(True, "each part that was touched is named and refused")
    for spoil, names in ((f"rm /srv/copy/gen-000001/{parts[0]}", parts[0]),
                         (f"truncate -s 1 /srv/copy/gen-000001/{parts[-1]}", parts[-1]),
                         ("truncate -s 100 /srv/copy/gen-000001/manifest.json", "manifest"),
                         ("rm /srv/copy/gen-000001/manifest.json", "manifest")):
        host.shell(f"rm -rf /srv/copy; mkdir /srv/copy; cp -r {image} /srv/copy/gen-000001; {spoil}")
        done = host.run([program, "restore", "/srv/copy/gen-000001", "--path", f"data={DATA}"], 20, check=False)
        t.check(done.status == 125 and names in done.stderr, f"restore after `{spoil}`: {done.stderr.strip()[-160:]}")
    done = host.run([program, "restore", image], 20, check=False)
    t.check(done.status == 125 and "data" in done.stderr, f"restore without the image's path: {done.stderr.strip()[-160:]}")


def full_store_and_hanging_criu(t, host):
    program = t.supervise_binary()
    host.run(["umount", STORE], 20)
    host.mount("tmpfs", STORE, "tmpfs", "size=200k")
    app = start(t, host, "small")
    done = host.run([program, "checkpoint", "small"], 60, check=False)
    t.check(done.status == 1 and re.search("ENOSPC|No space|criu dump", done.stderr), f"a full store: {done.stderr.strip()[-300:]}")
    goes_on(t, app, "although the store is full")
    app.signal(15)
    app.wait(20)
    host.umount(STORE)
    host.mount("tmpfs", STORE, "tmpfs")
    wrapper = t.shared / "criu.sh"
    wrapper.write_text(f'#!/bin/bash\n[ "$1" = dump ] && exec sleep 600\nexec {harness.criu_binary()} "$@"\n')
    wrapper.chmod(0o755)
    app = start(t, host, "slow", {"SUPERVISE_CRIU": "/srv/shared/criu.sh", "SUPERVISE_CRIU_DEADLINE": "2"})
    done = host.run([program, "checkpoint", "slow"], 60, check=False)
    t.check(done.status == 1 and "criu dump" in done.stderr, f"a CRIU that hangs: {done.stderr.strip()[-300:]}")
    goes_on(t, app, "although CRIU hangs")
    app.signal(15)
    app.wait(20)
    done = host.run([program, "--images", STORE, "--", "/bin/true"], 20, check=False, env={"SUPERVISE_CRIU": "/srv/none"})
    t.check(done.status == 0 and "/srv/none" in done.stderr, f"a CRIU that is not there is told of: {done.stderr.strip()[-160:]}")


def main(t):
    host = t.host("one")
    for directory in (DATA, STORE):
        host.mount("tmpfs", directory, "tmpfs")
    started = host.path("/srv/started")
    started.write_text("#!/bin/sh\ntouch /srv/ran\n")
    started.chmod(0o755)
    options(t, host)
    app = control(t, host)
    images(t, host, app)
    full_store_and_hanging_criu(t, host)


harness.run(main)
