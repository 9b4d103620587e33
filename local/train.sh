#!/usr/bin/env bash
# Stage 4: train the folds of an experiment. Folds are shared out among worker processes, each of
# which trains its folds in turn, since importing ESPnet costs as much as a small epoch.
# Finished folds are kept and interrupted ones resumed.
#
# Usage: local/train.sh --data-dir data/mini --dump-dir dump/mini --exp-dir exp/mini/TAG \
#          --config conf/mini_s1.yaml [options] [-- ESPNET_OPTIONS]
#   --data-dir DIR    data/<corpus> (stages 1 and 2)
#   --dump-dir DIR    dump/<corpus> (stage 3)
#   --exp-dir DIR     exp/<corpus>/<tag>; is written
#   --config FILE     the system's YAML
#   --protocol NAME   strict, paper or session
#   --folds NAMES     train these only, e.g. "Ses01F Ses01M"; empty: all
#   --seed N          of weights and batches
#   --ngpu N          number of GPUs, each trains one fold at a time; 0 trains on the CPU
#   --nj N            number of folds trained at a time on the CPU; cores are divided among them
#   --max-epoch N     replaces max_epoch of the YAML
#   --ssl MODEL       hub id or folder of the encoder; replaces frontend_conf.model
#   --overwrite BOOL  train anew if settings or data have changed under the same tag
#   --python PROGRAM  the interpreter with the recipe's packages
#   -- OPTIONS        ESPnet options, e.g. --optim_conf lr=1.0e-4
set -euo pipefail
data_dir=
dump_dir=
exp_dir=
config=
protocol=strict
folds=
seed=1
ngpu=0
nj=2
max_epoch=
ssl=
overwrite=false
python=python3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/local/parse_options.sh"
parse_options "$@"
if [[ -z $data_dir || -z $dump_dir || -z $exp_dir || -z $config ]]; then
  echo "train.sh: error: --data-dir, --dump-dir, --exp-dir and --config are required" >&2
  exit 2
fi
. "$root/cmd.sh"
train_cmd[0]=$root/${train_cmd[0]}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

fold_list=$dump_dir/folds/$protocol/folds
all=()
if [[ -n $folds ]]; then
  read -r -a all <<<"${folds//,/ }"
elif [[ -s $fold_list ]]; then
  while IFS= read -r fold; do all+=("$fold"); done <"$fold_list"
else
  all=("") # one worker, which says what is missing and how to make it
fi

workers=$((ngpu > 0 ? ngpu : nj))
workers=$((workers < ${#all[@]} ? workers : ${#all[@]}))
cores=$(nproc)
threads=$((cores > workers ? cores / workers : 1))
gpus=()
if ((ngpu > 0)); then
  threads=0
  IFS=, read -r -a gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((ngpu - 1)))}"
fi

pids=()
trap 'kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true' TERM INT
for ((worker = 0; worker < workers; worker++)); do
  mine=()
  for ((i = worker; i < ${#all[@]}; i += workers)); do mine+=("${all[i]}"); done
  command=("$python" -m ser.bin.train --data-dir "$data_dir" --dump-dir "$dump_dir"
    --exp-dir "$exp_dir" --config "$config" --protocol "$protocol" --folds "${mine[*]}"
    --seed "$seed" --ngpu "$((ngpu > 0))" --log-dir "$exp_dir/log"
    ${max_epoch:+"--max-epoch=$max_epoch"} ${ssl:+"--ssl=$ssl"})
  [[ $overwrite == false ]] || command+=(--overwrite)
  ((ngpu == 0)) || command=(env "CUDA_VISIBLE_DEVICES=${gpus[worker % ${#gpus[@]}]}" "${command[@]}")
  "${train_cmd[@]}" --gpu "$((ngpu > 0))" --num-threads "$threads" \
    --show '^\[(fold|progress)\] ' "$exp_dir/log/stage4.worker$((worker + 1)).log" \
    "${command[@]}" ${extra_args[@]+-- "${extra_args[@]}"} &
  pids+=("$!")
done

# Every worker is waited for: one fold's failure must not cost the others.
failure=0
for pid in "${pids[@]}"; do
  status=0
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal ended "wait", not yet the worker
    wait "$pid" || status=$?
  done
  ((status == 0 || failure != 0)) || failure=$status
done
exit "$failure"
