# Shared by the scripts: progress lines, errors with the way out, the setup lock.
# Source it; it defines functions only.

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die MESSAGE [WAY OUT]: one line says what failed, a second one what to do about it.
die() {
  printf 'error: %s\n' "$1" >&2
  [[ $# -lt 2 ]] || printf '  way out: %s\n' "$2" >&2
  exit 1
}

# run_limited SECONDS COMMAND...: without a terminal; a signal that ends the script (see
# end_on_signals) ends the command too. Status 124 or 137: it was stopped after SECONDS.
limited_pid=
run_limited() {
  local seconds=$1 status=0
  shift
  # The shell ignores SIGINT and SIGQUIT in what it starts in the background: undo that.
  timeout --foreground --kill-after=10 "$seconds" env --default-signal=INT,QUIT "$@" </dev/null &
  limited_pid=$!
  wait "$limited_pid" || status=$?
  limited_pid=
  return "$status"
}

end_on_signals() {
  trap 'end_limited; exit 130' INT
  trap 'end_limited; exit 143' TERM
  trap 'end_limited; exit 129' HUP
}
end_limited() {
  [[ -n $limited_pid ]] || return 0
  kill -TERM "$limited_pid" 2>/dev/null || true
  wait "$limited_pid" 2>/dev/null || true
}

# run_logged LOG SECONDS COMMAND...: the command's output goes to LOG; when it fails or exceeds its
# time, the last lines of LOG are shown.
run_logged() {
  local log=$1 seconds=$2 status=0
  shift 2
  run_limited "$seconds" "$@" >"$log" 2>&1 || status=$?
  [[ $status -ne 0 ]] || return 0
  if [[ $status -eq 124 || $status -eq 137 ]]; then
    printf 'error: "%s" was stopped after %s s\n' "$*" "$seconds" >&2
  else
    printf 'error: "%s" ended with status %s\n' "$*" "$status" >&2
  fi
  tail -n 25 "$log" >&2
  printf '  whole output: %s\n' "$log" >&2
  return "$status"
}

# take_lock FILE SECONDS: holds an exclusive lock on FILE (descriptor 9) until the script ends.
take_lock() {
  exec 9>>"$1" || die "cannot open the lock file $1" "run as root, or set SUPERVISE_CACHE"
  if ! flock -n 9; then
    say "another setup is running; waiting for it (at most $2 s)"
    flock -w "$2" 9 || die "the lock $1 was still held after $2 s" \
      "see who holds it with: fuser -v $1"
  fi
}
