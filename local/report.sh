#!/usr/bin/env bash
# Stage 6: write RESULTS.md from every exp/<corpus>/<tag>/scores.json, and draw the confusion
# matrix, learning curves and fusion weights into exp/<corpus>/<tag>/figures.
#
# Usage: local/report.sh [options]
#   --exp-root DIR    holds <corpus>/<tag>/scores.json
#   --results FILE    the file to write
#   --exp-dir DIR     draw the figures of this experiment only; empty: of all
#   --conf-dir DIR    configurations, for the numbers that the papers state
#   --python PROGRAM  the interpreter with the recipe's packages
set -euo pipefail
exp_root=exp
results=RESULTS.md
exp_dir=
conf_dir=conf
python=python3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/local/parse_options.sh"
parse_options "$@"

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m ser.bin.report --exp-root "$exp_root" --results "$results" \
  --exp-dir "$exp_dir" --conf-dir "$conf_dir"
