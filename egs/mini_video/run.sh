#!/usr/bin/env bash
# All stages on this corpus; the options are those of ../../run.sh (see its --help).
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../run.sh" --corpus mini_video "$@"
