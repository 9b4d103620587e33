"""Stage 4 as jobs: distribute the folds of an experiment, on this machine or on Slurm.

Importing ESPnet costs as much as a small epoch, so on this machine a few processes share the folds;
on Slurm every fold is a task of one job array.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ser.cluster.local import run_local
from ser.cluster.slurm import run_slurm
from ser.cluster.tasks import Tasks
from ser.errors import UserError

SHOW = r"^\[(fold|progress)\] "  # lines of a training that the user sees
LOCAL_PROCESSES = 2


@dataclass(frozen=True)
class Jobs:
    """Where and how the trainings of stage 4 run.

    Attributes:
        ngpu: On this machine, GPUs, each training one fold at a time; on Slurm, GPUs of one fold
            on each of its nodes.
        folds_per_gpu: Folds that share each GPU of this machine at a time.
        nj: Folds trained at a time; 0: two on this machine, no limit on Slurm.
        after, id_file, detach: As for ``run_slurm``.
    """

    backend: str = "local"
    ngpu: int = 0
    folds_per_gpu: int = 1
    nj: int = 0
    num_nodes: int = 1
    slurm_conf: Path | None = None
    detach: bool = False
    after: str = ""
    id_file: Path | None = None


def launch(
    trainer: Sequence[str],
    jobs: Jobs,
    exp_dirs: Sequence[Path],
    dump_dir: Path,
    protocol: str,
    folds: Sequence[str] = (),
    espnet_options: Sequence[str] = (),
) -> int:
    """Train the folds of experiments in parallel; return the exit status.

    Args:
        trainer: The command of one worker, without its share and the options of ESPnet.
        folds: Names; empty means all of the protocol.

    Raises:
        UserError: invalid settings, before a job is submitted.
    """
    tasks = _count_folds(dump_dir, protocol, folds, jobs) * len(exp_dirs)
    local = jobs.backend == "local"
    nj = jobs.nj
    if local:
        nj = jobs.ngpu * jobs.folds_per_gpu or nj or LOCAL_PROCESSES
        tasks = min(nj, tasks)
    gpu = min(jobs.ngpu, 1) if local else jobs.ngpu
    log = exp_dirs[0] / "log/stage4"
    trainer = [*trainer, f"--ngpu={gpu}", f"--num-nodes={jobs.num_nodes}"]
    espnet = ["--", *espnet_options]
    if not local and not jobs.after:  # fail before waiting in a queue
        check = Tasks(
            log=f"{log}.check.log",
            command=[*trainer, "--check-only", *espnet],
            name="check",
            show="^error: ",
            hold=exp_dirs,
        )
        if status := run_local(check):
            return status
    work = Tasks(
        log=f"{log}.worker.JOB.log",
        command=[*trainer, f"--share=JOB/{tasks}", *espnet],
        name="stage4",
        word="JOB",
        last=tasks,
        gpu=gpu,
        devices=jobs.ngpu if local else 0,
        num_nodes=jobs.num_nodes,
        nj=nj,
        show=SHOW,
        hold=exp_dirs,
    )
    if local:
        return run_local(work)
    return run_slurm(work, jobs.slurm_conf, jobs.after, jobs.detach, jobs.id_file)


def _count_folds(dump_dir: Path, protocol: str, folds: Sequence[str], jobs: Jobs) -> int:
    """Count the folds, even before stage 3 has created them."""
    listed = dump_dir / "folds" / protocol / "folds"
    if folds:
        return len(folds)
    if listed.is_file():
        return len(listed.read_text(encoding="utf-8").split())
    if not jobs.after:
        return 1  # this task reports what is missing
    from ser.corpora.prepare import load_spec
    from ser.data.folds import expected_folds

    return expected_folds(load_spec(dump_dir.name), protocol)


def read_experiments(file: Path) -> list[tuple[Path, int, Path]]:
    """Read a sweep's list (``sweep.list_experiments``): folder, seed and YAML per experiment.

    Raises:
        UserError: no such file.
    """
    if not file.is_file():
        raise UserError(f"--experiments {file}: no such file; ./run.sh --sweep writes it")
    rows = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines())
    return [(file.parent / name, int(seed), Path(config)) for name, seed, config, *_ in rows]
