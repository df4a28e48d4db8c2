"""A tree of C files that has a Makefile: musl's source from the distribution, kept under /var/tmp between runs; where it
can't be had, a generated one."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

CACHE = Path("/var/tmp/supervise-bench-source")
SOURCES = """Types: deb-src
URIs: {mirror}
Suites: {suite}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
GENERATED = 300


def _archives(directory):
    """Beside them lie their signatures."""
    return sorted(path for path in Path(directory).glob("musl_*.orig.tar.*") if path.suffix != ".asc")


def _download(cache):
    """One apt-get with lists of its own: the host's sources stay as they are."""
    release = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=cache) as work:
        for name in ("parts", "lists/partial"):
            os.makedirs(f"{work}/{name}")
        Path(work, "parts/source.sources").write_text(SOURCES.format(mirror="http://deb.debian.org/debian", suite=release["VERSION_CODENAME"]))
        apt = ["apt-get", "-q", "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={work}/parts", "-o",
               f"Dir::State::lists={work}/lists", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "APT::Sandbox::User=root",
               "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
        for words in (["update"], ["--download-only", "source", "musl"]):
            subprocess.run([*apt, *words], cwd=work, check=True, timeout=180, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        archive = _archives(work)[-1]
        shutil.move(archive, cache / archive.name)


def _generate(directory):
    (directory / "src").mkdir(parents=True)
    for n in range(GENERATED):
        (directory / "src" / f"f{n}.c").write_text(f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
                                                   f"int f{n}(const char* s) {{ return printf(\"%s\", s) + abs({n}) + (int)strlen(s); }}\n")
    objects = " ".join(f"obj/src/f{n}.o" for n in range(GENERATED))
    (directory / "Makefile").write_text(f"all: {objects}\nobj/%.o: %.c\n\t@mkdir -p $(@D)\n\tgcc -O2 -c -o $@ $<\n")
    return "a generated tree"


def prepare(directory):
    """Unpacks and configures it there; returns its name."""
    try:
        CACHE.mkdir(mode=0o755, exist_ok=True)
        if not _archives(CACHE):
            _download(CACHE)
        archive = _archives(CACHE)[-1]
        with tarfile.open(archive) as tar:
            tar.extractall(directory.parent / "unpacked")
        os.rename(next((directory.parent / "unpacked").iterdir()), directory)
        subprocess.run(["./configure"], cwd=directory, check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return f"musl {archive.name.split('_')[1].split('.orig')[0]}"
    except (OSError, LookupError, StopIteration, tarfile.TarError, subprocess.SubprocessError) as error:
        shutil.rmtree(directory.parent / "unpacked", ignore_errors=True)
        print(f"the source of musl can't be had ({error}): a tree is generated", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        return _generate(directory)


def objects(directory, quick):
    """What make is asked for: one folder or some, not all 1,300 files."""
    folders = ("string",) if quick else ("string", "stdio", "stdlib", "time", "unistd", "misc")
    sources = [source for folder in folders for source in sorted((directory / "src" / folder).glob("*.c"))]
    sources = sources or sorted((directory / "src").glob("*.c"))[:60 if quick else None]
    return " ".join(f"obj/{source.relative_to(directory).with_suffix('.o')}" for source in sources)
