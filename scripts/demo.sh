#!/usr/bin/env bash
# Shows what supervise does: an application outlives its storage path and goes on on a second host.
# Sets up, builds the release program and runs scripts/demo.py; leaves nothing behind but the build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib/common.sh"

usage() {
  cat <<USAGE
usage: scripts/demo.sh [--no-setup] [writer | sqlite]...
  writer      a program of several processes and threads
  sqlite      SQLite in the middle of transactions; without a name, both
  --no-setup  do not install packages or build CRIU
environment:
  SUPERVISE_JOBS         compilers at a time              (the number of processors)
  SUPERVISE_CRIU_PREFIX  where scripts/setup.sh puts CRIU (/opt/supervise/criu)
USAGE
}

setup=1
declare -a which=()
for argument in "$@"; do
  case $argument in
    --no-setup) setup=0 ;;
    writer | sqlite) which+=("$argument") ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument $argument" ;;
  esac
done
jobs=${SUPERVISE_JOBS:-$(nproc)}
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "SUPERVISE_JOBS=$jobs is not a number"
[[ $EUID -eq 0 ]] || die "the demonstration makes hosts, devices and mounts" "run it as root"
cd "$here/.."
end_on_signals
[[ $setup -eq 0 ]] || run_limited 2400 "$here/setup.sh"
[[ -z ${SUPERVISE_CRIU_PREFIX:-} ]] ||
  export SUPERVISE_CRIU=${SUPERVISE_CRIU:-$SUPERVISE_CRIU_PREFIX/sbin/criu}

say "building build/release"
mkdir -p build
run_logged build/demo-configure.log 300 cmake --preset release ||
  die "cmake --preset release failed" "run scripts/setup.sh, or remove build/release"
run_limited 2400 cmake --build --preset release --parallel "$jobs" \
  --target supervise guest_writer faultdisk hostenter || die "the release build failed"

say "the demonstration"
unset SUPERVISE_BIN FAULT_BIN GUESTS
status=0
PYTHONPATH=$PWD/integration PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
  run_limited 200 /usr/bin/python3 "$here/demo.py" "${which[@]}" || status=$?
[[ $status -eq 0 ]] || die "the demonstration ended with status $status" \
  "build/release/supervise doctor says what this host lacks"
