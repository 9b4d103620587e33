# shellcheck shell=bash
# How run.sh runs a stage: on this machine or as a Slurm job, waiting for its end or not. Sourced.
# shellcheck disable=SC2154 # the variables are set by run.sh

. ./local/lifeline.sh
exp=${exp_dirs[0]} # what several seeds share is logged with the first
chain=()           # the jobs of a detached run, each to begin when the one before it is done
received=          # the signal that asked this run to stop
job=               # the process of the stage that is running
running=           # its name
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM
trap 'pass_on HUP' HUP
trap 'pass_on USR1' USR1

# Only training answers USR1, "stop when you can"; other stages are quick to repeat. A process in
# the background ignores INT.
pass_on() { # SIGNAL
  local signal=$1
  received=$1
  signalled=true
  case $signal in
    INT) signal=TERM ;;
    USR1) [[ $running == train ]] || signal=TERM ;;
  esac
  [[ -z $job ]] || kill -s "$signal" "$job" 2>/dev/null || true
}

# Run local/NAME.sh with its ARGs, unless --stage and --stop-stage leave it out. If it fails or is
# stopped, end the run.
run_stage() { # NUMBER NAME ARG...
  local number=$1 name=$2 log=$exp/log/stage$1.log resources=()
  shift 2
  ((stage <= number && number <= stop_stage)) || return 0
  case $number in
    1 | 3) resources=(--num-threads "${nj:-2}") ;; # their processes
    5) resources=(--gpu "$((ngpu > 0))") ;;
  esac
  local command=("local/$name.sh" --python "$python" "$@")
  local slurm_command=("${train_cmd[@]}" ${resources[@]+"${resources[@]}"} --name "stage$number")
  if [[ $detach == true ]]; then
    submit_stage
  elif [[ $backend == local || $name == train ]]; then # train.sh calls train_cmd by itself
    watch_stage "$log" "${command[@]}"
  else
    watch_stage "${log%log}slurm.log" "${slurm_command[@]}" "$log" "${command[@]}"
  fi
}

watch_stage() { # LOG COMMAND...
  local began=$SECONDS status=0 code elapsed
  printf 'stage %d (%s): started, log: %s\n' "$number" "$name" "$log"
  local/run_logged.sh --live --watch "${log%log}" "$@" &
  job=$!
  tie "$job"
  running=$name
  [[ -z $received ]] || pass_on "$received" # it came before there was a job
  while true; do
    signalled=false
    code=0
    wait "$job" || code=$?
    ((code == 127)) || status=$code   # 127: it had ended before
    [[ $signalled == true ]] || break # else the signal ended "wait", not yet the stage
  done
  job=
  untie
  elapsed=$(printf '%d:%02d' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)))
  case $received in
    INT) status=130 ;;
    TERM) status=143 ;;
    HUP) status=129 ;;
    USR1) ((status != 143)) || status=75 ;;
  esac
  if ((status == 75)); then
    stop_for_now
  elif ((status != 0)); then
    [[ -e $log ]] || log=$1 # a job that Slurm has not taken
    printf 'stage %d (%s): FAILED after %s; log: %s\n' "$number" "$name" "$elapsed" "$log" >&2
    exit "$status"
  fi
  printf 'stage %d (%s): done in %s\n' "$number" "$name" "$elapsed"
  [[ $received != USR1 ]] || ((number == stop_stage)) || stop_for_now
}

# End a run that was warned of its end, so that it can go on later; as a Slurm job, by itself.
stop_for_now() {
  local again='run the same command to go on'
  if [[ -n ${SER_BATCH_JOB:-} && ${SER_BATCH_JOB:-} == "${SLURM_JOB_ID:-}" ]]; then
    again="job $SLURM_JOB_ID is requeued and goes on by itself"
  fi
  printf 'stage %d (%s): stopped after %s by a signal; %s\n' "$number" "$name" "$elapsed" "$again"
  [[ $again == run* ]] || scontrol requeue "$SLURM_JOB_ID"
  exit 75
}

# Submit a stage of a detached run. If Slurm refuses it, the stages before it are withdrawn.
submit_stage() {
  local id_file=$exp/log/stage$number.job status=0 after=
  ((${#chain[@]} == 0)) || after=${chain[${#chain[@]} - 1]}
  if [[ $name == train ]]; then
    "${command[0]}" --detach true --after="$after" --id-file "$id_file" "${command[@]:1}" ||
      status=$?
  else
    "${slurm_command[@]}" --detach ${after:+--after "$after"} --id-file "$id_file" \
      "$log" "${command[@]}" || status=$?
  fi
  ((status != 0)) || chain+=("$(<"$id_file")")
  if ((status != 0)) || [[ -n $received ]]; then
    ((${#chain[@]} == 0)) || scancel "${chain[@]}" || true
    printf 'stage %d (%s): not submitted, and the stages before it are withdrawn\n' \
      "$number" "$name" >&2
    exit "$((status != 0 ? status : 130))"
  fi
}

# Say what a detached run has left in the queue.
explain_chain() {
  local ids
  printf -v ids '%s,' "${chain[@]}"
  printf '%s\n' "each of them begins when the one before it is done" \
    "  to follow them: ./run.sh --status, with the same options; squeue --jobs=${ids%,}" \
    "  to stop them:   scancel ${chain[*]}"
}
