#!/usr/bin/env bash
# Install what the bench compares with into bench/.venvs/peers. It sees the packages of .venv too.
#
# Usage: bench/install_peers.sh
#   (make bench-peers; a package that cannot be installed is named, and the bench does without it)
set -euo pipefail

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "${BASH_SOURCE[0]}"
  exit 0
fi

root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/bench/.venvs/peers
packages=$("$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

"$root/.venv/bin/python" -m venv --without-pip "$venv"
target=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$packages" >"$target/recipe.pth"
while read -r requirement; do
  [[ $requirement == \#* || -z $requirement ]] && continue
  if "$root/.venv/bin/python" -m pip install --quiet --no-deps --target "$target" --upgrade \
    --no-build-isolation "$requirement"; then
    printf '[bench] installed %s\n' "$requirement"
  else
    printf '[bench] cannot be installed: %s\n' "$requirement"
  fi
done <"$root/bench/requirements-peers.txt"
