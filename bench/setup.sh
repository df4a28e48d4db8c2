#!/usr/bin/env bash
# Installs what bench/apps.py and bench/fastpath.py measure, where it is missing. Needs root and apt-get.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
source "$here/../scripts/lib/common.sh"
source "$here/../scripts/lib/packages.sh"
PACKAGES_BENCH=(python3-numpy python3-scipy python3-pandas postgresql=pg_ctlcluster sqlite3 strace make gcc
  proot fio wrk)
install_packages /var/tmp/supervise-bench-apt.log "${PACKAGES_TESTS[@]}" "${PACKAGES_BENCH[@]}"
