"""supervise as the entrypoint of containers: exit status, signals, orphans and privileges; a container whose
storage fails hands its application over to a second container, and the data is what it should be; a container
whose application is woken in a second one."""

import json
import re
import sys
from pathlib import Path

import harness
from harness import needs

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import engine  # noqa: E402
from engine import CAPABILITIES, PRIVILEGES, UNCONFINED  # noqa: E402

ROUNDS, SEED = 60, 7
ZOMBIES = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '; true"


def make_docker(t):
    criu = needs.criu_binary()
    # The command is a small program that runs the one which belongs to it.
    main_program = Path(t.supervise_binary()).resolve().parent.parent / "libexec/supervise/supervise-main"
    programs = {"/usr/local/bin/supervise": t.supervise_binary(), "/usr/local/bin/criu": criu,
                "/usr/local/libexec/supervise/supervise-main": main_program,
                "/usr/local/bin/writer": t.guest_path("writer"), "/usr/local/bin/faultdisk": t.tool("faultdisk")}
    base = engine.base_image(t, engine.runtime_packages(programs.values()))
    docker = engine.Docker(t)
    docker.import_image(base, "supervise", programs, ['ENTRYPOINT ["supervise"]'])
    t.say("docker runs and has the image")
    return docker


def documented(t, _docker):
    for name in ("README.md", "Dockerfile"):
        text = re.sub(r"\\\n[# ]*", "", (harness.scenario.REPOSITORY / name).read_text())
        t.check(f" {' '.join(PRIVILEGES)} " in text, f"{name} names the privileges that are tried here")


def supervised(docker, container):
    done = docker("exec", container, "supervise", "status", "app", "--json", check=False)
    return json.loads(done.stdout) if done.status == 0 else {"keeper": 0}


