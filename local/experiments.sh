# shellcheck shell=bash
# Which directory the experiment of a seed has; sourced.

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
