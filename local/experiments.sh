# shellcheck shell=bash
# Which experiments a run has; sourced.

# Set seeds to the numbers in SEEDS, and exp_dirs to one directory for each: DIR itself for a single
# seed, DIR_seed1, DIR_seed2 and so on for several.
name_experiments() { # DIR SEEDS
  local seed
  IFS=' ' read -r -a seeds <<<"${2//,/ }"
  exp_dirs=("$1")
  ((${#seeds[@]} > 1)) || return 0
  exp_dirs=()
  for seed in "${seeds[@]}"; do exp_dirs+=("${1}_seed$seed"); done
}

# Set exp_dirs, seeds, configs and all_inputs (distinct "token_type bpe_size feats_type") from the
# list that ser.cli.bin.sweep has made; the experiments lie beside it.
read_experiments() { # FILE
  local name seed config token_type bpe_size feats_type inputs
  exp_dirs=()
  seeds=()
  configs=()
  all_inputs=()
  while IFS=$'\t' read -r name seed config token_type bpe_size feats_type; do
    exp_dirs+=("${1%/*}/$name")
    seeds+=("$seed")
    configs+=("$config")
    inputs="$token_type $bpe_size $feats_type"
    [[ " ${all_inputs[*]/%/;}" == *" $inputs;"* ]] || all_inputs+=("$inputs")
  done <"$1"
}
