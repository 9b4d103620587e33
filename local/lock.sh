#!/usr/bin/env bash
# Resolve requirements.txt for Python 3.10 to 3.12 and write requirements.lock (make lock).
#
# Torch and the NVIDIA packages that its CUDA build asks for take part in the resolution but are
# left out of the file: local/install_env.py installs the build that suits the machine.
set -euo pipefail

CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=${UV:-.venv/bin/uv}

new=$(mktemp requirements.lock.XXXXXX)
trap 'rm -f "$new" "$new.trimmed"' EXIT
"$uv" pip compile --quiet --universal --python-version 3.10 --no-python-downloads \
  --no-header --no-annotate --override requirements-overrides.txt requirements.txt -o "$new"
{
  printf '%s\n' \
    '# What requirements.txt resolves to for Python 3.10 to 3.12; written by "make lock".' \
    '# Torch is missing on purpose: local/install_env.py adds the build that suits the machine.'
  grep -v -E '^(torch==|triton==|nvidia-|cuda-)|sys_platform == .(never|win32|emscripten)' "$new"
} >"$new.trimmed"
mv "$new.trimmed" requirements.lock
