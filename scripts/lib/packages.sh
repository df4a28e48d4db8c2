# Debian packages: which are needed, which are missing, one apt-get call for those.
# An entry is PACKAGE, or PACKAGE=COMMAND when any provider of COMMAND will do.

PACKAGES_CRIU=(
  build-essential ccache patch pkg-config xz-utils python3
  libprotobuf-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
  libnl-3-dev libcap-dev libnet1-dev libbsd-dev uuid-dev libnftables-dev libgnutls28-dev
)
PACKAGES_BUILD=(
  g++ cmake ninja-build libseccomp-dev libdw-dev libboost-program-options-dev libfmt-dev
  libgtest-dev libgmock-dev libfuse3-dev nlohmann-json3-dev libssl-dev libzstd-dev
)
PACKAGES_RUN=(
  fuse3 xfsprogs btrfs-progs e2fsprogs sqlite3 strace iproute2 nftables util-linux mount procps
  psmisc python3
)
PACKAGES_TESTS=(
  redis-server=redis-server redis-tools=redis-cli nginx=nginx nodejs=node
  default-jdk-headless=javac golang-go=go busybox=busybox curl=curl musl-tools tmux make debootstrap docker.io=dockerd
)

# From Debian 13 on docker.io comes without the client.
docker_client_package() {
  local release
  release=$(. /etc/os-release && printf '%s' "${VERSION_ID:-13}")
  [[ ${release%%.*} -le 12 ]] || printf 'docker-cli=docker\n'
}

# The standard library's tests come in a package that carries the interpreter's version.
python_testsuite_package() {
  local version
  version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    version=$(apt-cache show python3 2>/dev/null | sed -n 's/^Version: \([0-9]*\.[0-9]*\).*/\1/p' |
      sort -V | tail -n 1)
  [[ -z $version ]] || printf 'libpython%s-testsuite\n' "$version"
}

# Prints those of the given entries that are not installed.
missing_packages() {
  local entry package command installed
  installed=" $(dpkg-query -W -f='${db:Status-Status}:${Package} ' 2>/dev/null) "
  for entry in "$@"; do
    package=${entry%%=*}
    [[ $installed == *" installed:$package "* ]] && continue
    if [[ $entry == *=* ]]; then
      command=${entry#*=}
      [[ -x /usr/bin/$command || -x /usr/sbin/$command ]] && continue
    fi
    printf '%s\n' "$package"
  done
}

# No service may be started by an installation: invoke-rc.d and deb-systemd-invoke ask this file.
# A host that has one of its own keeps it.
POLICY_FILE=/usr/sbin/policy-rc.d
POLICY_MARK='# placed by supervise setup.sh for the time of one installation'
forbid_service_start() {
  [[ ! -e $POLICY_FILE ]] || return 0
  printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY_FILE"
  chmod 755 "$POLICY_FILE"
}
allow_service_start() {
  ! grep -qsxF "$POLICY_MARK" "$POLICY_FILE" || rm -f "$POLICY_FILE"
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none \
    run_limited 1500 apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
    -o APT::Install-Recommends=false -y "$@" 9>&-
}

# True when apt can name a candidate for every given package.
candidates_known() {
  local known
  known=$(LC_ALL=C apt-cache policy "$@" 2>/dev/null | grep -cE '^  Candidate: [^(]') || return 1
  [[ $known -eq $# ]]
}

# install_packages LOG ENTRY...: one apt-get call, only what is missing, lists only when needed.
install_packages() {
  local log=$1 status=0
  shift
  local -a missing
  mapfile -t missing < <(missing_packages "$@" | sort -u)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  [[ $EUID -eq 0 ]] || die "these packages are missing: ${missing[*]}" \
    "run scripts/setup.sh as root, or: apt-get install ${missing[*]}"
  : >"$log"
  if ! candidates_known "${missing[@]}"; then
    say "updating the package lists"
    apt_get update >>"$log" 2>&1 || warn "apt-get update failed, see $log"
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  trap allow_service_start EXIT
  forbid_service_start
  apt_get install "${missing[@]}" >>"$log" 2>&1 || {
    # Lists may be older than the mirror's pool.
    say "that failed; updating the package lists and trying once more"
    { apt_get update && apt_get install "${missing[@]}"; } >>"$log" 2>&1 || status=$?
  }
  allow_service_start
  trap - EXIT
  [[ $status -eq 0 ]] || {
    tail -n 15 "$log" >&2
    die "apt-get could not install: ${missing[*]}" "whole output: $log; check the host's apt sources"
  }
}
