#!/usr/bin/env bash
# Stage 1: a corpus on disk -> data/<corpus>/all (wav.scp text utt2spk spk2utt utt2emo utt2gender
# utt2session utt2dur emotions language), checked against every count of egs/<corpus>/corpus.yaml.
# The mini corpus is first synthesised, in data/mini/corpus.
#
# Usage: local/data.sh --corpus NAME [options]
#   --corpus NAME         a folder of egs/
#   --corpus-dir DIR      where the corpus lies
#   --text FILE           transcripts in place of the corpus' own, UTF-8, in lines of an utterance
#                         id (or the number of a sentence, as in casia) and the words
#   --data-dir DIR        is written, in the folder of the corpus
#   --emotions SET        a set of corpus.yaml (emodb: 4 or 7) or a comma list in class order
#   --allow-partial BOOL  go on when parts of the corpus are missing; the results will say so
#   --seed N              of the mini corpus
#   --nj N                files read at the same time
#   --python PROGRAM      the interpreter with the recipe's packages
#
# Defaults of options without one here: python -m ser.cli.bin.prepare_data --help
#
# Example: local/data.sh --corpus emodb --corpus-dir ~/emodb/wav
set -euo pipefail

corpus=
corpus_dir=
text=
data_dir=
emotions=
allow_partial=false
seed=
nj=
python=python3

here=$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/parse_options.sh"
parse_options "$@"
if [[ -z $corpus ]]; then
  echo "data.sh: error: --corpus is required, e.g. --corpus mini" >&2
  exit 2
fi

PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m ser.cli.bin.prepare_data \
  --corpus="$corpus" --allow-partial="$allow_partial" \
  ${corpus_dir:+"--corpus-dir=$corpus_dir"} ${data_dir:+"--data-dir=$data_dir"} \
  ${text:+"--text=$text"} ${emotions:+"--emotions=$emotions"} ${seed:+"--seed=$seed"} ${nj:+"--nj=$nj"}
