"""Record settings before training, so that no training resumes with other settings."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ser.config import differences, load_config
from ser.errors import UserError, one_line
from ser.files import atomic_write
from ser.stage import MARKER
from ser.training.checkpoint import CHECKPOINT
from ser.training.settings import Run

RUN_FILE = "run.yaml"
SYSTEM_FILE = "system.yaml"  # the configuration, merged with its bases
SETTINGS_FILE = "settings.json"


def register_run(exp_dir: Path, run: Run, overwrite: bool) -> None:
    """Write run.yaml and system.yaml of an experiment.

    A resumed or finished training keeps the commit and machine that started it.

    Raises:
        UserError: the experiment exists with other settings and ``overwrite`` is False.
    """
    path = exp_dir / RUN_FILE
    if path.exists() and not overwrite and _holds_training(exp_dir, "*/"):
        try:
            old = yaml.safe_load(path.read_text(encoding="utf-8"))
            changes = differences(old["settings"], run.settings)
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, AttributeError, KeyError) as err:
            raise _damaged(path, err) from None
        if changes:
            raise UserError(_other_settings(f"{path}: this experiment was run", changes))
        run.commit = old.get("commit", run.commit)
        run.hardware = old.get("hardware", run.hardware)
    exp_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        yaml.safe_dump(asdict(run), stream, sort_keys=False, allow_unicode=True)
    with atomic_write(exp_dir / SYSTEM_FILE) as stream:
        yaml.safe_dump(load_config(run.config), stream, sort_keys=False)


def claim(output_dir: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Record a fold's settings in its directory, before the first checkpoint.

    No training may resume from a checkpoint with other settings: ``overwrite`` removes it.

    Raises:
        UserError: there is a training with other settings and ``overwrite`` is False.
    """
    path = output_dir / SETTINGS_FILE
    if path.exists():
        try:
            changes = differences(json.loads(path.read_text(encoding="utf-8")), settings)
        except (ValueError, AttributeError) as err:
            if not overwrite:
                raise _damaged(path, err) from None
            changes = [str(err)]
        if changes and not overwrite and _holds_training(output_dir):
            raise UserError(_other_settings(f"{output_dir}: holds a training", changes))
        if changes:
            shutil.rmtree(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        json.dump(settings, stream, indent=1)


def _other_settings(what: str, changes: list[str]) -> str:
    return "\n  ".join([f"{what} with other settings:", *changes]) + (
        "\nchoose another --tag, or train it anew with --overwrite true"
    )


def _holds_training(directory: Path, pattern: str = "") -> bool:
    """False if every attempt failed before it had anything to resume from."""
    return any(any(directory.glob(pattern + name)) for name in (CHECKPOINT, MARKER))


def _damaged(path: Path, err: Exception) -> UserError:
    what = f"{type(err).__name__}: {one_line(err)}"
    return UserError(
        f"{path}: damaged ({what}); choose another --tag, or train it anew with --overwrite true"
    )
