# CRIU in a prefix of its own: the upstream tarball that Debian carries, verified, built, installed,
# and tried with a real dump and restore. The host's apt configuration is read, never changed.

CRIU_VERSION=4.2.1
CRIU_SHA256=29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9
CRIU_SUITES=(sid forky)
# CRIU keeps what it learnt of the kernel here, only on tmpfs, and the path is compiled in. It is a
# folder of root's own: /dev/shm itself is writable for everyone.
CRIU_RUNDIR=${SUPERVISE_CRIU_RUNDIR:-/dev/shm/supervise}

# Each is applied to the source. One that no longer fits is left out: it widens what CRIU can do here.
CRIU_PATCHES=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/criu-patches

sha256_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# Prints "URI KEYRING" of the host's configured Debian mirrors, best first, the default last.
debian_mirrors() {
  local codename
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  {
    apt-get indextargets --format '$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI) $(SIGNED_BY)' |
      awk -v code="$codename" '$1 == "Packages" && $2 == code && $3 == "main" {
        print $4, ($5 ~ /^\//) ? $5 : "-" }'
    printf '%s -\n' http://deb.debian.org/debian
  } 2>/dev/null | sed 's#/ # #' | awk '!seen[$1]++'
}

# private_apt DIR URI KEYRING SUITE: writes a configuration that shares nothing with the host's but
# its Acquire settings (proxies and the like), its credentials and its keys.
private_apt() {
  local dir=$1 uri=$2 keyring=$3 suite=$4 option=
  [[ $keyring != - ]] || keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  # Debian 13 and later name this file .pgp.
  [[ -e $keyring ]] || keyring=${keyring%.gpg}.pgp
  [[ ! -e $keyring ]] || option="[signed-by=$keyring] "
  rm -rf "$dir"
  mkdir -p "$dir"/lists/partial "$dir"/cache/archives/partial "$dir"/download
  chmod 755 "$dir" "$dir"/download
  chown _apt "$dir"/download 2>/dev/null || true
  printf 'deb-src %s%s %s main\n' "$option" "$uri" "$suite" >"$dir/sources.list"
  {
    apt-config dump | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' || true
    cat <<CONF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$dir/lists";
Dir::Cache "$dir/cache";
Dir::Log "$dir";
Acquire::Languages "none";
Acquire::Retries "2";
CONF
  } >"$dir/apt.conf"
}

# update_private DIR OPTION...: fetches and verifies the lists of the private configuration.
update_private() {
  local dir=$1
  shift
  APT_CONFIG=$dir/apt.conf run_limited 300 apt-get -o APT::Update::Error-Mode=any "$@" update \
    >>"$dir/log" 2>&1
}

# Prints "VERSION SHA256" of each criu source the private lists name, newest first.
criu_sources() {
  APT_CONFIG=$1/apt.conf apt-cache showsrc --only-source criu 2>/dev/null | awk '
    /^Version:/ { version = $2; sums = 0 }
    /^[^ ]/ { sums = ($1 == "Checksums-Sha256:") }
    sums && $3 ~ /^criu_[^-]*\.orig\.tar\.(xz|gz|bz2)$/ { print version, $1 }' | sort -Vru
}

# fetch_from DIR VERSION SHA256: lets apt download and verify that source's tarball, prints its path.
fetch_from() {
  local dir=$1 file
  (cd "$dir/download" && APT_CONFIG=$dir/apt.conf timeout 180 apt-get source --tar-only \
    --download-only "criu=$2" >>"$dir/log" 2>&1 </dev/null 9>&-) || return 1
  for file in "$dir"/download/criu_*.orig.tar.*; do
    [[ -e $file && $(sha256_of "$file") == "$3" ]] || continue
    printf '%s\n' "$file"
    return 0
  done
  return 1
}

# Leaves the tarball at $1/criu.orig.tar with its sum in $1/criu.orig.sha256. The pinned one is taken
# wherever an archive has it; a newer one only when no archive has it any more.
fetch_criu() {
  local cache=$1 apt_dir=$1/apt uri keyring suite version sum file fresh newest= found=
  local tarball=$cache/criu.orig.tar recorded=$cache/criu.orig.sha256
  for file in "$cache/criu_$CRIU_VERSION".orig.tar.*; do
    [[ -e $file && $(sha256_of "$file") == "$CRIU_SHA256" ]] || continue
    cp "$file" "$tarball" && printf '%s\n' "$CRIU_SHA256" >"$recorded"
  done
  if [[ -s $tarball && -s $recorded && $(sha256_of "$tarball") == "$(<"$recorded")" ]]; then
    return 0
  fi
  say "getting CRIU $CRIU_VERSION from Debian's source archive"
  while read -r uri keyring; do
    for suite in "${CRIU_SUITES[@]}"; do
      private_apt "$apt_dir" "$uri" "$keyring" "$suite"
      note "$uri $suite"
      # An index past its date (a mirror that lags, a clock that is wrong) is still signed. It may
      # give the pinned tarball, whose sum is known here, but not decide what a newer one is.
      fresh=1
      update_private "$apt_dir" || {
        fresh=0
        update_private "$apt_dir" -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false
      } || {
        tail -n 2 "$apt_dir/log" >&2
        continue
      }
      while read -r version sum; do
        if [[ $sum == "$CRIU_SHA256" ]]; then
          file=$(fetch_from "$apt_dir" "$version" "$sum") && found=$file && break 3
        elif [[ -z $newest && $fresh -eq 1 ]] && dpkg --compare-versions "${version%-*}" gt "$CRIU_VERSION"; then
          if file=$(fetch_from "$apt_dir" "$version" "$sum"); then
            newest=$cache/criu.newer.tar
            mv "$file" "$newest"
            printf '%s %s\n' "$version" "$sum" >"$newest.version"
          fi
        fi
      done < <(criu_sources "$apt_dir")
    done
  done < <(debian_mirrors)
  if [[ -n $found ]]; then
    sum=$CRIU_SHA256
    mv "$found" "$tarball"
  elif [[ -n $newest ]]; then
    read -r version sum <"$newest.version"
    warn "the archive no longer carries CRIU $CRIU_VERSION; taking $version, which apt verified"
    mv "$newest" "$tarball"
  else
    die "no configured mirror gave the source of CRIU $CRIU_VERSION or newer (log: $apt_dir/log)" \
      "put criu_$CRIU_VERSION.orig.tar.xz (sha256 $CRIU_SHA256) into $cache and run this again"
  fi
  [[ $(sha256_of "$tarball") == "$sum" ]] ||
    die "the tarball's sha256 is not $sum" "remove $tarball and run this again"
  printf '%s\n' "$sum" >"$recorded"
  rm -rf "$apt_dir" "$cache"/criu.newer.tar*
}

# Names one build: another source, patch, prefix, run folder or release of the host is another build.
criu_build_key() {
  local cache=$1 prefix=$2 host
  host=$(. /etc/os-release && printf '%s%s' "${ID:-}" "${VERSION_ID:-}")
  printf '%s %s %s %s %s\n' "$(<"$cache/criu.orig.sha256")" "$(cat "$CRIU_PATCHES"/*.patch | sha256sum | cut -c 1-16)" \
    "$prefix" "$CRIU_RUNDIR" "$host"
}

# build_criu CACHE PREFIX: builds once per key and installs into PREFIX; PREFIX/.supervise-build
# holds the key and is written last.
build_criu() {
  local cache=$1 prefix=$2 key tree change cc=gcc
  local stamp=$prefix/.supervise-build
  if [[ -s $cache/criu.orig.sha256 && -x $prefix/sbin/criu && -s $stamp &&
    $(<"$stamp") == "$(criu_build_key "$cache" "$prefix")" ]]; then
    return 0
  fi
  fetch_criu "$cache"
  key=$(criu_build_key "$cache" "$prefix")
  tree=$cache/criu-build-$(printf '%s' "$key" | sha256sum | cut -c 1-16)
  ! command -v ccache >/dev/null || cc="ccache gcc"
  local -a vars=("PREFIX=$prefix" "LIBDIR=$prefix/lib" "LIBEXECDIR=$prefix/libexec"
    "RUNDIR=$CRIU_RUNDIR" "CC=$cc" SKIP_PIP_INSTALL=1)
  if [[ ! -e $tree/.built ]]; then
    say "building CRIU (about a minute)"
    rm -rf "$tree"
    mkdir -p "$tree"
    tar -xf "$cache/criu.orig.tar" --strip-components=1 -C "$tree" ||
      die "cannot unpack $cache/criu.orig.tar" "is the disk full? remove it and run this again"
    for change in "$CRIU_PATCHES"/*.patch; do
      patch --batch --forward --dry-run -s -p1 -d "$tree" -i "$change" >"$cache/criu-patch.log" 2>&1 &&
        patch --batch --forward -s -p1 -d "$tree" -i "$change" >>"$cache/criu-patch.log" 2>&1 ||
        warn "${change##*/} does not fit this CRIU and is left out (log: $cache/criu-patch.log)"
    done
    CCACHE_DIR=$cache/ccache run_logged "$cache/criu-build.log" 1200 \
      make -C "$tree" -j2 "${vars[@]}" criu lib || die "CRIU could not be built" \
      "read $cache/criu-build.log"
    : >"$tree/.built"
  fi
  say "installing CRIU into $prefix"
  mkdir -p "$prefix"
  rm -f "$stamp"
  CCACHE_DIR=$cache/ccache run_logged "$cache/criu-install.log" 300 \
    make -C "$tree" "${vars[@]}" install-criu install-lib || die "CRIU could not be installed" \
    "is $prefix writable? set SUPERVISE_CRIU_PREFIX to another place"
  [[ -x $prefix/sbin/criu ]] || die "the build left no $prefix/sbin/criu" \
    "read $cache/criu-install.log"
  printf '%s\n' "$key" >"$stamp"
}

# smoke_criu PREFIX CACHE HERE: a child with a listening socket is dumped, killed and restored.
smoke_criu() {
  local prefix=$1 log=$2/criu-smoke.log
  if [[ ! -e $CRIU_RUNDIR ]]; then
    mkdir -m 700 "$CRIU_RUNDIR" 2>/dev/null || true
  fi
  run_limited 60 unshare --pid --mount --net --fork --kill-child --mount-proc \
    /usr/bin/python3 "$3/lib/criu_smoke.py" "$prefix/sbin/criu" >"$log" 2>&1 || {
    tail -n 25 "$log" >&2
    die "CRIU is installed, but a dump and restore of a small process failed here (log: $log)" \
      "this needs root with CAP_SYS_ADMIN, SYS_PTRACE, NET_ADMIN and no seccomp profile around; \
build without it: scripts/setup.sh --no-smoke"
  }
  tail -n 1 "$log"
}
