#!/usr/bin/env bash
# Create .venv with everything the recipe needs, unless it is there and up to date.
#
# Usage: local/install.sh [--force] [--check]
#   (see local/install_env.py for what happens; make demo, test and lint call this first)
#
# Environment: PYTHON  interpreter to build on (default: python3 if it is 3.10 to 3.12, else the
#                      newest of python3.12, python3.11, python3.10)
#              TORCH   cpu, cuda or auto (default: auto, cuda where nvidia-smi finds a GPU)
set -euo pipefail

root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "${BASH_SOURCE[0]}"
  exit 0
fi

suits() { # COMMAND
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

python=
if [[ -n ${PYTHON:-} ]]; then
  if ! suits "$PYTHON"; then
    printf 'error: PYTHON=%s: not a Python 3.10, 3.11 or 3.12; unset it or name another\n' \
      "$PYTHON" >&2
    exit 1
  fi
  python=$PYTHON
else
  # The system's own python3 comes first: site-wide pip settings and wheels are made for it.
  for candidate in python3 python3.12 python3.11 python3.10; do
    if suits "$candidate"; then
      python=$candidate
      break
    fi
  done
fi
if [[ -z $python ]]; then
  printf 'error: found no Python 3.10, 3.11 or 3.12 on PATH (python3 is: %s); ' \
    "$(python3 --version 2>&1 || true)" >&2
  printf 'install one or name it: make PYTHON=/path/to/python3.11 demo\n' >&2
  exit 1
fi

exec "$python" "$root/local/install_env.py" "$@"
