# shellcheck shell=bash
# What run.sh needs to run its stages: its options, its signals and what a stage is. Sourced.
# shellcheck disable=SC2154,SC2034 # the variables are set by settle_options, and read by run.sh

# Complete and check the options (ser/cli/settings.py). Ends the run where they ask for something
# other than stages, such as --help or --status.
settle_options() { # OPTION...
  local settings arguments=("$@") i status=0 instead=()
  python=$root/.venv/bin/python
  for ((i = 0; i < $#; i++)); do
    case ${arguments[i]} in
      --) break ;;
      --python) python=${arguments[i + 1]:-} ;;
      --python=*) python=${arguments[i]#*=} ;;
    esac
  done
  if ! command -v "$python" >/dev/null; then
    printf 'error: --python %s: no such program; to install the recipe'\''s own: make install\n' \
      "$python" >&2
    exit 2
  fi
  [[ $python != */* || $python == /* ]] || python=$PWD/$python
  export SER_PYTHON=$python # a wrapper starts other processes as well
  . "$root/cmd.sh"
  settings=$(PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$python" -m ser.cli.recipe "$@") ||
    status=$?
  if [[ -z $settings && $("$python" -c 'print(1)' 2>/dev/null) != 1 ]]; then
    printf 'error: --python %s: no Python; to install the recipe'\''s own: make install\n' \
      "$python" >&2
    exit "$((status > 0 ? status : 2))"
  fi
  ((status == 0)) || exit "$status"
  if [[ $settings == Usage:* ]]; then # --help
    printf '%s\n' "$settings"
    exit
  fi
  eval "$settings"
  cd "$root" || exit 1
  . ./path.sh
  ((${#instead[@]} == 0)) || exec "${instead[@]}"
  [[ -z $chain ]] || rm -f "$chain"
  logs=${all_logs[0]}
}

# Run a stage as `ser NAME ARG...`, unless --stage and --stop-stage leave it out. If it fails or is
# stopped, end the run with its status.
run_stage() { # NUMBER NAME ARG...
  local number=$1 name=$2 resources=()
  ((stage <= number && number <= stop_stage)) || return 0
  case $number in
    1 | 3) resources=(--num-threads "$processes") ;;
    5) resources=(--gpu "$((ngpu > 0))") ;;
  esac
  ((number < stop_stage)) || resources+=(--last)
  attend "$python" -m ser stage ${resources[@]+"${resources[@]}"} ${slurm[@]+"${slurm[@]}"} \
    "$number" "$name" "$logs/stage$number.log" "$python" -m ser "${@:2}"
}

# Run COMMAND and pass signals on to it. A process in the background ignores INT.
attend() { # COMMAND...
  local signalled=true status=0 job received=
  "$@" &
  job=$!
  trap 'signalled=true received=TERM; kill -TERM "$job" 2>/dev/null || true' TERM
  trap 'signalled=true received=INT; kill -TERM "$job" 2>/dev/null || true' INT
  trap 'signalled=true received=HUP; kill -HUP "$job" 2>/dev/null || true' HUP
  trap 'signalled=true received=USR1; kill -USR1 "$job" 2>/dev/null || true' USR1
  while [[ $signalled == true ]]; do # a signal ends "wait", not yet the stage
    signalled=false
    status=0
    wait "$job" || status=$?
  done
  trap - TERM INT HUP USR1
  [[ $received != INT ]] || status=130
  ((status == 0)) || exit "$status"
}

# Turn to the experiments of the protocol with this NUMBER.
choose_experiments() { # NUMBER
  logs=${all_logs[$1]}
  which=("${experiments[@]/#/--exp-dir=}")
  [[ -z $sweep ]] || which=(--experiments "${lists[$1]}")
}

# Say what training will take, if that was asked for.
say_plan() {
  ((${#plan[@]} == 0)) || attend "${plan[@]}"
  [[ $plan_only == false ]] || exit 0
}

# Say what a detached run has left in the queue.
explain_chain() {
  [[ -n $chain ]] || return 0
  local ids
  mapfile -t ids <"$chain"
  printf '%s\n' "each of them begins when the one before it is done" \
    "  to follow them: ./run.sh --status, with the same options; squeue --jobs=$(
      IFS=,
      echo "${ids[*]}"
    )" \
    "  to stop them:   scancel ${ids[*]}"
}
