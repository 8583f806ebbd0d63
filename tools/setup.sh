#!/bin/sh
# Installs the Debian packages that building, testing and packaging need, as root or through sudo, and only when one
# is missing. This is the one list of them. Arguments are further packages.
set -eu

packages="
  build-essential cmake ninja-build python3-dev python3-venv ca-certificates
  liblz4-dev libzstd-dev libisal-dev libxxhash-dev libsnappy-dev zlib1g-dev libbz2-dev
  libgtest-dev libgmock-dev rocksdb-tools zstd procps
"
[ "${KVBATCH_ROCKSDB:-pinned}" = system ] && packages="$packages librocksdb-dev"

missing=""
if command -v dpkg-query >/dev/null; then
  installed=$(dpkg-query --show --showformat='${Package} ${db:Status-Status}\n' $packages "$@" 2>/dev/null || true)
  for package in $packages "$@"; do
    printf '%s\n' "$installed" | grep -qxF "$package installed" || missing="$missing $package"
  done
else
  echo "tools/setup.sh: not a Debian system; it must have what these packages hold:" $packages "$@" >&2
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
  as_root=""
elif command -v sudo >/dev/null; then
  as_root=sudo
else
  echo "tools/setup.sh: missing packages, and neither root nor sudo here. As root: apt-get install$missing" >&2
  exit 1
fi
echo "tools/setup.sh: installing$missing"
$as_root apt-get -qq update
# -o Dpkg::Use-Pty=0 keeps apt quiet when its output is not a terminal.
$as_root env DEBIAN_FRONTEND=noninteractive \
  apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends $missing >/dev/null
