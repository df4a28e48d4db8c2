# What a test run must not leave on the machine. census_save FILE writes what there is now, one line
# a thing; census_compare FILE prints what has come since. A thing that is only slow to go (a loop
# device on autoclear, a lazy unmount) has some seconds for it.

census_mounts() {
  # Device numbers and ids differ from mount to mount; root, place, type and source name it.
  awk '{ for (i = 7; $i != "-"; i++); print "mount: " $5 " (" $(i + 1) " of " $(i + 2) ", root " $4 ")" }' \
    /proc/self/mountinfo
}

# Connections that no mount of ours shows: in other mount namespaces, or unmounted but still held.
census_fuse() {
  local dir
  for dir in /sys/fs/fuse/connections/*/; do
    [[ ! -d $dir ]] || printf 'FUSE connection: %s\n' "$(basename "$dir")"
  done
}

census_loops() {
  local file device
  for file in /sys/block/loop*/loop/backing_file; do
    [[ -r $file ]] || continue
    device=${file#/sys/block/}
    printf 'loop device: /dev/%s over %s\n' "${device%%/*}" "$(cat "$file" 2>/dev/null)"
  done
}

census_device_mapper() {
  local file
  for file in /sys/block/dm-*/dm/name; do
    [[ ! -r $file ]] || printf 'device-mapper device: %s\n' "$(cat "$file" 2>/dev/null)"
  done
}

# Thread states matter: one thread of a process can be left stopped.
census_stopped() {
  local file pid line name state
  for file in /proc/[0-9]*/task/[0-9]*/stat; do
    # A thread may end at any moment. `read` fails at the end of the file, but has filled the line.
    line=
    { read -r -d '' line <"$file"; } 2>/dev/null || [[ -n $line ]] || continue
    state=${line##*) }
    [[ ${state%% *} == [Tt] ]] || continue
    pid=${file#/proc/}
    name=${line#*(}
    printf 'stopped (state %s): pid %s, thread %s, %s\n' "${state%% *}" "${pid%%/*}" "${line%% *}" \
      "${name%%)*}"
  done
}

census_netns() {
  local file
  for file in /run/netns/* /var/run/netns/*; do
    [[ ! -e $file ]] || printf 'named network namespace: %s\n' "$(basename "$file")"
  done | sort -u
}

census_firewall() {
  local tool
  if command -v nft >/dev/null; then
    { timeout 10 nft list ruleset 2>/dev/null || true; } | awk '
      /^table/ { table = $2 " " $3 }
      /^table/ && tolower($0) ~ /criu/ { print "nft table: " table }
      !/^table/ && tolower($0) ~ /criu/ { $1 = $1; print "nft in " table ": " $0 }'
  fi
  for tool in iptables-save ip6tables-save; do
    command -v "$tool" >/dev/null || continue
    { timeout 10 "$tool" 2>/dev/null || true; } | sed -n "/[Cc][Rr][Ii][Uu]/s/^/$tool: /p"
  done
}

# census_ours MARKER: processes that still carry the run's mark in their environment, but the caller.
census_ours() {
  local file pid state
  for file in /proc/[0-9]*/environ; do
    pid=${file#/proc/}
    pid=${pid%/environ}
    [[ $pid != "$$" && $pid != "$BASHPID" ]] || continue
    grep -qzxF "SUPERVISE_TEST_RUN=$1" "$file" 2>/dev/null || continue
    state=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || continue
    [[ -n $state && $state != Z* && $state != X* ]] || continue
    # The subshells of this very census.
    [[ $(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) != "$$" ]] || continue
    printf 'process: pid %s (%s), %s\n' "$pid" "$state" \
      "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c 1-120)"
  done
}

census() {
  {
    census_mounts
    census_fuse
    census_loops
    census_device_mapper
    census_stopped
    census_netns
    census_firewall
  } | LC_ALL=C sort
}

census_save() {
  census >"$1" || { warn "the census failed; is /proc mounted?"; return 1; }
}

# census_compare FILE MARKER: prints what is new; status 1 when there is anything.
census_compare() {
  local deadline=$((SECONDS + 10)) left
  while :; do
    left=$(
      census | LC_ALL=C comm -13 "$1" -
      census_ours "$2"
    )
    [[ -n $left ]] || return 0
    ((SECONDS < deadline)) || break
    sleep 0.5
  done
  printf '%s\n' "$left"
  return 1
}
