# shellcheck shell=bash
# Where jobs run: local is this machine, slurm a cluster (docs/cluster.md). A lab writes its choice
# in the place of local; ./run.sh --backend wins. What Slurm needs to know is in conf/slurm.conf.
export SER_BACKEND=${SER_BACKEND:-local}

# Kaldi's calling convention, the same for both:
#   "${train_cmd[@]}" [--gpu N] [--num-threads N] [JOB=1:N] LOG COMMAND [ARG...]
# runs COMMAND, or N of them with JOB standing for 1 to N in LOG and ARGs, blocks until all have
# ended and returns 0 if all went well. All options: ser jobs --help
# shellcheck disable=SC2034 # for scripts of your own
train_cmd=("${python:-python3}" -m ser jobs)
