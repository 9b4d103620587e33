#!/usr/bin/env bash
# Create .venv with everything the recipe needs, unless it is there and up to date.
#
# Environment: PYTHON  interpreter to build on (default: the first Python 3.10 to 3.12 of PATH)
#              TORCH   cpu, cuda or auto (default: cuda where nvidia-smi finds a GPU)
#              APPS    1 installs requirements-apps.txt as well
set -euo pipefail
CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.."

candidates=(python3 python3.12 python3.11 python3.10)
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
suits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
for python in "${candidates[@]}"; do
  "$python" -c "$suits" 2>/dev/null && exec "$python" local/install_env.py
done
echo "error: ${candidates[*]}: no Python 3.10, 3.11 or 3.12; name one:" \
  "make PYTHON=/path/to/python3.11 install" >&2
exit 1
