# shellcheck shell=bash
# Where jobs run. Kaldi's calling convention:
#   "${train_cmd[@]}" [--gpu N] [--num-threads N] LOG COMMAND [ARG...]
# blocks until COMMAND has ended and returns its exit status. local/run_logged.sh runs it on this
# machine; a batch system needs a program with the same arguments, and no other change.
# shellcheck disable=SC2034 # read by the scripts that source this file
train_cmd=(local/run_logged.sh)
