# A newer C library than the host's, for the test of programs that use it: unpacked beside the other
# things of the tests, never installed. Needs criu.sh (private_apt).

NEW_GLIBC_SUITES=(trixie forky)
NEW_GLIBC_FROM=2.41

# fetch_new_glibc CACHE: leaves it in CACHE/new-glibc. Without it one test is skipped, and says so.
fetch_new_glibc() {
  local cache=$1 to=$1/new-glibc apt_dir=$1/apt-glibc uri keyring suite own file
  own=$(dpkg-query -W -f '${Version}' libc6)
  if dpkg --compare-versions "$own" ge "$NEW_GLIBC_FROM"; then return 0; fi
  [[ ! -e $to/version ]] || return 0
  say "getting a newer C library, for a test"
  while read -r uri keyring; do
    for suite in "${NEW_GLIBC_SUITES[@]}"; do
      private_apt "$apt_dir" "$uri" "$keyring" "$suite"
      sed -i 's/^deb-src /deb /' "$apt_dir/sources.list"
      note "$uri $suite"
      update_private "$apt_dir" || continue
      (cd "$apt_dir/download" && APT_CONFIG=$apt_dir/apt.conf run_limited 180 apt-get download libc6 libstdc++6 libgcc-s1 \
        >>"$apt_dir/log" 2>&1) || continue
      rm -rf "$to" "$to.part"
      mkdir -p "$to.part"
      for file in "$apt_dir"/download/*.deb; do
        dpkg-deb -x "$file" "$to.part" || continue 2
      done
      basename "$apt_dir"/download/libc6_*.deb >"$to.part/version"
      mv "$to.part" "$to"
      rm -rf "$apt_dir"
      return 0
    done
  done < <(debian_mirrors)
  warn "no newer C library could be had (see $apt_dir/log): the test stub_glibc is skipped"
}
