#!/usr/bin/env bash
# Stage 2: words -> phonemes -> units. Reads data/<corpus>/all, writes data/<corpus>/lang
# (lexicon, phones, emotion-tagged manner classes) and lang_<type> for another token type.
#
# Usage: local/lang.sh --data-dir DIR [options]
#   --data-dir DIR     the corpus' directory, with all/ from stage 1
#   --token-type TYPE  tagged_class, class, tagged_phone, phone, char or bpe
#   --bpe-size N       number of pieces for bpe; its tokenizer sees the text of all speakers
#   --python PROGRAM   the interpreter with the recipe's packages
#
# Defaults of --token-type and --bpe-size: python -m ser.cli.bin.prepare_lang --help
#
# Example: local/lang.sh --data-dir data/mini --token-type char
set -euo pipefail

data_dir=
token_type=
bpe_size=
python=python3

here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/parse_options.sh"
parse_options "$@"
if [[ -z $data_dir ]]; then
  echo "lang.sh: error: --data-dir is required, e.g. --data-dir data/mini" >&2
  exit 2
fi

PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m ser.cli.bin.prepare_lang \
  --data-dir "$data_dir" \
  ${token_type:+"--token-type=$token_type"} ${bpe_size:+"--bpe-size=$bpe_size"}
