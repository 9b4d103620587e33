#!/usr/bin/env bash
# Run a command on this machine, with a log that says what ran where, when and how it ended.
#
# Usage: local/run_logged.sh [options] LOG COMMAND [ARG...]
#   --gpu N          accepted for batch systems; here the caller sets CUDA_VISIBLE_DEVICES
#   --num-threads N  threads of the command's numeric libraries; 0 leaves them alone
#   --show REGEX     which lines of the command's stdout are passed on (default: all)
#   --live           rewrite "[progress] ..." lines in place on a terminal, drop them elsewhere
#   --watch PREFIX   with --live: look for progress lines in PREFIX*.log as well, since a job that
#                    writes a log of its own says nothing here
#
# The log holds stdout and stderr between these lines (a previous LOG is replaced):
#   # command: local/train.sh --data-dir data/mini ...
#   # host: node7
#   # start: 2025-01-31T12:00:00+0100
#   # end: 2025-01-31T12:03:10+0100
#   # exit status: 0
# Lines that start with "warning: " are shown when the command has ended. Of a failed command the
# last lines are shown, and its exit status is returned. A TERM or INT signal ends the command
# with all of its children.
set -euo pipefail

threads=0
show=
live=false
watch=
while [[ ${1:-} == --* ]]; do
  case $1 in
    --gpu) shift 2 ;;
    --num-threads) threads=$2 && shift 2 ;;
    --show) show=$2 && shift 2 ;;
    --watch) watch=$2 && shift 2 ;;
    --live) live=true && shift ;;
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
display() {
  local line part='' status on_screen=false erase=$'\r\033[K'
  while true; do
    status=0
    IFS= read -r -t 1 line || status=$?
    line=$part$line
    part=
    if ((status > 128)); then # a second without a line; "line" may hold the beginning of one
      part=$line
      line=
      [[ $terminal == false || -z $watch ]] || line=$(watched_progress)
      [[ -n $line ]] || continue
    elif ((status > 0)) && [[ -z $line ]]; then
      break
    else # whole lines, since stderr goes to the log by itself
      printf '%s\n' "$line" >&3
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

if ! mkdir -p "$(dirname "$log")" || ! : >"$log"; then
  echo "error: $log: cannot be written; choose an --exp-dir on a writable disk" >&2
  exit 1
fi
{
  printf '# command:'
  printf ' %q' "$@"
  printf '\n# host: %s\n# start: %s\n' "$(uname -n)" "$(date +%Y-%m-%dT%H:%M:%S%z)"
} >"$log"

# With job control the command and its children are one process group that can be ended as one.
# display ignores the signal, so that the command's last words reach the log.
set -m
(
  set +em
  "$@" 2>&3 </dev/null | (trap '' TERM && display)
  exit "${PIPESTATUS[0]}"
) 3>>"$log" &
job=$!
set +m
trap 'kill -TERM -- "-$job" 2>/dev/null || true' TERM INT HUP

status=0
wait "$job" || status=$?
while kill -0 "$job" 2>/dev/null; do # the signal ended "wait", not yet the command
  wait "$job" || status=$?
done
printf '# end: %s\n# exit status: %s\n' "$(date +%Y-%m-%dT%H:%M:%S%z)" "$status" >>"$log"

grep '^warning: ' "$log" || true
if ((status != 0)); then
  body=$(grep -v -E '^(# (command|host|start|end|exit status):|warning: |\[(fold|progress)\] )' \
    "$log" || true) # what the user has not seen yet
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
