#!/usr/bin/env bash
# Stage 6: write RESULTS.md from every exp/<corpus>/<tag>/scores.json, and draw the confusion
# matrix, reliability, learning curves and fusion weights into exp/<corpus>/<tag>/figures.
#
# Usage: local/report.sh [options]
#   --exp-root DIR    holds <corpus>/<tag>/scores.json
#   --results FILE    the file to write
#   --exp-dir DIR     draw the figures of this experiment only; empty: of all
#   --conf-dir DIR    configurations, for the numbers that the papers state
#   --sweep FILE      write this sweep's table and figure in <exp-root>/<corpus> instead
#   --config FILE     the system that the sweep varies
#   --corpus NAME     of the sweep
#   --protocol NAME   of the sweep
#   --seed N          of the sweep; empty: those in its file
#   --python PROGRAM  the interpreter with the recipe's packages
set -euo pipefail
exp_root=exp
results=RESULTS.md
exp_dir=
conf_dir=conf
sweep=
config=
corpus=
protocol=strict
seed=
python=python3
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/local/parse_options.sh"
parse_options "$@"

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if [[ -n $sweep ]]; then
  exec "$python" -m ser.cli.bin.sweep --sweep "$sweep" --config "$config" --exp-root "$exp_root" \
    --corpus "$corpus" --protocol "$protocol" --seed="$seed" --report
fi
exec "$python" -m ser.cli.bin.report --exp-root "$exp_root" --results "$results" \
  --exp-dir "$exp_dir" --conf-dir "$conf_dir"
