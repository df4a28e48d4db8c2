"""A Docker of the scenario's own: dockerd inside a host made of namespaces, and a Debian image for it.

No registry is needed: the image's root comes from debootstrap and is kept, without our programs, in
$SUPERVISE_CACHE (/var/cache/supervise). Those are copied into it as they were built here.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from harness import needs, system

# What the README and the Dockerfile say that a container needs for everything.
CAPABILITIES = ["SYS_ADMIN", "SYS_TIME", "NET_ADMIN", "SYS_PTRACE"]
UNCONFINED = ["--security-opt", "seccomp=unconfined"]
PRIVILEGES = [word for one in CAPABILITIES for word in ("--cap-add", one)] + UNCONFINED

DEFAULT_MIRROR = "http://deb.debian.org/debian"
CGROUPS, GROUP_PREFIX = Path("/sys/fs/cgroup"), "supervise-docker-"
# Nothing of this runs in a container, and each run unpacks the image anew.
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists",
          "var/cache/apt", "var/cache/debconf", "var/log")


def _output(argv):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout


def codename():
    return re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M).group(1)


def mirror(suite):
    """The Debian mirror that this machine's apt uses for `suite`."""
    targets = _output(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)"])
    found = re.search(rf"^Packages {suite} main (http\S+)", targets, re.M)
    return found.group(1).rstrip("/") if found else DEFAULT_MIRROR


def proxies():
    """The variables by which debootstrap and Python learn of a proxy, apt's own included."""
    found = {k: v for k, v in os.environ.items() if k.lower() in ("http_proxy", "https_proxy", "no_proxy")}
    own = re.search(r"^P='(http.*)'$", _output(["apt-config", "shell", "P", "Acquire::http::Proxy"]), re.M)
    return {**({"http_proxy": own.group(1)} if own else {}), **found}


def runtime_packages(programs):
    """The packages that own the libraries which these programs load."""
    libraries = set(re.findall(r"=> (/\S+) \(", _output(["ldd", *programs])))
    # dpkg knows a file by one of its two names, with or without /usr.
    names = [name for path in libraries for name in (path, path[4:] if path.startswith("/usr/") else f"/usr{path}")]
    owners = _output(["dpkg-query", "-S", *sorted(names)])
    return sorted(set(re.findall(r"^([a-z0-9.+-]+)(?::\w+)?: ", owners, re.M)))


def base_image(t, packages):
    """The path of a tar with a minimal Debian of this machine's release and `packages`."""
    suite = codename()
    cache = Path(os.environ.get("SUPERVISE_CACHE", "/var/cache/supervise"))
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    image = cache / f"container-{suite}-{key}.tar"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "container.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the scenario's deadline ends the wait
        if not image.exists():
            _debootstrap(t, suite, packages, image)
        os.utime(image)
        for other in cache.glob("container-*.tar"):  # of libraries that nobody links any more
            if time.time() - other.stat().st_mtime > 7 * 86400:
                other.unlink()
    return image


