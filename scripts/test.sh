#!/usr/bin/env bash
# Sets up, builds and runs every test: all of ctest on the release build, then the unit tests under
# ASan and UBSan. Ends with status 0 only when all passed and nothing was left on the machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/lib/common.sh"
. "$here/lib/census.sh"

usage() {
  cat <<USAGE
usage: scripts/test.sh [--long] [--no-setup] [-R REGEX]
  --long      also the tests with the label long
  --no-setup  do not look for missing packages and CRIU first
  -R REGEX    only the tests whose names match
environment:
  SUPERVISE_JOBS  parallel compilers and tests (the number of processors)
USAGE
}

preset=release setup=1 limit=1500
declare -a select=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --long) preset=long limit=10800 ;;
    --no-setup) setup=0 ;;
    -R)
      [[ $# -ge 2 ]] || die "-R needs a regular expression"
      select=(-R "$2")
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done

jobs=${SUPERVISE_JOBS:-$(nproc)}
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "SUPERVISE_JOBS=$jobs is not a number"
cd "$here/.."
end_on_signals
[[ $setup -eq 0 ]] || run_limited 2400 "$here/setup.sh" --tests
[[ -z ${SUPERVISE_CRIU_PREFIX:-} ]] ||
  export SUPERVISE_CRIU=${SUPERVISE_CRIU:-$SUPERVISE_CRIU_PREFIX/sbin/criu}

work=$(mktemp -d /tmp/supervise-tests.XXXXXX)
SUPERVISE_TEST_RUN=$(basename "$work")
export SUPERVISE_TEST_RUN

declare -a failed=()
finish() {
  local status=$?
  trap - EXIT
  trap "" INT TERM HUP
  local left pid
  say "taking the census"
  if left=$(census_compare "$work/census" "$SUPERVISE_TEST_RUN"); then
    note "nothing was left behind"
  else
    failed+=("the census: left behind")
    printf '%s\n' "$left" | sed 's/^/    left behind: /'
    # Only what carries this run's mark is ended.
    for pid in $(census_ours "$SUPERVISE_TEST_RUN" | sed -n 's/^process: pid \([0-9]*\).*/\1/p'); do
      kill -KILL "$pid" 2>/dev/null || true
    done
  fi
  if [[ -s $work/summary ]]; then
    say "summary"
    sed 's/^/    /' "$work/summary"
  fi
  rm -rf "$work"
  if [[ $status -ne 0 || ${#failed[@]} -gt 0 ]]; then
    for what in "${failed[@]}"; do printf 'FAILED: %s\n' "$what"; done
    [[ $status -ne 0 ]] || status=1
    printf 'FAILED after %s s\n' "$SECONDS"
    exit "$status"
  fi
  printf 'PASSED in %s s\n' "$SECONDS"
}
census_save "$work/census" || { rm -rf "$work"; exit 1; }
trap finish EXIT

build() {
  say "building $1"
  run_logged "$work/configure" 300 cmake --preset "$1" ||
    die "cmake --preset $1 failed" "run scripts/setup.sh, or remove build/$1"
  run_limited 1800 cmake --build --preset "$1" --parallel "$jobs" ||
    die "the $1 build failed"
}

# test_preset PRESET SECONDS: runs ctest, remembers its last lines and a failure. A test that fails is
# run once more, since real faults on a shared machine have deadlines; the summary names it, pass or not.
test_preset() {
  local status=0
  say "testing $1"
  : >"$work/output"
  run_limited "$2" ctest --preset "$1" --parallel "$jobs" --output-log "$work/output" \
    --repeat until-pass:2 "${select[@]}" || status=$?
  {
    printf '%s:\n' "$1"
    sed -n '/tests passed\|No tests were found/,$p' "$work/output"
    sed -n 's/^.*Test *#[0-9]*: \([^ ]*\) .*\*\*\*\(Failed\|Timeout\|Exception\).*/\1/p' "$work/output" | sort -u |
      sed 's/^/  failed at the first attempt: /'
  } >>"$work/summary"
  [[ $status -ne 124 && $status -ne 137 ]] || printf '  stopped after %s s\n' "$2" >>"$work/summary"
  [[ $status -eq 0 ]] || failed+=("ctest --preset $1 (status $status)")
}

build release
test_preset "$preset" "$limit"
build asan
test_preset asan 600
