#!/usr/bin/env bash
# Stage 4: train the folds of an experiment, or of one for each seed. Finished folds are kept and
# interrupted ones resumed. On this machine a few processes share the folds, since importing ESPnet
# costs as much as a small epoch; on Slurm every fold is a task of one job array.
#
# Usage: local/train.sh --data-dir data/mini --dump-dir dump/mini --exp-dir exp/mini/TAG \
#          --config conf/mini_s1.yaml [options] [-- ESPNET_OPTIONS]
#   --data-dir DIR     data/<corpus> (stages 1 and 2)
#   --dump-dir DIR     dump/<corpus> (stage 3)
#   --exp-dir DIR      exp/<corpus>/<tag>; is written; with several seeds DIR_seed1, DIR_seed2, ...
#   --config FILE      the system's YAML
#   --experiments FILE a sweep's list of experiments (ser.cli.bin.sweep), instead of the three above
#   --protocol NAME    strict, paper, session, crossed<k> or kfold<k>, e.g. kfold5
#   --select WHICH     epoch that is tested: that of the protocol, or best-on-test
#   --folds NAMES      train these only, e.g. "Ses01F Ses01M"; empty: all
#   --seed N           of weights and batches; several: "1 2 3"
#   --ngpu N           local: GPUs, each trains one fold at a time; slurm: GPUs of one fold on each
#                      of its nodes; 0 trains on the CPU
#   --folds-per-gpu N  local: folds that share each GPU at a time
#   --nj N             folds trained at a time; empty: 2 on this machine, which divide its cores
#                      among them (GPUs decide instead if there are any), and no limit on Slurm
#   --max-epoch N      replaces max_epoch of the YAML
#   --ssl MODEL        hub id or folder of the encoder; replaces frontend_conf.model
#   --overwrite BOOL   train anew if settings or data have changed under the same tag
#   --backend NAME     local or slurm; empty: that of cmd.sh
#   --slurm-conf FILE  partition, time and so on
#   --num-nodes N      slurm: nodes that train one fold together
#   --detach BOOL      slurm: submit and return
#   --after ID         slurm: begin when this job is done
#   --id-file FILE     slurm: is written, with the number of the job
#   --python PROGRAM   the interpreter with the recipe's packages
#   -- OPTIONS         ESPnet options, e.g. --optim_conf lr=1.0e-4
set -euo pipefail
data_dir=
dump_dir=
exp_dir=
config=
experiments=
protocol=strict
select=protocol
folds=
seed=1
ngpu=0
folds_per_gpu=1
nj=
max_epoch=
ssl=
overwrite=false
backend=
num_nodes=1
detach=false
after=
id_file=
python=python3
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
slurm_conf=$root/conf/slurm.conf
. "$root/local/parse_options.sh"
parse_options "$@"
if [[ -z $data_dir || -z $dump_dir || -z $exp_dir || -z $config ]]; then
  echo "train.sh: error: --data-dir, --dump-dir, --exp-dir and --config are required" >&2
  exit 2
fi
. "$root/cmd.sh"
. "$root/local/experiments.sh"
name_experiments "$exp_dir" "$seed"
configs=("$config")
[[ -z $experiments ]] || read_experiments "$experiments"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# What needs no model is told before any job starts.
due=()
[[ -n $after ]] || due=("--fold-dir=$dump_dir/folds/$protocol" "--folds=${folds//,/ }")
"$python" -m ser.cli.bin.check_system --config "${configs[@]}" --ssl="$ssl" \
  ${due[@]+"${due[@]}"} ${extra_args[@]+-- "${extra_args[@]}"}

# One task for each fold of each seed. The list of folds may not have been made yet.
read -r -a names <<<"${folds//,/ }"
fold_list=$dump_dir/folds/$protocol/folds
num_folds=${#names[@]}
if ((num_folds == 0)) && [[ -s $fold_list ]]; then
  num_folds=$(wc -l <"$fold_list")
elif ((num_folds == 0)) && [[ -n $after ]]; then
  num_folds=$("$python" -m ser.cli.bin.count_folds --corpus "${dump_dir##*/}" --protocol "$protocol")
elif ((num_folds == 0)); then
  num_folds=1 # which says what is missing and how to make it
fi
tasks=$((num_folds * ${#seeds[@]}))

devices=0
if [[ $backend == local ]]; then
  nj=${nj:-2}
  ((ngpu == 0)) || nj=$((ngpu * folds_per_gpu))
  tasks=$((nj < tasks ? nj : tasks))
  devices=$ngpu
  ngpu=$((ngpu > 0))
fi
trainer=("$python" -m ser.cli.bin.train --data-dir "$data_dir" --dump-dir "$dump_dir"
  --exp-dir "${exp_dirs[@]}" --seed "${seeds[@]}" --config "${configs[@]}" --protocol "$protocol"
  --select "$select"
  --folds "${names[*]-}" --ngpu "$ngpu" --num-nodes "$num_nodes"
  ${max_epoch:+"--max-epoch=$max_epoch"} ${ssl:+"--ssl=$ssl"})
[[ $overwrite == false ]] || trainer+=(--overwrite)
espnet=(${extra_args[@]+-- "${extra_args[@]}"})
locks=()
for directory in "${exp_dirs[@]}"; do locks+=(--hold "$directory"); done
log=${exp_dirs[0]}/log/stage4

# What cannot be trained should not wait in a queue to say so.
if [[ $backend == slurm && -z $after ]]; then
  "$python" -m ser.cli.bin.run_jobs --backend local --name check "${locks[@]}" --show '^error: ' \
    "$log.check.log" "${trainer[@]}" --check-only ${espnet[@]+"${espnet[@]}"}
fi
submission=()
if [[ $backend == slurm ]]; then
  submission=(--num-nodes "$num_nodes" ${after:+--after "$after"} ${id_file:+--id-file "$id_file"})
  [[ $detach == false ]] || submission+=(--detach)
fi
exec "${train_cmd[@]}" --name stage4 --nj "${nj:-0}" --num-threads 0 \
  --gpu "$ngpu" --devices "$devices" \
  ${submission[@]+"${submission[@]}"} "${locks[@]}" --show '^\[(fold|progress)\] ' \
  "JOB=1:$tasks" "$log.worker.JOB.log" \
  "${trainer[@]}" "--share=JOB/$tasks" ${espnet[@]+"${espnet[@]}"}
