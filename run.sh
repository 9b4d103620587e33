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
#   7  pack      a model to share, only if asked for    -> exp/<corpus>/<tag>/packed, <tag>.zip
#
# Options (dashes or underscores, --name value or --name=value)
#   --corpus NAME         a folder of egs/
#   --corpus-dir DIR      where the corpus lies on disk (mini is made by the recipe)
#   --text FILE           transcripts, "<utterance id> words" a line, in place of the corpus' own
#   --config FILE         the system; default: S1 (conf/<corpus>_s1.yaml if there is one), casia: S4
#   --tag NAME            name of the experiment; default: made from config, protocol and seed
#   --stage N             first stage to run
#   --stop-stage N        last stage to run; default: 6, or 7 with --stage 7
#   --protocol NAME       strict, paper, session or crossed; kfold is speaker-dependent; prefix LEAKY
#   --k N                 groups of sentences of --protocol crossed, folds of kfold
#   --select WHICH        epoch that is tested: that of the protocol, or best-on-test (LEAKY)
#   --folds NAMES         train, infer and pack these only, e.g. "Ses01F Ses01M"; default: all
#   --seed N              of training; "1 2 3": experiments TAG_seed1 ...; auto: 1, or the sweep's
#   --sweep FILE          run all points of a file of conf/sweeps, variations of the config
#   --paper BOOL          run all that the paper reports, in protocols paper and strict, and write
#                         a page of its tables and figures beside ours (docs/paper.md)
#   --plan BOOL           with --paper: say what it will take, train nothing
#   --ngpu N              GPUs, each trains a fold (Slurm: on each node of one fold); 0: the CPU
#   --folds-per-gpu N     folds that share each GPU of this machine
#   --nj N                processes at a time (default: 2); on Slurm: folds (default: no limit)
#   --max-epoch N         replaces max_epoch of the config
#   --ssl MODEL           hub id or folder of the speech encoder; replaces that of the config
#   --emotions SET        a set of egs/<corpus>/corpus.yaml, e.g. 4 or 7 for emodb
#   --allow-partial BOOL  go on with an incomplete corpus; the results will say so
#   --overwrite BOOL      train anew if settings or data have changed under the same tag
#   --status BOOL         run nothing; show how far every fold has come
#   --compare TAG...      run nothing; compare two experiments, or the seeds of two systems
#   --leakage BOOL        compare the system under every protocol and selection, sound and leaky
#   --data-dir DIR        written by stages 1 and 2
#   --dump-dir DIR        written by stage 3
#   --exp-dir DIR         written by stages 4 and 5
#   --results FILE        written by stage 6; default: RESULTS.md in --exp-dir
#   --python PROGRAM      interpreter with the recipe's packages
#   -- ESPNET_OPTIONS     for stage 4, e.g. -- --optim_conf lr=1.0e-4
#
# On a cluster (docs/cluster.md)
#   --backend NAME        local or slurm; default: that of cmd.sh
#   --detach BOOL         submit all stages, each to begin when the one before is done, and return
#   --num-nodes N         nodes that train one fold together
#   --slurm-conf FILE     partition, time and so on
#
# Examples
#   ./run.sh                                      # the demonstration on synthetic speech
#   ./run.sh --corpus iemocap --corpus-dir ~/IEMOCAP_full_release --ngpu 1
#   ./run.sh --corpus iemocap --corpus-dir ~/IEMOCAP_full_release --ngpu 1 --paper
#   ./run.sh --stage 3 --stop-stage 5             # everyday use
#   ./run.sh --sweep conf/sweeps/lambda.yaml      # five weights of the phoneme head, three seeds
#   ./run.sh --backend slurm --seed "1 2 3"       # thirty folds as one job array

# For sbatch run.sh: a warning before the time limit, and one log over all restarts.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -n ${SLURM_JOB_ID:-} && ${0##*/} == slurm_script ]]; then # the copy that sbatch makes
  root=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
  root=${root%%/run.sh*}
  [[ -f $root/local/parse_options.sh ]] || root=$SLURM_SUBMIT_DIR
  SER_BATCH_JOB=$SLURM_JOB_ID exec "$root/run.sh" "$@"
fi

