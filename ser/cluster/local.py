"""Run tasks as processes on this machine."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence

from ser.cluster.logged import TICK_SECONDS, Display, LoggedCommand, shell_status, stdout
from ser.cluster.tasks import DONE, FAILED, RUNNING, Board, Signals, Tasks, conclude, hold
from ser.errors import EXIT_RESUME, UserError


def run_local(tasks: Tasks) -> int:
    """Run ``tasks`` on this machine, ``tasks.nj`` at a time, and return their exit status.

    INT, TERM and HUP are passed on as TERM and USR1 as USR1; no further tasks are then started.
    The status is that of the signal, or, after USR1, 75 if any work is left.

    Raises:
        UserError: a locked directory, or more GPUs or nodes asked for than one machine has.
    """
    if tasks.num_nodes > 1:
        raise UserError(f"--num-nodes {tasks.num_nodes}: more than one node needs --backend slurm")
    slots = min(tasks.nj or len(tasks.numbers), len(tasks.numbers))
    threads = tasks.num_threads or max(1, _cores() // slots)
    with hold(tasks), Signals() as signals:
        return _run_processes(tasks, threads, slots, _devices(tasks, slots), signals)


def _run_processes(
    tasks: Tasks, threads: int, slots: int, devices: Sequence[str], signals: Signals
) -> int:
    board = Board(tasks)
    waiting = list(tasks.numbers)
    free = list(range(slots))
    running: dict[int, tuple[LoggedCommand, int]] = {}
    statuses: dict[int, int] = {}
    failed: list[LoggedCommand] = []
    display = Display(stdout(), tasks.show)
    while running or (waiting and not signals.received):
        while waiting and free and not signals.received:
            number, slot = waiting.pop(0), free.pop(0)
            running[number] = _start(tasks, number, threads, devices, slot, display), slot
            board.states[number] = RUNNING
        if tasks.word:
            board.say()
        signals.wait(TICK_SECONDS)
        for received in signals.take():
            for command, _ in running.values():
                command.send(received if received == signal.SIGUSR1 else signal.SIGTERM)
        for number, (command, slot) in list(running.items()):
            status = command.poll()
            if status is not None:
                statuses[number] = status
                del running[number]
                free.append(slot)
                board.states[number] = DONE if status == 0 else FAILED
                command.warn(sys.stdout)
                failed += [command] if status else []
                _say_failed(tasks, number, status, signals)
    if tasks.word:
        board.say()
    alike = _say_why(failed) and len(failed) == len(tasks.numbers)
    ended_by = [s for s in signals.received if s != signal.SIGUSR1]
    if ended_by:
        return 128 + ended_by[0]
    statuses |= dict.fromkeys(waiting, EXIT_RESUME)
    return conclude(tasks, statuses, said=alike)


def _say_why(failed: Sequence[LoggedCommand]) -> bool:
    """Print why commands have failed, the same reason once; whether it is one error for all."""
    reasons: dict[str, list[str]] = {}
    for command in failed:
        reasons.setdefault(command.reason(), []).append(command.ending())
    for reason, endings in reasons.items():
        print("\n".join(filter(None, [reason, *endings])), file=sys.stderr)
    sys.stderr.flush()
    return len(reasons) == 1 and "error:" in next(iter(reasons))


def _start(
    tasks: Tasks,
    number: int,
    threads: int,
    devices: Sequence[str],
    slot: int,
    display: Display,
) -> LoggedCommand:
    environment = dict(os.environ)
    if devices:
        mine = [devices[(slot * tasks.gpu + i) % len(devices)] for i in range(tasks.gpu)]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    command = [tasks.fill(argument, number) for argument in tasks.command]
    return LoggedCommand(
        tasks.log_of(number), command, display, threads=threads, environment=environment
    )


def _say_failed(tasks: Tasks, number: int, status: int, signals: Signals) -> None:
    if tasks.word and status not in (0, EXIT_RESUME) and not signals.received:
        title, log = tasks.title(number), tasks.log_of(number)
        print(f"[job] {title} failed with exit status {status}; log: {log}", flush=True)


def _cores() -> int:
    """Number of cores to divide among the tasks; OMP_NUM_THREADS limits it, as in nproc."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = len(os.sched_getaffinity(0))
    return int(limit) if limit.isdecimal() and int(limit) > 0 else cores


def _devices(tasks: Tasks, slots: int) -> list[str]:
    """GPUs to assign, as named in CUDA_VISIBLE_DEVICES; empty if none is requested."""
    gpu = tasks.gpu
    if gpu == 0:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [name.strip() for name in visible.split(",")] if visible else shown_gpus()
    devices = [name for name in devices if name] or [str(i) for i in range(gpu * slots)]
    if len(devices) < gpu:
        raise UserError(
            f"--gpu {gpu}: this machine shows {len(devices)} GPUs "
            f"(CUDA_VISIBLE_DEVICES={visible or 'unset'}); ask for fewer"
        )
    return devices[: tasks.devices or None]


def shown_gpus() -> list[str]:
    """Indices of the GPUs that nvidia-smi lists; empty without it."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [str(i) for i, _ in enumerate(re.findall(r"^GPU \d+", done.stdout, re.M))]


def attend(command: Sequence[str]) -> int:
    """Run ``command`` in the foreground, pass signals on to it, and return its exit status."""
    with Signals() as signals:
        process = subprocess.Popen(command)
        while process.poll() is None:
            signals.wait(TICK_SECONDS)
            for number in signals.take():
                process.send_signal(number)
    return shell_status(process.returncode)
