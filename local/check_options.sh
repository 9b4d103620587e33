# shellcheck shell=bash
# Complete and check the options of run.sh before anything runs; sourced by it. Afterwards the
# working directory is the recipe's, paths inside it are relative, all others absolute;
# token_type, feats_type and bpe_size are set from the config, backend from cmd.sh, and exp_dirs
# holds the experiment of every seed. A wrong option ends the script with status 2.
# shellcheck disable=SC2154,SC2034 # these variables are set, or read, by run.sh

option_error() { # MESSAGE...
  printf 'run.sh: error: %s\n' "$*" >&2
  exit 2
}

# Rewrite the path in variable NAME: absolute, or relative to the recipe if it lies inside.
settle_path() { # NAME
  local path=${!1}
  [[ $path == /* ]] || path=$PWD/$path
  printf -v "$1" '%s' "${path#"$root/"}"
}

require_integer() { # NAME LOWEST
  local value=${!1}
  if ! [[ $value =~ ^[0-9]+$ ]] || ((10#$value < $2)); then
    option_error "--${1//_/-} must be a whole number from $2 on, not '$value'"
  fi
  if ((${#value} > 10 || 10#$value > 4294967295)); then # seeds have 32 bits
    option_error "--${1//_/-} $value: the largest number is 4294967295"
  fi
  printf -v "$1" '%d' "$((10#$value))" # 08 is not an octal number here
}

require_integer stage 1
((stage <= 7)) || option_error "--stage $stage: the stages are 1 to 7"
[[ -n $stop_stage ]] || stop_stage=$((stage == 7 ? 7 : 6))
require_integer stop_stage 1
((stop_stage <= 7)) || option_error "--stop-stage $stop_stage: the stages are 1 to 7"
((stage <= stop_stage)) || option_error "--stage $stage comes after --stop-stage $stop_stage"
if [[ $seed == auto && -n $sweep ]]; then
  seed= # ser.cli.bin.sweep reads them from the sweep's file
else
  [[ $seed != auto ]] || seed=1
  read -r -a seeds <<<"${seed//,/ }"
  ((${#seeds[@]} > 0)) ||
    option_error "--seed is empty; give a number, or several: --seed \"1 2 3\""
  checked=' '
  for seed in "${seeds[@]}"; do
    require_integer seed 0
    [[ $checked != *" $seed "* ]] || option_error "--seed: $seed is given twice"
    checked+="$seed "
  done
  seed=${checked% }
  seed=${seed# }
fi
[[ -z $nj ]] || require_integer nj 1
require_integer ngpu 0
require_integer num_nodes 1
require_integer folds_per_gpu 1
[[ -z $max_epoch ]] || require_integer max_epoch 1
folds=${folds//,/ }

. "$root/local/check_backend.sh"
if [[ $protocol =~ ^(kfold|crossed)([0-9]+)$ && -z $k ]]; then # as in run.yaml and RESULTS.md
  protocol=${BASH_REMATCH[1]}
  k=${BASH_REMATCH[2]}
fi
case $protocol in
  strict | paper | session | prefix)
    [[ -z $k ]] || option_error "--k $k is for --protocol kfold and crossed; leave it out with" \
      "$protocol"
    ;;
  kfold | crossed)
    [[ -n $k ]] || option_error "--protocol $protocol needs a number of folds or groups, e.g. --k 5"
    require_integer k 2
    protocol=$protocol$k
    k=
    ;;
  *)
    option_error "--protocol $protocol: expected strict, paper, session, crossed or kfold (or" \
      "the leaky prefix)"
    ;;
esac
case $select in
  protocol | best-on-test) ;;
  *) option_error "--select $select: expected protocol (or the leaky best-on-test)" ;;
esac
if [[ $corpus == */* || ! -f $root/egs/$corpus/corpus.yaml ]]; then
  known=$(cd "$root/egs" && printf '%s ' */corpus.yaml)
  option_error "--corpus '$corpus' is unknown; egs/ has: ${known//\/corpus.yaml/}"
fi
if [[ -n $corpus_dir && ! -e $corpus_dir ]]; then
  option_error "--corpus-dir $corpus_dir: no such directory"
fi
[[ -z $text || -f $text ]] || option_error "--text $text: no such file"
if [[ $tag == */* || $tag == -* || $tag == . || $tag == .. ]]; then
  option_error "--tag '$tag': a tag is a name, not a path (see --exp-dir)"
fi

if [[ -z $config ]]; then
  config=$root/conf/${corpus}_s1.yaml
  if [[ $corpus == casia ]]; then
    config=$root/conf/train_s4_cgru_attention.yaml
  elif [[ ! -f $config ]]; then
    config=$root/conf/train_s1_mtl_phoneme.yaml
  fi
elif [[ ! -e $config && -f $root/$config ]]; then
  config=$root/$config
fi
if [[ ! -f $config ]]; then
  known=$(cd "$root" && printf '%s ' conf/*.yaml)
  option_error "--config $config: no such file; there are: $known"
fi
if [[ -n $sweep ]]; then
  [[ -f $sweep || ! -f $root/$sweep ]] || sweep=$root/$sweep
  known=$(cd "$root" && printf '%s ' conf/sweeps/*.yaml)
  [[ -f $sweep ]] || option_error "--sweep $sweep: no such file; there are: $known"
  [[ -z $tag ]] || option_error "--tag does not go with --sweep, whose points have tags of their own"
  [[ $select == protocol ]] || option_error "--select does not go with --sweep"
fi
if [[ -z $tag ]]; then
  tag=${config##*/}
  tag=${tag%.*}
  tag=${tag#train_}_$protocol
  [[ $select == protocol ]] || tag+=_$select
  [[ $seed == *' '* ]] || tag+=_seed$seed
fi

if ! command -v "$python" >/dev/null; then
  option_error "--python $python: no such program; to install the recipe's own: make install"
fi
for path_option in data_dir dump_dir exp_dir; do
  [[ -n ${!path_option} ]] || option_error "--${path_option//_/-} is empty; give a directory"
done
[[ -n $results ]] || results=$exp_dir/RESULTS.md
for path_option in config data_dir dump_dir exp_dir results slurm_conf ${corpus_dir:+corpus_dir} \
  ${text:+text} ${sweep:+sweep}; do
  settle_path "$path_option"
done
# A bare name is looked up in PATH, and a hub id (owner/name) is no path either.
[[ $python != */* ]] || settle_path python
[[ -z $ssl || ! -d $ssl ]] || settle_path ssl
cd "$root" || exit 1
exp_base=$exp_dir/$corpus/$tag
. "$root/local/experiments.sh"
name_experiments "$exp_base" "$seed"

# What needs no model is told before anything begins.
if ((stage <= 4 && stop_stage >= 4)) && [[ $status$paper == falsefalse && -z $compare ]]; then
  due=()
  ((stage < 4)) || due=("--fold-dir=$dump_dir/$corpus/folds/$protocol" "--folds=$folds")
  PYTHONPATH=$root "$python" -m ser.cli.bin.check_system --config "$config" --ssl="$ssl" \
    ${due[@]+"${due[@]}"} ${extra_args[@]+-- "${extra_args[@]}"}
fi
config_value() { # KEY DEFAULT
  PYTHONPATH=$root "$python" -m ser.cli.bin.config_value --config "$config" "$@"
}
token_type=$(config_value token_type tagged_class)
feats_type=$(config_value feats_type raw)

if [[ -n $emotions$text ]] && ((stage > 1)); then
  PYTHONPATH=$root "$python" -m ser.cli.bin.check_data \
    --corpus "$corpus" --data-dir "$data_dir" --emotions="$emotions" ${text:+"--text=$text"}
fi
bpe_size=$(config_value bpe_size)

# What is to be run, and the units and features that stages 2 and 3 have to make for it.
list_experiments() { # of the sweep under the present protocol
  experiments=$exp_dir/$corpus/${sweep##*/}
  experiments=${experiments%.*}_$protocol.tsv
  mkdir -p "$exp_dir/$corpus"
  PYTHONPATH=$root "$python" -m ser.cli.bin.sweep --sweep "$sweep" --config "$config" \
    --exp-root "$exp_dir" --corpus "$corpus" --protocol "$protocol" --seed="$seed" >"$experiments"
  read_experiments "$experiments"
}
experiments=
all_inputs=("$token_type ${bpe_size:--} $feats_type")
[[ $paper == true ]] || protocols=("$protocol")
[[ -z $sweep ]] || list_experiments

# What begins after the training would otherwise make the folder of an experiment for its log.
if ((stage > 4)) && [[ $status$leakage$paper == falsefalsefalse && -z $compare ]]; then
  for directory in "${exp_dirs[@]}"; do
    [[ -d $directory ]] || option_error "--stage $stage: there is no experiment $directory;" \
      "train it first, or correct what names it: --tag, --config, --protocol, --seed"
  done
fi
