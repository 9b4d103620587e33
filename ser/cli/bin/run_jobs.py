"""Run COMMAND, or one for each number of JOB=1:N, here or on Slurm; wait; return the exit status.

JOB stands for a task's number in LOG and the ARGs. One task's failure does not stop the others; the
status is that of the first failed task.
"""

import sys
from argparse import REMAINDER, ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path

from ser.cluster.local import parse_tasks, run_local
from ser.cluster.slurm import run_slurm
from ser.console import run
from ser.errors import UserError

FIELDS = ("gpu", "devices", "num_threads", "num_nodes", "nj", "show", "name", "hold")


def main() -> None:
    """Parse the command line, run the tasks, exit with their status."""
    parser = ArgumentParser(
        usage="run_jobs.py [options] [JOB=1:N] LOG COMMAND [ARG...]",
        description=__doc__,
        formatter_class=ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--backend", choices=("local", "slurm"), default="local", help="where the tasks run")
    add("--gpu", type=int, default=0, help="GPUs of a task, on each of its nodes")
    add("--devices", type=int, default=0, help="GPUs that tasks share here (local); 0: all")
    add(
        "--num-threads", type=int, default=0, help="of a task; 0: cores divided, or Slurm's default"
    )
    add("--num-nodes", type=int, default=1, help="nodes of a task (slurm)")
    add("--nj", type=int, default=0, help="tasks at a time; 0: all")
    add("--name", default="", help="of the tasks, in messages; default: that of LOG")
    add("--show", default="", help="which lines of stdout are passed on, a regular expression")
    add("--hold", action="append", type=Path, default=[], help="directory to lock meanwhile")
    add("--slurm-conf", type=Path, help="settings of sbatch; default: conf/slurm.conf")
    add("--detach", action="store_true", help="submit and return (slurm)")
    add("--after", default="", help="ID[:ID...]: begin when these jobs are done (slurm)")
    add("--id-file", type=Path, help="is written, with the number of the job (slurm)")
    add("arguments", nargs=REMAINDER, metavar="[JOB=1:N] LOG COMMAND [ARG...]", help="what to run")
    args = parser.parse_args()
    tasks = parse_tasks(args.arguments, **{field: getattr(args, field) for field in FIELDS})
    if args.backend == "slurm":
        sys.exit(run_slurm(tasks, args.slurm_conf, args.after, args.detach, args.id_file))
    if args.detach or args.after or args.id_file:
        raise UserError("--detach, --after, --id-file: they need --backend slurm")
    sys.exit(run_local(tasks))


if __name__ == "__main__":
    run(main)
