#!/usr/bin/env bash
# Stage 3: data/<corpus> -> dump/<corpus>: waveforms, tables, targets, features and folds.
#
# Usage: local/dump.sh --data-dir data/mini --dump-dir dump/mini [options]
#   --data-dir DIR     of the corpus, with all/ and lang/ (stages 1 and 2)
#   --dump-dir DIR     of the corpus; is written
#   --token-type TYPE  tagged_class, class, tagged_phone, phone, char or bpe
#   --feats-type TYPE  raw, spectrogram, fbank, mfcc, egemaps or compare
#   --protocol NAME    strict, paper, session, crossed<k> or kfold<k>, e.g. kfold5
#   --nj N             number of processes
#   --python FILE      Python interpreter with the recipe's packages
set -euo pipefail
data_dir=
dump_dir=
token_type=tagged_class
feats_type=raw
protocol=strict
nj=2
python=python3
root=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/local/parse_options.sh"
parse_options "$@"
for name in data_dir dump_dir; do
  if [[ -z ${!name} ]]; then
    echo "dump.sh: error: --${name//_/-} is missing; all options: $0 --help" >&2
    exit 2
  fi
done

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=1 # the --nj processes are the parallelism
exec "$python" -m ser.cli.bin.prepare_dump --data-dir "$data_dir" --dump-dir "$dump_dir" \
  --token-type "$token_type" --feats-type "$feats_type" --protocol "$protocol" --nj "$nj"
