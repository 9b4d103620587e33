# shellcheck shell=bash
# Everything that the paper reports: ./run.sh --paper. Sourced by run.sh before its options are
# completed: a sweep (conf/sweeps/paper.yaml) in two protocols, one after the other.
# shellcheck disable=SC2154,SC2034 # the variables are set, or read, by run.sh
[[ $paper == true ]] ||
  _usage_error "$root/run.sh" "--plan says what --paper will take; give both"
for option in sweep compare tag k; do
  [[ -z ${!option} ]] ||
    _usage_error "$root/run.sh" "--$option does not go with --paper; leave one of them out"
done
[[ $leakage == false ]] || _usage_error "$root/run.sh" "--leakage does not go with --paper"
[[ $protocol$select == strictprotocol ]] || _usage_error "$root/run.sh" "--protocol and --select" \
  "do not go with --paper, which runs the protocols paper and strict"
sweep=$root/conf/sweeps/paper.yaml
protocols=(paper strict)
protocol=${protocols[0]}
[[ $plan == false ]] || stop_stage=3

# Call ser.cli.bin.paper with what tells it the experiments.
ask_paper() { # OPTION...
  "$python" -m ser.cli.bin.paper --sweep "$sweep" --config "$config" --exp-root "$exp_dir" \
    --corpus "$corpus" "${dump[@]}" --protocol "${protocols[@]}" --seed="$seed" "$@"
}

# Say what the trainings will take. Of a detached run there are no data yet to tell it from.
plan_paper() {
  [[ $plan == true ]] || { ((stage <= 4 && stop_stage >= 4)) && [[ $detach == false ]]; } || return 0
  ask_paper --plan --folds="$folds" --ngpu "$ngpu" --folds-per-gpu "$folds_per_gpu" --nj="$nj" \
    --max-epoch="$max_epoch" --ssl="$ssl" --backend "$backend" ${extra_args[@]+-- "${extra_args[@]}"}
}

# Turn to the experiments of the present protocol; without stage 4, to those that have got so far.
begin_protocol() {
  local directory all
  list_experiments
  exp=${exp_dirs[0]}
  ((stage > 4)) || return 0
  exp=$exp_dir/$corpus/paper
  all=("${exp_dirs[@]}")
  exp_dirs=()
  for directory in "${all[@]}"; do
    ! compgen -G "$directory/*/.done" >/dev/null || exp_dirs+=("$directory")
  done
}
