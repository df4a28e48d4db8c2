#!/usr/bin/env bash
# Makes a Debian 12 or 13 host ready to build and run supervise: installs the packages that are
# missing and builds CRIU into a prefix of its own. Safe to repeat; a second run changes nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib/common.sh"
. "$here/lib/packages.sh"
. "$here/lib/criu.sh"
. "$here/lib/new_glibc.sh"

usage() {
  cat <<USAGE
usage: scripts/setup.sh [--tests] [--criu-only] [--no-smoke]
  --tests      also install what only the tests need (redis, nginx, node, a JVM, docker, ...)
  --criu-only  only CRIU and what its build needs
  --no-smoke   do not try a dump and restore at the end (as in an image build without privileges)
environment:
  SUPERVISE_CRIU_PREFIX  where CRIU goes                   (/opt/supervise/criu)
  SUPERVISE_CACHE        tarball, built tree, logs, ccache, the containers' base (/var/cache/supervise)
  SUPERVISE_CRIU_RUNDIR  CRIU's cache of kernel probes     (/dev/shm/supervise, root's own)
USAGE
}

tests=0 criu_only=0 smoke=1
for argument in "$@"; do
  case $argument in
    --tests) tests=1 ;;
    --criu-only) criu_only=1 ;;
    --no-smoke) smoke=0 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown option $argument" ;;
  esac
done

prefix=${SUPERVISE_CRIU_PREFIX:-/opt/supervise/criu}
cache=${SUPERVISE_CACHE:-/var/cache/supervise}
[[ $prefix == /* ]] || die "SUPERVISE_CRIU_PREFIX=$prefix is not an absolute path"
[[ $cache == /* ]] || die "SUPERVISE_CACHE=$cache is not an absolute path"
[[ $EUID -eq 0 ]] || die "scripts/setup.sh installs packages and CRIU" "run it as root"
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
  die "this is not a Debian host" "use Debian 12 or 13, or the Dockerfile"
[[ $(dpkg --print-architecture) == amd64 ]] || die "supervise is for x86-64 only"
mkdir -p "$cache"
end_on_signals
take_lock "$cache/lock" 1800

packages=("${PACKAGES_CRIU[@]}")
[[ $criu_only -eq 1 ]] || packages+=("${PACKAGES_BUILD[@]}" "${PACKAGES_RUN[@]}")
if [[ $tests -eq 1 ]]; then
  packages+=("${PACKAGES_TESTS[@]}")
  client=$(docker_client_package)
  [[ -z $client ]] || packages+=("$client")
  suite=$(python_testsuite_package)
  [[ -z $suite ]] || packages+=("$suite")
fi
install_packages "$cache/apt.log" "${packages[@]}"
build_criu "$cache" "$prefix"
[[ $tests -eq 0 ]] || fetch_new_glibc "$cache"
if [[ $smoke -eq 1 ]]; then
  smoke_criu "$prefix" "$cache" "$here"
fi
say "ready: $("$prefix/sbin/criu" --version | head -n 1 | sed 's/^Version: /CRIU /') in $prefix"