def _debootstrap(t, suite, packages, image):
    if not shutil.which("debootstrap", path=needs.search_path()):
        t.skip("debootstrap is not installed (scripts/setup.sh --tests installs it)")
    source, proxy = mirror(suite), proxies()
    os.environ.update(proxy)
    try:
        urllib.request.urlopen(f"{source}/dists/{suite}/Release", timeout=20).close()
    except (urllib.error.URLError, OSError) as error:
        t.skip(f"no base image in {image.parent}, and {source} can't be reached: {error}")
    t.say(f"debootstrap {suite} from {source} for {image}")
    root = t.work / "debootstrap"
    t.run(["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root), source],
          t.remaining() - 60, env=proxy)
    for folder in UNUSED:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
    partial = image.with_suffix(f".{os.getpid()}")
    try:
        t.run(["tar", "-C", str(root), "--one-file-system", "-cf", str(partial), "."], 60)
        partial.rename(image)
    finally:
        partial.unlink(missing_ok=True)
    shutil.rmtree(root)


class Docker:
    """dockerd on a host of its own: the network, mounts, sockets and files that it makes vanish with the
    host. Control groups are the machine's: they get a folder of this scenario's, removed at the end."""

    def __init__(self, t):
        self.t, self.host = t, t.host("docker")
        _sweep_groups()
        self.group = f"{GROUP_PREFIX}{os.getpid()}-{t.marker}"
        t.defer(_remove_groups, self.group)
        # dockerd and containerd write into /etc/docker and /opt/containerd whatever they are told.
        for folder in ("/etc", "/opt"):
            above = f"/srv/above{folder}"
            made = self.host.shell(f"mkdir -p {above}/upper {above}/work && mount -t overlay overlay "
                                   f"-o lowerdir={folder},upperdir={above}/upper,workdir={above}/work {folder}", check=False)
            if made.status != 0:
                t.skip(f"no overlay file system: {made.stderr.strip()}")
        self.host.mkdir("/run/docker-config")
        self.environment = {"DOCKER_CONFIG": "/run/docker-config"}
        self.daemon = self.host.start(
            ["dockerd", "--log-level", "error", "--data-root", "/srv/docker", "--exec-root", "/run/docker",
             "--pidfile", "/run/docker.pid", "--host", "unix:///run/docker.sock",
             "--bridge=none", "--iptables=false", "--ip6tables=false",
             "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.group}"],
            name="dockerd", stdio="files", env=self.environment)
        try:
            system.wait_until(self._answers, 60, "dockerd answers", pause=0.1)
        except TimeoutError as error:
            last = (self.daemon.stderr.text.strip().splitlines() or ["no word of why"])[-1]
            t.skip(f"dockerd does not run here: {error}: {last}")

    def _answers(self):
        if self.daemon.poll() is not None:
            raise TimeoutError(f"it ended with {self.daemon.poll()}")
        return self("version", check=False).status == 0

    def __call__(self, *arguments, seconds=60, check=True):
        """`docker ARGUMENTS` to its end: a Result."""
        return self.host.run(["docker", *map(str, arguments)], seconds, check, env=self.environment)

    def start(self, *arguments, name="docker", **more):
        """`docker ARGUMENTS` that goes on: a Process."""
        return self.host.start(["docker", *map(str, arguments)], name=name, env=self.environment, **more)

    def import_image(self, tar, name, files, change=()):
        """An image from a tar, with more files put into it: {path there: file here}."""
        self("import", tar, f"{name}-base", seconds=120)
        folders = sorted({os.path.dirname(there) for there in files})
        started = self("run", "--name", "base", f"{name}-base", "/bin/mkdir", "-p", *folders, check=False)
        if started.status != 0:
            self.t.skip(f"no container can be started here: {started.stderr.strip()}")
        for there, here in files.items():
            self("cp", "--follow-link", here, f"base:{there}")
        self("commit", *[word for one in change for word in ("--change", one)], "base", name)
        self("rm", "base")

    def wait_log(self, container, pattern, seconds=30):
        """Until what the container printed has a match of `pattern`."""
        return system.wait_until(lambda: re.search(pattern, self("logs", container).stdout, re.M), seconds,
                                 f"{container} prints {pattern!r}", pause=0.1)

    def print_logs(self):
        """What the containers said; those in the foreground are processes that the harness prints."""
        for box in self("ps", "-a", "--format", "{{.Names}}").stdout.split():
            said = self("logs", "--tail", "60", box, check=False)
            print(f"--- container {box}\n{said.stdout[-2000:]}{said.stderr[-4000:]}", flush=True)

    def exit_code(self, container):
        return json.loads(self("inspect", container).stdout)[0]["State"]["ExitCode"]


def _remove_groups(name):
    """Control groups are directories that go when nothing runs in them."""
    def gone():
        tops = [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:  # looked at again
                    pass
        return not any(top.exists() for top in tops)
    system.wait_until(gone, 10, f"the control groups {name} are empty")


def _sweep_groups():
    """Those of scenarios that were killed."""
    for name in {path.name for path in [*CGROUPS.glob(f"{GROUP_PREFIX}*"), *CGROUPS.glob(f"*/{GROUP_PREFIX}*")]}:
        owner = name[len(GROUP_PREFIX):].split("-")[0]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            _remove_groups(name)
