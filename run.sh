#!/usr/bin/env bash
# Speech emotion recognition, from a corpus on disk to leave-one-speaker-out WA and UA.
#
# Usage: ./run.sh [options] [-- ESPNET_OPTIONS]
#
# Stages
#   1  data      read and check the corpus              -> data/<corpus>/all
#   2  lang      lexicon and units                      -> data/<corpus>/lang
#   3  dump      16-kHz waveforms, features, folds      -> dump/<corpus>
#   4  train     one model for each fold                -> exp/<corpus>/<tag>/<fold>
#   5  score     infer the held-out speakers and score  -> exp/<corpus>/<tag>/scores.json
#   6  report    results table and figures              -> exp/RESULTS.md
#
# Options (dashes or underscores, --name value or --name=value)
#   --corpus NAME         a folder of egs/
#   --corpus-dir DIR      where the corpus lies on disk (mini is made by the recipe)
#   --config FILE         the system; default: conf/mini_s1.yaml for mini, conf/emodb_s1.yaml for
#                         emodb, else conf/train_s1_mtl_phoneme.yaml
#   --tag NAME            name of the experiment; default: made from config, protocol and seed
#   --stage N             first stage to run
#   --stop-stage N        last stage to run
#   --protocol NAME       strict, paper or session
#   --folds NAMES         train and infer these only, e.g. "Ses01F Ses01M"; default: all
#   --seed N              of the training
#   --ngpu N              GPUs; 0 runs on the CPU
#   --nj N                processes at a time
#   --max-epoch N         replaces max_epoch of the config
#   --ssl MODEL           hub id or folder of the speech encoder; replaces that of the config
#   --emotions SET        a set of egs/<corpus>/corpus.yaml, e.g. 4 or 7 for emodb
#   --allow-partial BOOL  go on with an incomplete corpus; the results will say so
#   --overwrite BOOL      train anew if settings or data have changed under the same tag
#   --data-dir DIR        written by stages 1 and 2
#   --dump-dir DIR        written by stage 3
#   --exp-dir DIR         written by stages 4 and 5
#   --results FILE        written by stage 6; default: RESULTS.md in --exp-dir
#   --python PROGRAM      interpreter with the recipe's packages
#   -- ESPNET_OPTIONS     for stage 4, e.g. -- --optim_conf lr=1.0e-4
#
# Examples
#   ./run.sh                                      # the demonstration on synthetic speech
#   ./run.sh --corpus iemocap --corpus-dir ~/IEMOCAP_full_release --ngpu 1
#   ./run.sh --stage 3 --stop-stage 5             # everyday use
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

corpus=mini
corpus_dir=
config=
tag=
stage=1
stop_stage=6
protocol=strict
folds=
seed=1
ngpu=0
nj=2
max_epoch=
ssl=
emotions=
allow_partial=false
overwrite=false
data_dir=$root/data
dump_dir=$root/dump
exp_dir=$root/exp
results=
python=$root/.venv/bin/python
. "$root/local/parse_options.sh"
parse_options "$@"
. "$root/local/check_options.sh" # completes and checks the options, and goes to $root
. ./path.sh
. ./cmd.sh

exp=$exp_dir/$corpus/$tag
data=(--data-dir "$data_dir/$corpus")
dump=(--dump-dir "$dump_dir/$corpus")
interrupted=
trap 'interrupted=130; kill -TERM "${job:-}" 2>/dev/null || true' INT TERM HUP

run_stage() { # NUMBER NAME ARG...
  local began=$SECONDS number=$1 name=$2 log=$exp/log/stage$1.log status=0 elapsed
  shift 2
  ((stage <= number && number <= stop_stage)) || return 0
  printf 'stage %d (%s): started, log: %s\n' "$number" "$name" "$log"
  local/run_logged.sh --live --watch "${log%log}" "$log" "local/$name.sh" --python "$python" "$@" &
  job=$!
  wait "$job" || status=$?
  while kill -0 "$job" 2>/dev/null; do # a signal ended "wait", not yet the stage
    wait "$job" || status=$?
  done
  elapsed=$(printf '%d:%02d' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)))
  if [[ -n $interrupted ]] || ((status != 0)); then
    printf 'stage %d (%s): FAILED after %s; log: %s\n' "$number" "$name" "$elapsed" "$log" >&2
    exit "${interrupted:-$status}"
  fi
  printf 'stage %d (%s): done in %s\n' "$number" "$name" "$elapsed"
}

run_stage 1 data --corpus "$corpus" --data-dir "$data_dir" --nj "$nj" \
  --corpus-dir="$corpus_dir" --emotions="$emotions" --allow-partial "$allow_partial"
run_stage 2 lang "${data[@]}" --token-type "$token_type" --bpe-size="$bpe_size"
run_stage 3 dump "${data[@]}" "${dump[@]}" --token-type "$token_type" \
  --feats-type "$feats_type" --protocol "$protocol" --nj "$nj"
run_stage 4 train "${data[@]}" "${dump[@]}" --exp-dir "$exp" --config "$config" \
  --protocol "$protocol" --folds="$folds" --seed "$seed" --ngpu "$ngpu" --nj "$nj" \
  --max-epoch="$max_epoch" --ssl="$ssl" --overwrite "$overwrite" \
  ${extra_args[@]+-- "${extra_args[@]}"}
run_stage 5 score "${data[@]}" "${dump[@]}" --exp-dir "$exp" --folds="$folds" --ngpu "$ngpu"
run_stage 6 report --exp-root "$exp_dir" --exp-dir "$exp" --results "$results"
