#!/usr/bin/env bash
# Command-line options for every script of the recipe. Source this file, then call parse_options:
#
#   #!/usr/bin/env bash
#   # What the script does, in a line or two.
#   #
#   # Usage: local/example.sh [options]
#   #   --data-dir DIR   where the tables are
#   #   --stop-stage N   last stage to run
#   #   -- ARGS          passed on untouched (leave this line out and "--" is refused)
#   set -euo pipefail
#   data_dir=data
#   stop_stage=6
#   . "$(dirname "${BASH_SOURCE[0]}")/parse_options.sh"
#   parse_options "$@"
#
# The header comment is the help text, and the options are the ones it lists; the variable of the
# same name (dashes become underscores) holds the default, which --help adds in brackets. So there
# is one place for each, and an option cannot exist without being documented. A line that is
# indented by more than four blanks goes on with the one above and lists nothing.
#
# --name value and --name=value are the same, as are dashes and underscores in names. An option
# whose default is true or false takes only these two, and alone it means true. What follows "--"
# is left in the array extra_args. Usage errors go to stderr and end the script with status 2.
# Needs bash 4.2.

# shellcheck disable=SC2034 # read by the script that sources this file
extra_args=()

# Print the header comment of FILE without its comment signs.
_header() { # FILE
  awk 'NR == 1 && /^#!/ { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$1"
}

# Print the names of the options that the header of FILE lists, one a line.
_option_names() { # FILE
  _header "$1" | sed -n 's/^ \{1,4\}--\([a-z][a-z0-9-]*\).*/\1/p'
}

# Whether the header of FILE gives option NAME as "--name WORD...", several values.
_takes_list() {                                                # FILE NAME
  _header "$1" | grep "^ \{1,4\}--$2 [A-Z]*\.\.\. " >/dev/null # -q would end awk by SIGPIPE
}

_usage_error() { # FILE MESSAGE...
  local file=$1
  shift
  printf '%s: error: %s\n' "${file##*/}" "$*" >&2
  printf '%s: all options: %s --help\n' "${file##*/}" "$file" >&2
  exit 2
}

_print_help() { # FILE
  local line name var
  while IFS= read -r line; do
    name=
    if [[ $line =~ ^\ {1,4}--([a-z][a-z0-9-]*) ]]; then
      name=${BASH_REMATCH[1]}
    fi
    var=${name//-/_}
    if [[ -n $name && -n ${!var} ]]; then
      printf '%s [%s]\n' "$line" "${!var}"
    else
      printf '%s\n' "$line"
    fi
  done < <(_header "$1")
}

# Set edit_distance to the Levenshtein distance of A and B.
_edit_distance() { # A B
  local a=$1 b=$2 i j best above diagonal row
  row=()
  for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
  for ((i = 1; i <= ${#a}; i++)); do
    diagonal=${row[0]}
    row[0]=$i
    for ((j = 1; j <= ${#b}; j++)); do
      above=${row[j]}
      best=$diagonal
      [[ ${a:i-1:1} == "${b:j-1:1}" ]] || best=$((best + 1))
      ((above + 1 < best)) && best=$((above + 1))
      ((row[j - 1] + 1 < best)) && best=$((row[j - 1] + 1))
      diagonal=$above
      row[j]=$best
    done
  done
  edit_distance=${row[${#b}]}
}

# Print the options nearest to NAME: those that start with it, else those with the fewest edits.
_nearest() { # NAME OPTION...
  local name=$1 option edit_distance fewest=99 nearest=()
  shift
  for option in "$@"; do
    if [[ $option == "$name"* ]]; then
      edit_distance=0
    else
      _edit_distance "$name" "$option"
    fi
    if ((edit_distance < fewest)); then
      fewest=$edit_distance
      nearest=()
    fi
    if ((edit_distance == fewest)); then
      nearest+=("--$option")
    fi
  done
  local IFS=' '
  printf '%s' "${nearest[*]}"
}

parse_options() { # ARG...
  local script=${BASH_SOURCE[1]} name value var option known
  local names=()
  while IFS= read -r option; do
    names+=("$option")
    var=${option//-/_}
    if [[ -z ${!var+set} ]]; then
      _usage_error "$script" "the header lists --$option, but \$$var has no default"
    fi
  done < <(_option_names "$script")

  while (($# > 0)); do
    case $1 in
      -h | --help)
        _print_help "$script"
        exit 0
        ;;
      --)
        shift
        # shellcheck disable=SC2034 # read by the script that sources this file
        extra_args=("$@")
        if (($# > 0)) && ! _header "$script" | grep '^ \{1,4\}-- ' >/dev/null; then
          _usage_error "$script" "takes no arguments after --, but got: $*"
        fi
        return 0
        ;;
      --*) ;;
      *)
        _usage_error "$script" "unexpected argument '$1'; options are written --name value"
        ;;
    esac
    name=${1%%=*}
    name=${name#--}
    name=${name//_/-}
    known=false
    for option in ${names[@]+"${names[@]}"}; do
      [[ $option == "$name" ]] && known=true
    done
    if [[ $known == false ]]; then
      _usage_error "$script" "unknown option '${1%%=*}'; nearest:" \
        "$(_nearest "$name" ${names[@]+"${names[@]}"})"
    fi
    var=${name//-/_}
    if [[ $1 == *=* ]]; then
      value=${1#*=}
    elif [[ ${!var} =~ ^(true|false)$ && (-z ${2:-} || $2 == --*) ]]; then
      value=true
    elif (($# < 2)) || [[ $2 == --* ]]; then
      _usage_error "$script" "--$name needs a value (a value that starts with -- is written" \
        "--$name=VALUE)"
    else
      value=$2
      shift
      while _takes_list "$script" "$name" && (($# > 1)) && [[ $2 != --* ]]; do
        value+=" $2"
        shift
      done
    fi
    shift
    if [[ ${!var} =~ ^(true|false)$ ]] && [[ $value != true && $value != false ]]; then
      _usage_error "$script" "--$name must be true or false, not '$value'"
    fi
    printf -v "$var" '%s' "$value"
  done
}
