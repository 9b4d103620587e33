# shellcheck shell=bash
# One system under every protocol and selection, sound and leaky: ./run.sh --leakage true. Sourced.
# shellcheck disable=SC2154 # the variables are set by run.sh

# Run run.sh with its ARGs in every way, then print the results side by side. A way that the corpus
# does not allow (prefix without dialogs) is left out with what it said.
run_variants() { # ARG...
  local passed=() variant protocol select directories=() found
  while (($# > 0)); do
    case ${1//_/-} in
      --leakage) [[ ${2:---} == --* ]] || shift ;;
      --leakage=*) ;;
      --protocol | --protocol=* | --k | --k=* | --select | --select=* | --tag | --tag=* | --sweep | --sweep=* | \
        --detach | --detach=*)
        printf 'run.sh: error: %s does not go with --leakage, which sets it\n' "${1%%=*}" >&2
        exit 2
        ;;
      *) passed+=("$1") ;;
    esac
    shift
  done
  for variant in strict:protocol paper:protocol session:protocol prefix:protocol paper:best-on-test; do
    protocol=${variant%:*}
    select=${variant#*:}
    printf '%s\n' "--protocol $protocol --select $select"
    if "$root/run.sh" --protocol "$protocol" --select "$select" \
      ${passed[@]+"${passed[@]}"}; then
      found=$(. "$root/local/check_options.sh" && printf '%s\n' "${exp_dirs[@]}")
      mapfile -t -O "${#directories[@]}" directories <<<"$found"
    fi
  done
  . "$root/local/check_options.sh"
  . ./path.sh
  "$python" -m ser.cli.bin.leakage --exp-dir "${directories[@]}"
}