corpus=mini
corpus_dir=
text=
config=
tag=
stage=1
stop_stage=
protocol=strict
k=
folds=
select=protocol
seed=auto
sweep=
paper=false
plan=false
ngpu=0
folds_per_gpu=1
nj=
max_epoch=
ssl=
emotions=
allow_partial=false
overwrite=false
status=false
compare=
leakage=false
data_dir=$root/data
dump_dir=$root/dump
exp_dir=$root/exp
results=
python=$root/.venv/bin/python
backend=
detach=false
num_nodes=1
slurm_conf=$root/conf/slurm.conf
. "$root/local/parse_options.sh"
parse_options "$@"
[[ $paper$plan == falsefalse ]] || . "$root/local/paper.sh" # sets the sweep and the protocols
if [[ $leakage == true ]]; then
  . "$root/local/leakage.sh"
  run_variants "$@"
  exit
fi
. "$root/local/check_options.sh" # completes and checks the options, and goes to $root
. ./path.sh
. ./cmd.sh
. ./local/run_stage.sh

data=(--data-dir "$data_dir/$corpus")
dump=(--dump-dir "$dump_dir/$corpus")
if [[ $status$paper == truetrue ]]; then
  ask_paper --status
  exit
elif [[ $status == true ]]; then
  exec "$python" -m ser.cli.bin.status "${dump[@]}" --protocol "$protocol" --exp-dir "${exp_dirs[@]}"
elif [[ -n $compare ]]; then
  read -r -a compared <<<"$compare"
  exec "$python" -m ser.cli.bin.compare "${dump[@]}" "${compared[@]/#/--exp-dir=$exp_dir/$corpus/}"
fi

run_stage 1 data --corpus "$corpus" --data-dir "$data_dir" --nj "${nj:-2}" \
  --corpus-dir="$corpus_dir" --text="$text" --emotions="$emotions" --allow-partial "$allow_partial"
for inputs in "${all_inputs[@]}"; do # those of a sweep's points may differ
  read -r token_type bpe_size feats_type <<<"$inputs"
  run_stage 2 lang "${data[@]}" --token-type "$token_type" --bpe-size="${bpe_size#-}"
  for protocol in "${protocols[@]}"; do
    run_stage 3 dump "${data[@]}" "${dump[@]}" --token-type "$token_type" \
      --feats-type "$feats_type" --protocol "$protocol" --nj "${nj:-2}"
  done
done
[[ $paper == false ]] || plan_paper
[[ $plan == false ]] || exit 0
for protocol in "${protocols[@]}"; do # one, but for --paper
  [[ $paper == false ]] || begin_protocol
  run_stage 4 train "${data[@]}" "${dump[@]}" --exp-dir "$exp_base" --seed "$seed" \
    --config "$config" --experiments="$experiments" --protocol "$protocol" --select "$select" \
    --folds="$folds" --ngpu "$ngpu" --folds-per-gpu "$folds_per_gpu" --nj="$nj" \
    --max-epoch="$max_epoch" --ssl="$ssl" --overwrite "$overwrite" \
    --num-nodes "$num_nodes" --backend "$backend" --slurm-conf "$slurm_conf" \
    ${extra_args[@]+-- "${extra_args[@]}"}
  if [[ -n $sweep ]]; then # all in one process
    run_stage 5 score "${data[@]}" "${dump[@]}" --exp-dir "$exp_base" --folds="$folds" \
      --ngpu "$ngpu" --experiments "$experiments"
  fi
  for exp in ${exp_dirs[@]+"${exp_dirs[@]}"}; do
    [[ -n $sweep ]] ||
      run_stage 5 score "${data[@]}" "${dump[@]}" --exp-dir "$exp" --folds="$folds" --ngpu "$ngpu"
    run_stage 6 report --exp-root "$exp_dir" --exp-dir "$exp" --results "$results"
    run_stage 7 pack --exp-dir "$exp" --folds="$folds"
  done
  if [[ -n $sweep ]]; then
    [[ $paper == false ]] || exp=$exp_dir/$corpus/paper # where the page goes
    run_stage 6 report --exp-root "$exp_dir" --results "$results" --sweep "$sweep" \
      --config "$config" --protocol "$protocol" --seed="$seed" --corpus "$corpus"
  fi
done
[[ $detach == false ]] || explain_chain
