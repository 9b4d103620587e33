# shellcheck shell=bash
# Settle the backend and check the options that depend on it; sourced by check_options.sh.
# shellcheck disable=SC2154 # these variables are set by run.sh

count_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[[:space:]]*[^-[:space:]]' || true # -1: none
  else
    { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU' || true
  fi
}

backend=$(. "$root/cmd.sh" && printf '%s' "$backend")
case $backend in
  local)
    [[ $detach == false ]] || option_error "--detach true: needs --backend slurm"
    ((num_nodes == 1)) || option_error "--num-nodes $num_nodes: needs --backend slurm"
    if ((ngpu > 0 && ngpu > $(count_gpus))) && [[ $status == false ]]; then
      option_error "--ngpu $ngpu: this machine shows $(count_gpus) GPUs (nvidia-smi -L;" \
        "CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-unset}); --ngpu 0 runs on the CPU. Where" \
        "there is no nvidia-smi, CUDA_VISIBLE_DEVICES=0 names the first GPU"
    fi
    ;;
  slurm)
    if ! command -v sbatch >/dev/null; then
      option_error "--backend slurm: found no program sbatch; run this where jobs are submitted" \
        "(a cluster's login node), or on this machine alone: --backend local"
    fi
    [[ -f $slurm_conf ]] || option_error "--slurm-conf $slurm_conf: no such file"
    ;;
  *) option_error "--backend $backend: expected local or slurm" ;;
esac
