"""Provenance of results: command, commit, versions, machine; without private paths."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from ser import stage
from ser.config import read_yaml
from ser.files import ROOT, expand_home

PACKAGES = ("espnet", "torch", "transformers", "numpy", "scipy")
# "make results" writes these itself: its own row must not mark the next row as changed code.
GENERATED = ("RESULTS.md", "results")
EGS = ROOT / "egs"


def git_commit(root: Path | None = None) -> str:
    """The recipe's commit, 12 digits, with ``-dirty`` if tracked files differ from it.

    ``unknown`` outside a git checkout, or without git.
    """
    root = root or ROOT

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git(
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            ":/",
            *(f":(top,exclude){path}" for path in GENERATED),
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("-dirty" if changed else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware(ngpu: int = 0) -> str:
    """Processor name and number of cores, and the GPU's name if one is used."""
    name = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: use the architecture's name
    text = f"{name}, {len(os.sched_getaffinity(0))} cores"
    if ngpu > 0:
        import torch

        if torch.cuda.is_available():
            text += f", {torch.cuda.get_device_name(0)}"
    return text


def now() -> str:
    """Current UTC time, to the second, in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def digest(lines: Iterable[str]) -> str:
    """SHA-256 over ``lines``, each ended by LF."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode("utf-8")).hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a run's settings without the seed: equal for runs that differ only in the seed."""
    kept = {key: value for key, value in settings.items() if key != "seed"}
    return stage.digest([json.dumps(kept, sort_keys=True, ensure_ascii=False)])


def default_tag(config: Path | str, protocol: str, seed: int | str, select: str = "") -> str:
    """Name of a single-seed experiment in run.sh without --tag."""
    words = [Path(config).stem.removeprefix("train_"), protocol, select, f"seed{seed}"]
    return "_".join(filter(None, words))


def run_command(
    run: Mapping[str, Any],
    corpus: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
    tag: str | None = None,
    folds: Iterable[str] = (),
) -> str:
    """The ./run.sh line that repeats an experiment.

    A path outside the checkout is shown as ``PATH/TO/<name>``: its location on one machine is
    useless on another.

    Args:
        run: The experiment's run.yaml.
        corpus: The done-marker of stage 1, with ``corpus_dir``, ``text`` (if given), ``emotions``,
            ``allow_partial`` and ``undecided``.
        data_dir: data/<corpus>; a corpus in it was made by the recipe itself.
        tag: The experiment's name, included if it is not the default.
        folds: The experiment's folds, included if they are not all.
    """
    words = ["./run.sh", "--corpus", str(run["corpus"])]
    words += _corpus_options(str(run["corpus"]), corpus or {}, data_dir)
    sweep = run.get("sweep")
    if sweep:
        words += ["--sweep", public_path(sweep["file"])]
    words += ["--config", public_path(sweep["config"] if sweep else run["config"])]
    words += ["--protocol", str(run["protocol"]), "--seed", str(run["seed"])]
    if run.get("select"):
        words += ["--select", str(run["select"])]
    usual = default_tag(run["config"], run["protocol"], run["seed"], run.get("select") or "")
    if tag and tag != usual and not sweep:
        words += ["--tag", tag]
    if folds:
        words += ["--folds", " ".join(folds)]
    if run.get("max_epoch"):
        words += ["--max-epoch", str(run["max_epoch"])]
    if run.get("ssl"):
        words += ["--ssl", public_path(run["ssl"])]
    extra = run.get("extra_args") or []
    if extra:
        extra = shlex.split(extra) if isinstance(extra, str) else extra
        words += ["--", *(public_path(word) for word in extra)]
    return shlex.join(words)


def _corpus_options(name: str, corpus: Mapping[str, Any], data_dir: Path | None) -> list[str]:
    words = []
    source = corpus.get("corpus_dir")
    made = data_dir is not None and Path(source or "").resolve().is_relative_to(data_dir.resolve())
    if source and not made:
        words += ["--corpus-dir", public_path(source)]
    if corpus.get("text"):
        words += ["--text", public_path(corpus["text"])]
    emotions = list(corpus.get("emotions") or [])
    if emotions and emotions != _usual_emotions(name):
        words += ["--emotions", ",".join(emotions)]
    for name in ("allow_partial", "undecided"):
        if corpus.get(name):
            words += [f"--{name.replace('_', '-')}", "true"]
    return words


def _usual_emotions(name: str) -> list[str] | None:
    """Default emotions of corpus.yaml or of the corpus that it is based on; None without one."""
    path = EGS / name / "corpus.yaml"
    if not path.is_file():
        return None
    spec, _ = read_yaml(path, as_text=True)
    return spec["emotions"] if "emotions" in spec else _usual_emotions(spec["based_on"])


def public_path(word: Any) -> str:
    """``word``, reduced to its last part if it is a path outside the working directory."""
    text = str(word)
    if not text.startswith(("/", "..", "~")):
        return text
    try:
        return str(expand_home(text).resolve().relative_to(Path.cwd()))
    except ValueError:
        return f"PATH/TO/{Path(text).name}"
