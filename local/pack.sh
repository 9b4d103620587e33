#!/usr/bin/env bash
# Stage 7: pack the finished folds of an experiment into one folder, exp/<corpus>/<tag>/packed, and
# an archive of it, <tag>.zip, for others to load. The sizes are those of the model: 380 MB for each
# fold of wav2vec 2.0 base, and as much again for the archive.
#
# Usage: local/pack.sh --exp-dir exp/mini/TAG [options]
#   --exp-dir DIR     exp/<corpus>/<tag>, trained and scored (stages 4 and 5)
#   --folds NAMES     pack these only, e.g. "Ses01F Ses01M"; empty: all that are scored
#   --python PROGRAM  the interpreter with the recipe's packages
set -euo pipefail
exp_dir=
folds=
python=python3
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/local/parse_options.sh"
parse_options "$@"
if [[ -z $exp_dir ]]; then
  echo "pack.sh: error: --exp-dir is required; see --help" >&2
  exit 2
fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m ser pack "$exp_dir" --folds="${folds//,/ }"
