#!/usr/bin/env bash
# Run a command on this machine, with a log that says what ran where, when and how it ended.
#
# Usage: local/run_logged.sh [options] LOG COMMAND [ARG...]
#   --num-threads N  threads of the command's numeric libraries; 0 leaves them alone
#   --show REGEX     which lines of the command's stdout are passed on (default: all)
#   --live           rewrite "[progress] ..." lines in place on a terminal, drop them elsewhere
#   --watch PREFIX   with --live: look for progress lines in PREFIX*.log as well, since a job that
#                    writes a log of its own says nothing here
#   --append         keep a previous LOG and go on below it
#
# The log holds stdout and stderr between these lines (a previous LOG is replaced):
#   # command: local/train.sh --data-dir data/mini ...
#   # host: node7
#   # job: 12_3                          (in a Slurm job)
#   # start: 2025-01-31T12:00:00+0100
#   # pid: 4711                          (of the command)
#   # end: 2025-01-31T12:03:10+0100
#   # exit status: 0
# Lines that start with "warning: " are shown when the command has ended. Of a failed command the
# last lines are shown, and its exit status is returned. A TERM or INT signal ends the command
# with all of its children (as TERM), so does HUP. USR1, "stop when you can", goes to the command
# alone; a command that has then saved its work exits with status 75.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lifeline.sh"

threads=0
show=
live=false
watch=
append=false
while [[ ${1:-} == --* ]]; do
  case $1 in
    --num-threads) threads=$2 && shift 2 ;;
    --show) show=$2 && shift 2 ;;
    --watch) watch=$2 && shift 2 ;;
    --live) live=true && shift ;;
    --append) append=true && shift ;;
    *) echo "run_logged.sh: error: unknown option $1" >&2 && exit 2 ;;
  esac
done
if (($# < 2)); then
  echo "run_logged.sh: error: usage: run_logged.sh [options] LOG COMMAND [ARG...]" >&2
  exit 2
fi
log=$1
shift

terminal=false
columns=80
if [[ $live == true && -t 1 ]]; then
  terminal=true
  columns=$(tput cols 2>/dev/null || echo 80)
fi
if ((threads > 0)); then
  export OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads
fi

# Print the newest progress line of the newest log that is being watched.
watched_progress() {
  local file newest=
  for file in "$watch"*.log; do
    [[ ! $file -nt $newest ]] || newest=$file
  done
  [[ -z $newest ]] || tail -n 200 "$newest" | grep '^\[progress\] ' | tail -n 1 || true
}

# Log what comes in and pass on what the user should see; "on_screen" is true while a progress line stands there.
# No "read -t 1": a line that comes when its time is up is taken for the beginning of one, and lost.
display() {
  local line on_screen=false erase=$'\r\033[K'
  while true; do
    if [[ $terminal == true && -n $watch ]] && ! read -r -t 0; then # nothing comes
      sleep 1
      line=$(watched_progress)
      [[ -n $line ]] || continue
    else
      IFS= read -r line || [[ -n $line ]] || break
      printf '%s\n' "$line" >&3 # whole lines, since stderr goes to the log by itself
    fi
    if [[ $live == true && $line == "[progress] "* ]]; then
      if [[ $terminal == true ]]; then
        line="  ${line#"[progress] "}"
        printf '%s%s' "$erase" "${line:0:columns-1}"
        on_screen=true
      fi
    elif [[ $line =~ $show && $line != "warning: "* ]]; then
      [[ $on_screen == false ]] || printf '%s' "$erase"
      on_screen=false
      printf '%s\n' "$line"
    fi
  done
  [[ $on_screen == false ]] || printf '%s' "$erase"
}

if ! mkdir -p "$(dirname "$log")" || ! : >>"$log"; then
  echo "error: $log: cannot be written; choose an --exp-dir on a writable disk" >&2
  exit 1
fi
[[ $append == true ]] || : >"$log"
before=$(wc -l <"$log") # lines of earlier runs
{
  printf '# command:'
  printf ' %q' "$@"
  printf '\n# host: %s\n' "$(uname -n)"
  [[ -z ${SLURM_JOB_ID:-} ]] || printf '# job: %s\n' \
    "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
  printf '# start: %s\n' "$(date +%Y-%m-%dT%H:%M:%S%z)"
} >>"$log"
this_run() { tail -n "+$((before + 1))" "$log"; }
log_end() { printf '# end: %s\n# exit status: %s\n' "$(date +%Y-%m-%dT%H:%M:%S%z)" "$1" >>"$log"; }

# Signals that come before the command is tied to this script are passed on then, and none before
# the command is about to begin: what is around it would ignore them.
tied=false
early=()
pass_on() { # SIGNAL
  local pid=
  signalled=true
  if [[ $tied == false ]]; then
    early+=("$1")
    return
  fi
  while kill -0 "$job" 2>/dev/null; do
    pid=$(this_run | sed -n '/^# pid: /{s///p;q}') || true # a signal to all ends these, too
    [[ -z $pid ]] || break
    sleep 0.05
  done
  if [[ $1 == USR1 ]]; then
    kill -USR1 "$pid" 2>/dev/null || true
  else
    kill -s "$1" -- "-$job" 2>/dev/null || true
  fi
}
trap 'pass_on TERM' TERM INT
trap 'pass_on HUP' HUP
trap 'pass_on USR1' USR1

# With job control the command and its children are one process group that can be ended as one.
# What is around the command ignores the signals: its last words have to reach the log, and its end
# has to be waited for, since it may be saving its work.
set -m
(
  set +em
  trap '' TERM HUP
  (trap - TERM HUP && exec 2>&3 </dev/null && echo "# pid: $BASHPID" >&3 && exec "$@") | display
  status=${PIPESTATUS[0]}
  log_end "$status"
  exit "$status"
) 3>>"$log" &
job=$!
set +m
tie "-$job"
tied=true
for signal in ${early[@]+"${early[@]}"}; do pass_on "$signal"; done

# A signal ends "wait" before the command has ended; a command that has ended meanwhile is still
# known to the next "wait", unless several signals came at once. What the log says is right.
signalled=true
while [[ $signalled == true ]] || kill -0 "$job" 2>/dev/null; do
  signalled=false
  status=0
  wait "$job" || status=$?
done
trap '' TERM INT HUP USR1 # they would end the programs that read the log, too
untie
last=$(tail -n 1 "$log")
if [[ $last == "# exit status: "* ]]; then
  status=${last##* }
else # all were killed
  ((status >= 0)) || status=137
  log_end "$status"
fi

this_run | grep '^warning: ' || true
if ((status == 75)); then
  echo "stopped by a signal after writing a checkpoint; run the same command to go on" >&2
elif ((status != 0)); then
  header='# (command|host|job|start|pid|end|exit status):'
  body=$(this_run | grep -v -E "^($header|warning: |\[(fold|progress)\] )" ||
    true) # what the user has not seen yet
  last=$(tail -n 15 <<<"$body")
  if [[ $last != *error:* ]]; then
    # What matters may stand above a long tail of something else: an error and the lines
    # indented below it.
    error=$(awk '/error:/ { found = $0; open = 1; next }
      open && /^  / { found = found "\n" $0; next }
      { open = 0 }
      END { print found }' <<<"$body")
    rest=$(grep -v -x -F -f <(printf '%s\n' "$error") <<<"$last" || true) # not shown twice
    last=$error${error:+${rest:+$'\n'}}$rest
  fi
  printf '%s\n' "$last" >&2
  printf 'exit status %s; log: %s\n' "$status" "$log" >&2
fi
exit "$status"
