"""conf/slurm.conf: resources of jobs, and the lines that may make sbatch reject one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ser.errors import UserError

SECTIONS = ("cpu", "gpu")
# Set for each job by the program itself, and what to use instead.
OWN_OPTIONS = {
    "array": "tasks are those of JOB=1:N, and --nj limits how many run at a time",
    "dependency": "use --after",
    "job-name": "use --name",
    "output": "the log is the argument LOG",
    "error": "the log is the argument LOG",
    "nodes": "use --num-nodes",
    "ntasks": "use --num-nodes",
    "ntasks-per-node": "there is one process on each node",
    **dict.fromkeys(
        ("chdir", "input", "kill-on-invalid-dep", "no-requeue", "open-mode", "parsable"),
        "remove the line",
    ),
    **dict.fromkeys(("requeue", "test-only", "wait", "wrap"), "remove the line"),
}
# Message of sbatch -> options that may be the cause.
COMPLAINTS = {
    "partition": ("partition",),
    "account": ("account", "partition"),
    "qos": ("qos",),
    "time limit": ("time", "time-min", "partition"),
    "memory": ("mem", "mem-per-cpu", "mem-per-gpu"),
    "feature": ("constraint", "prefer"),
    "reservation": ("reservation",),
    "node name": ("nodelist", "exclude"),
    "processors": ("cpus-per-task", "mincpus"),
    "generic resource": ("gres",),
    "license": ("licenses",),
    "node configuration": (
        *("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "cpus-per-task"),
        *("mem", "mem-per-cpu", "mem-per-gpu", "constraint", "exclusive", "partition"),
    ),
}


@dataclass(frozen=True)
class Setting:
    """A line ``key = value``."""

    key: str
    value: str  # empty: an option without a value
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.key} = {self.value}".rstrip()


def read_settings(path: Path, gpu: int) -> list[Setting]:
    """Read the settings for a task with ``gpu`` GPUs: the common ones and those of its section.

    GPUs requested in the common part (``gres``, ``gpus``...) do not apply to tasks without GPUs.

    Raises:
        UserError: no such file, or a line that is not a comment, section or ``key = value``, is
            given twice, or sets what the program sets itself; names file and line.
    """
    if not path.is_file():
        raise UserError(f"--slurm-conf {path}: no such file; the recipe has one in conf/slurm.conf")
    section = ""
    found: dict[tuple[str, str], Setting] = {}
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = re.sub(r"(^|\s)#.*", "", raw).strip()
        where = f"{path}:{number}"
        if not text:
            continue
        if re.fullmatch(r"\[.*\]", text):
            section = text[1:-1].strip()
            if section not in SECTIONS:
                raise UserError(f"{where}: unknown section {text}; expected [cpu] or [gpu]")
            continue
        match = re.fullmatch(r"(?:--)?([A-Za-z][\w-]*)\s*=\s*(.*)", text)
        if match is None:
            raise UserError(
                f"{where}: {text!r}: expected KEY = VALUE, e.g. partition = normal; a # begins a "
                "comment"
            )
        key = match[1].replace("_", "-")
        if key in OWN_OPTIONS:
            raise UserError(f"{where}: {key} cannot be set here; {OWN_OPTIONS[key]}")
        if (section, key) in found:
            raise UserError(
                f"{where}: {key} is set already in line {found[section, key].line}; keep one"
            )
        found[section, key] = Setting(key, match[2], path, number)
    mine = "gpu" if gpu else "cpu"
    merged = {s.key: s for wanted in ("", mine) for (part, _), s in found.items() if part == wanted}
    return [s for s in merged.values() if gpu or not _asks_for_gpus(s)]


def sbatch_options(settings: Sequence[Setting], gpu: int) -> list[str]:
    """Convert ``settings`` to options of sbatch, with ``gpu`` GPUs for each node."""
    options = []
    for setting in settings:
        value = _count_gpus(setting.value, gpu) if setting.key == "gres" else setting.value
        options.append(f"--{setting.key}={value}" if value else f"--{setting.key}")
    if gpu and not any(_asks_for_gpus(setting) for setting in settings):
        options.append(f"--gres=gpu:{gpu}")
    return options


def blame(complaint: str, settings: Sequence[Setting]) -> list[Setting]:
    """Find the ``settings`` that may have caused sbatch's ``complaint``; all if unclear."""
    lower = complaint.lower()
    named = [s for s in settings if re.search(rf"--{re.escape(s.key)}\b", lower)]
    suspects = {key for words, keys in COMPLAINTS.items() if words in lower for key in keys}
    return named or [s for s in settings if s.key in suspects] or list(settings)


def _asks_for_gpus(setting: Setting) -> bool:
    return setting.key.startswith("gpus") or (
        setting.key == "gres" and any(_is_gpu(item) for item in setting.value.split(","))
    )


def _is_gpu(item: str) -> bool:
    return re.match(r"gpu(:|$)", item.strip()) is not None


def _count_gpus(value: str, gpu: int) -> str:
    """Append the number of GPUs to items such as ``gpu:a100`` that have none."""
    items = [item.strip() for item in value.split(",")]
    return ",".join(
        f"{item}:{gpu}" if _is_gpu(item) and not re.search(r":\d+$", item) else item
        for item in items
    )
