#!/usr/bin/env bash
# Speech emotion recognition, from a corpus on disk to leave-one-speaker-out WA and UA.
#
# Usage: ./run.sh [--corpus NAME] [--corpus-dir DIR] [--config FILE] [--stage N] [--stop-stage N] ...
#        all options: ./run.sh --help (ser/cli/recipe.py)
#
# Stages
#   1  data      read and check the corpus              -> data/<corpus>/all
#   2  lang      lexicon and units                      -> data/<corpus>/lang
#   3  dump      16-kHz waveforms, features, folds      -> dump/<corpus>
#   4  train     one model for each fold                -> exp/<corpus>/<tag>/<fold>
#   5  score     infer the held-out speakers and score  -> exp/<corpus>/<tag>/scores.json
#   6  report    results table and figures              -> exp/RESULTS.md
#   7  pack      a model to share, only if asked for    -> exp/<corpus>/<tag>/packed, <tag>.zip

# For sbatch run.sh: a warning before the time limit, and one log over all restarts.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# shellcheck disable=SC2154
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -n ${SLURM_JOB_ID:-} && ${0##*/} == slurm_script ]]; then # the copy that sbatch makes
  root=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
  root=${root%%/run.sh*}
  [[ -f $root/local/run_stage.sh ]] || root=$SLURM_SUBMIT_DIR
  SER_BATCH_JOB=$SLURM_JOB_ID exec "$root/run.sh" "$@"
fi

. "$root/local/run_stage.sh" # run_stage and so on
settle_options "$@"          # sets all that is used below, see ser/cli/settings.py

run_stage 1 data --data-dir "${data%/*}" "${data_options[@]}"
for kind in "${inputs[@]}"; do # one, but for the points of a sweep that differ
  read -r token_type bpe_size feats_type <<<"$kind"
  run_stage 2 lang --data-dir "$data" --token-type "$token_type" --bpe-size "$bpe_size"
  for protocol in "${protocols[@]}"; do # one, but for --paper
    run_stage 3 dump --data-dir "$data" --dump-dir "$dump" --token-type "$token_type" \
      --feats-type "$feats_type" --protocol "$protocol" --nj "$processes"
  done
done
say_plan
for i in "${!protocols[@]}"; do
  protocol=${protocols[i]}
  choose_experiments "$i" # sets which, of this protocol
  run_stage 4 train --data-dir "$data" --dump-dir "$dump" "${which[@]}" --protocol "$protocol" \
    "${train_options[@]}"
  run_stage 5 score --data-dir "$data" --dump-dir "$dump" "${which[@]}" --folds "$folds" \
    --ngpu "$ngpu"
  run_stage 6 report --exp-root "$exp_root" --results "$results" "${which[@]}" \
    ${sweep:+--sweep "$sweep" --config "$config" --corpus "$corpus" --protocol "$protocol" --seed "$seed"}
done
for experiment in "${experiments[@]}"; do
  run_stage 7 pack "$experiment" --folds "$folds"
done
explain_chain
