#!/usr/bin/env bash
# One task of a Slurm job, on its node: run COMMAND with a log, record what becomes of it, and have
# Slurm run it again if it was stopped before its end. The job's script calls this.
#
# Usage: local/slurm_task.sh DIR [options of run_logged.sh] LOG COMMAND [ARG...]
#
# DIR/<job>.json records state (running, ended or requeued), exit status, host, pid, and when;
# DIR/<job>.out and .err hold what the user should see. USR1 (the time limit is near) goes to
# COMMAND, which saves its work and exits with 75; the job is then requeued. A COMMAND that was killed
# is run again once. TERM (scancel, preemption) ends COMMAND; whether the job comes back is up to Slurm.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
record=$1/$job
shift

record_state() { # STATE STATUS
  printf '{"state": "%s", "status": %d, "kills": %d, "host": "%s", "pid": %d, "time": "%s"}\n' \
    "$1" "$2" "$kills" "$(uname -n)" "$$" "$(date +%Y-%m-%dT%H:%M:%S)" >"$record.tmp" &&
    mv -f "$record.tmp" "$record.json" || true # without it, Slurm's own word counts
}

kills=0 # how often COMMAND was killed in a row
append=()
if [[ -f $record.json ]]; then # requeued
  append=(--append)
  [[ ! $(<"$record.json") =~ '"kills": '([0-9]+) ]] || kills=${BASH_REMATCH[1]}
fi
record_state running 0

# The number of CPUs comes from Slurm, unless the caller has set another one further right.
"$root/local/run_logged.sh" ${append[@]+"${append[@]}"} --num-threads "${SLURM_CPUS_ON_NODE:-0}" \
  "$@" >>"$record.out" 2>"$record.err" &
task=$!
warned=false
terminated=false
trap 'signalled=true; warned=true; kill -USR1 "$task" 2>/dev/null || true' USR1
trap 'signalled=true; terminated=true; kill -TERM "$task" 2>/dev/null || true' TERM
signalled=true
while [[ $signalled == true ]] || kill -0 "$task" 2>/dev/null; do # as in run_logged.sh
  signalled=false
  status=0
  wait "$task" || status=$?
done
((status >= 0)) || status=143 # several signals at once: Slurm ends the job

again=false
if [[ $terminated == true ]]; then
  :
elif ((status == 75)) || [[ $warned == true && $status == 1[34][37] ]]; then
  # Of nodes that train together, the first one to stop takes the others down: 137 or 143.
  again=true
  kills=0
elif ((status == 128 + 9 || status == 128 + 10)); then
  # kill -9 (often for want of memory), or the warning came before COMMAND listened
  kills=$((kills + 1))
  ((kills > 1)) || again=true
fi
if [[ $again == true ]]; then
  record_state requeued "$status"
  trap '' TERM # which is how Slurm ends the present run
  for _ in {1..10}; do
    ! scontrol requeue "$job" || exit "$status"
    sleep 5 # the controller may be away for a moment
  done
fi
record_state ended "$status"
exit "$status"
