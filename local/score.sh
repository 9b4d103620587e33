#!/usr/bin/env bash
# Stage 5: infer the held-out utterances of every trained fold, then score all folds together.
# Writes predictions.tsv in each fold, scores.json and scores.txt. Folds that were inferred with
# their present model are not inferred again.
#
# Usage: local/score.sh --data-dir data/mini --dump-dir dump/mini --exp-dir exp/mini/TAG [options]
#   --data-dir DIR       data/<corpus> (stage 1)
#   --dump-dir DIR       dump/<corpus> (stage 3)
#   --exp-dir DIR        exp/<corpus>/<tag> (stage 4)
#   --experiments FILE   a sweep's list of experiments (ser.cli.bin.sweep), instead of --exp-dir; those of
#                        which no fold is trained yet are left out
#   --folds NAMES        infer these only, e.g. "Ses01F Ses01M"; empty: all trained folds
#   --ngpu N             0 infers on the CPU
#   --nj N               CPU threads; 0 leaves it to torch
#   --batch-seconds SEC  padded audio in a batch; scores do not depend on it
#   --python PROGRAM     the interpreter with the recipe's packages
set -euo pipefail
data_dir=
dump_dir=
exp_dir=
experiments=
folds=
ngpu=0
nj=0
batch_seconds=60
python=python3
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/local/parse_options.sh"
parse_options "$@"
if [[ -z $data_dir || -z $dump_dir || -z $exp_dir ]]; then
  echo "score.sh: error: --data-dir, --dump-dir and --exp-dir are required; see --help" >&2
  exit 2
fi

exp_dirs=("$exp_dir")
. "$root/local/experiments.sh"
[[ -z $experiments ]] || read_experiments "$experiments"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m ser.cli.bin.score --data-dir "$data_dir" --dump-dir "$dump_dir" \
  --exp-dir "${exp_dirs[@]}" --folds "${folds//,/ }" --ngpu "$ngpu" --nj "$nj" \
  --batch-seconds "$batch_seconds"
