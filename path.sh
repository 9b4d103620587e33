# shellcheck shell=bash
# The environment of every stage; sourced from the recipe's directory.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1 # progress lines must not wait in a buffer
export PYTHONUTF8=1       # transcripts and paths are UTF-8 whatever the locale says
export LC_ALL=C           # Kaldi tables are sorted in C order