def entrypoint(t, docker):
    got = docker("run", "--rm", *PRIVILEGES, "supervise", "--", "sh", "-c", "echo alive; exit 19", check=False)
    t.equal((got.status, got.stdout, got.stderr), (19, "alive\n", ""), "output and exit status are the application's")
    got = docker("run", "--rm", *PRIVILEGES, "supervise", "--", "sh", "-c", "kill -KILL $$", check=False)
    t.equal(got.status, 137, "a signal that ended it becomes 128 + 9")
    got = docker("run", "--rm", *PRIVILEGES, "supervise", "--", "/no/such", check=False)
    t.equal(got.status, 127, "a program that is not there")

    docker("run", "--detach", "--name", "signals", *PRIVILEGES, "supervise", "--name", "app", "--",
           "sh", "-c", "trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    docker.wait_log("signals", "^up$")
    t.equal(docker("exec", "signals", "cat", "/proc/1/comm").stdout, "supervise\n", "supervise is PID 1")
    # An orphan of another program in the container is left to its PID 1, whose child it never was.
    docker("exec", "signals", "sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.1 & exit 0); done; sleep 0.3")
    harness.system.wait_until(lambda: docker("exec", "signals", "sh", "-c", ZOMBIES).stdout == "0\n", 10,
                              "orphans of the container are reaped")
    t.say("ok: orphans of other programs in the container are reaped")
    for _ in range(2):
        harness.system.wait_until(lambda: supervised(docker, "signals")["keeper"] > 0, 10, "a keeper stands")
        former = supervised(docker, "signals")["pid"]
        docker("exec", "signals", "sh", "-c", f"kill -KILL {former}")
        harness.system.wait_until(lambda: supervised(docker, "signals").get("took_over_from") == former, 20, "it takes over")
    t.say("ok: the container goes on when its supervisor is killed, and its keeper")
    docker("stop", "--time", "30", "signals")
    t.equal(docker.exit_code("signals"), 5, "docker stop: SIGTERM reached the application")
    t.check("term\n" in docker("logs", "signals").stdout, "and its handler ran")

    script = f"for i in 1 2 3 4 5 6 7 8; do (sh -c 'sleep 0.1 & exit 0' &); done; sleep 0.6; {ZOMBIES}; (setsid sleep 300 &); exit 3"
    got = docker("run", "--rm", *PRIVILEGES, "supervise", "--", "sh", "-c", script, check=False)
    t.equal((got.status, got.stdout), (3, "0\n"), "the application's orphans are reaped, and end with it")

    one = docker.start("run", "--rm", "--interactive", "--tty", *PRIVILEGES, "supervise", "--",
                       "sh", "-c", "test -t 0 && test -t 1 && echo on a terminal; read x; echo got $x; exit 7", stdio="tty", name="terminal")
    one.wait_line("on a terminal", 20)
    one.write("hello\n")
    one.wait_line("got hello", 20)
    t.equal(one.wait(20), 7, "a container's terminal")

    # Killed without a word, the container can be started again: nothing old is in the way.
    docker("run", "--detach", "--name", "again", *PRIVILEGES, "supervise", "--name", "app", "--", "sh", "-c",
           "echo up; while :; do sleep 0.05; done")
    docker.wait_log("again", "^up$")
    docker("kill", "again")
    docker("start", "again")
    docker.wait_log("again", "^up\n(.*\n)*up$")
    t.check("app" in docker("exec", "again", "supervise", "status").stdout, "a container that was killed starts again")
    docker("rm", "--force", "again", "signals")


def privileges(t, docker):
    got = docker("run", "--rm", *PRIVILEGES, "supervise", "doctor", check=False)
    t.check(got.status == 0, f"the doctor is content with {' '.join(PRIVILEGES)}" if got.status == 0 else str(got))
    for capability in CAPABILITIES:
        rest = [word for one in CAPABILITIES if one != capability for word in ("--cap-add", one)]
        got = docker("run", "--rm", *rest, *UNCONFINED, "supervise", "doctor", check=False)
        t.check(got.status == 1 and f"FAIL capability.{capability} " in got.stdout, f"without {capability} it names it")
    rest = [word for one in CAPABILITIES for word in ("--cap-add", one)]
    got = docker("run", "--rm", *rest, "supervise", "doctor", check=False)
    t.check(got.status == 1 and "seccomp=unconfined" in got.stdout, "with the default seccomp profile it names that")
    got = docker("run", "--rm", "supervise", "--", "sh", "-c", "exit 24", check=False)
    t.check(got.status == 24 and "--cap-add SYS_ADMIN" in got.stderr, "with no privileges it supervises, and tells what is missing")


def judge(t, docker, tree, a, b):
    """After the hand-over: who ended how, and whether the tree is that of an undisturbed run."""
    t.equal(a.wait(60), 113, "container A says that it handed the application over")
    t.equal(b.wait(60), 0, "in container B the application ended as it would have")
    t.check("handover.resumed" in b.stderr.text, "the first good I/O in B was seen")
    for name, one in (("A", a), ("B", b)):
        t.check("EIO" not in one.stdout.text and "FAIL" not in one.stdout.text, f"no error was seen in {name}")
    volume = ["--rm", "--entrypoint", "writer", "--volume", "/srv/expected:/srv/expected"]
    docker("run", *volume, "supervise", "--expect", "/srv/expected/tree", ROUNDS, SEED)
    got = docker("run", *volume, "--volume", f"{tree}:/srv/seen", "supervise", "--compare", "/srv/seen/tree", "/srv/expected/tree", check=False)
    t.check(got.status == 0, "the data is identical to an undisturbed run's" if got.status == 0 else str(got)[-1000:])
    docker.host.shell("rm -rf /srv/expected/tree")


def volumes(t, docker):
    """A network file system's way: both paths are volumes from the start, and the first begins to fail. What
    its client had not written back is truly absent on the second."""
    host = docker.host
    nas = harness.FuseDirectory(t, host, "/srv/nas1", writeback=True)
    for way in ("/srv/nas2", "/srv/nas3"):
        nas.mount_direct(host, way)
    images = ["--volume", "/srv/images:/srv/images"]
    b = docker.start("run", "--name", "volumes-b", *PRIVILEGES, *images, "--volume", "/srv/nas3:/srv/third", "supervise",
                     "standby", "--name", "app", "--path", "data=/srv/third", "--from", "dir:/srv/images", name="B")
    a = docker.start("run", "--name", "volumes-a", *PRIVILEGES, *images, "--volume", "/srv/nas1:/srv/first",
                     "--volume", "/srv/nas2:/srv/second", "supervise", "--name", "app", "--path", "data=/srv/first,/srv/second",
                     "--standby", "dir:/srv/images", "--", "writer", "/srv/first/tree", ROUNDS, SEED, "--delay", "30", name="A")
    a.wait_line("round 10", 30, "stdout")
    nas.fail("all", "EIO")
    judge(t, docker, "/srv/nas2", a, b)


def devices(t, docker):
    """A block device's way: ext4, mounted by the host on the first path and given as a volume, fails for good.
    The second and third are devices of the containers, mounted by --path-up once the former is given up."""
    host = docker.host
    host.mkdir("/srv/shared/images")
    disk = t.failing_disk("ext4")
    disk.mount_first(host, "/srv/disk1")
    up2, down2 = disk.path_up_script("second", "/srv/second"), disk.path_down_script("second", "/srv/second")
    up3 = disk.path_up_script("third", "/srv/third")
    second, third = disk.way("second").device, disk.way("third").device
    # The scripts, what they log and the fault's socket lie in the work directory.
    common = [*PRIVILEGES, "--volume", "/srv/shared/images:/srv/images", "--volume", f"{t.work}:{t.work}",
              "--volume", f"{t.tool('')}:{t.tool('')}:ro", "--device", second,
              "--tmpfs", "/srv/second", "--tmpfs", "/srv/third"]
    b = docker.start("run", "--name", "devices-b", *common, "--device", third, "supervise", "standby", "--name", "app",
                     "--path", "data=/srv/third", "--path-up", f"data={up3}", "--from", "dir:/srv/images", name="B")
    a = docker.start("run", "--name", "devices-a", *common, "--volume", "/srv/disk1:/srv/first", "supervise", "--name", "app",
                     "--path", "data=/srv/first,/srv/second", "--path-up", f"data={up2}",
                     "--path-down", f"data=if [ \"$SUPERVISE_REASON\" = handover ]; then {down2}; fi",
                     "--standby", "dir:/srv/images", "--", "writer", "/srv/first/tree", ROUNDS, SEED, "--delay", "30", name="A")
    a.wait_line("round 10", 30, "stdout")
    disk.fail("all", "EIO")
    a.wait(60)
    b.wait(60)
    disk.mount(host, "/srv/disk3", "third")
    judge(t, docker, "/srv/disk3", a, b)


def planned(t, docker):
    """`supervise handover` in A; the application in B is still that of the container: a stop reaches it."""
    images = ["--volume", "/srv/planned:/srv/images"]
    docker("run", "--detach", "--name", "planned-b", *PRIVILEGES, *images, "--volume", "/srv/data:/srv/there", "supervise",
           "standby", "--name", "app", "--path", "data=/srv/there", "--from", "dir:/srv/images")
    docker("run", "--detach", "--name", "planned-a", *PRIVILEGES, *images, "--volume", "/srv/data:/srv/here", "supervise",
           "--name", "app", "--path", "data=/srv/here", "--standby", "dir:/srv/images", "--",
           "sh", "-c", "trap 'echo term; exit 5' TERM; cd /srv/here; i=0; while :; do i=$((i + 1)); echo beat $i; echo $i >> beats; sleep 0.05; done")
    docker.wait_log("planned-a", "^beat 5$")
    docker("exec", "planned-a", "supervise", "handover", "app")
    t.equal(docker("wait", "planned-a").stdout, "113\n", "a planned hand-over ends A with 113")
    docker.wait_log("planned-b", "^beat ")
    docker("stop", "--time", "30", "planned-b")
    t.equal(docker.exit_code("planned-b"), 5, "docker stop of B: SIGTERM reached the application")
    beats = docker.host.path("/srv/data/beats").read_text().split()
    t.equal(beats, [str(i + 1) for i in range(len(beats))], "each record is there once, in order")


# Writes down who connects and what is said.
PEER = """use IO::Socket::INET; $| = 1;
my $s = IO::Socket::INET->new(LocalPort => 7000, Listen => 9, ReuseAddr => 1) or die; print "listening\\n";
while (my $c = $s->accept) { my $l = <$c>; print "connection from ", $c->peerhost, ": $l"; }"""
SERVICE = """echo once >> /srv/images/initialized; for i in {1..20000}; do table[i]=$((i * i)); done; echo initialized
exec 3<>/dev/tcp/%s/7000; echo "${#table[@]} entries" >&3; echo connected"""


def warm(t, docker):
    """Two containers on a private network: A's application stops before its first connection and leaves its
    image; A is killed; B wakes its copy, and the connection comes from there, for the first time and once."""
    address = {name: f"172.30.97.{10 + i}" for i, name in enumerate(("peer", "a", "b"))}
    docker("network", "create", "--subnet", "172.30.97.0/24", "private")

    def place(name):
        return ["--name", f"warm-{name}", "--network", "private", "--ip", address[name]]
    images = ["--volume", "/srv/warm:/srv/images"]
    docker("run", "--detach", *place("peer"), "--entrypoint", "perl", "supervise", "-e", PEER)
    docker.wait_log("warm-peer", "^listening$")
    b = docker.start("run", *place("b"), *PRIVILEGES, *images, "supervise", "standby", "--name", "svc",
                     "--from", "dir:/srv/images", "--ready", "parked", "--activate", "command", name="B")
    b.wait_line("standby.ready", 30, "stderr")
    # It is killed with its image complete, before the held call goes on there.
    a = docker.start("run", *place("a"), *PRIVILEGES, *images, "--env", "SUPERVISE_FAULT_POINTS=image.renamed=hang", "supervise",
                     "--name", "svc", "--warm-point", "auto", "--standby", "dir:/srv/images", "--",
                     "bash", "-c", SERVICE % address["peer"], name="A")
    a.wait_line(rf"warm\.stopped.*tcp {address['peer']}:7000", 60, "stderr")
    b.wait_line(r"standby\.parked", 60, "stderr")
    docker("kill", "warm-a")
    t.equal(a.wait(30), 137, "container A is killed")
    t.equal(docker("logs", "warm-peer").stdout, "listening\n", "nobody has spoken to the peer")
    t.check("image" in docker("exec", "warm-b", "supervise", "activate", "svc").stdout, "it is woken in B")
    t.equal(b.wait(60), 0, "the application comes to its end in B")
    t.check("connected" in b.stdout.text and "initialized" not in b.stdout.text, "it went on where it was")
    t.equal(docker("logs", "warm-peer").stdout, f"listening\nconnection from {address['b']}: 20000 entries\n",
            "the peer saw one connection, from B")
    t.equal(docker.host.path("/srv/warm/initialized").read_text(), "once\n", "it was initialized once")
    docker("rm", "--force", "warm-peer", "warm-a", "warm-b")
    docker("network", "rm", "private")


def main(t):
    docker = make_docker(t)
    try:
        for part in (documented, entrypoint, privileges, volumes, devices, planned, warm):
            t.say(f"--- {part.__name__}")
            part(t, docker)
    except (AssertionError, TimeoutError):
        docker.print_logs()
        raise


harness.run(main)
