"""Sweeps: one system at several points, each point a configuration of its own, one set of jobs.

A sweep is a YAML file (conf/sweeps/):

    about: The weight of the phoneme head (Table 3 of Li et al., 2024)
    seeds: 1 2 3                      # unless --seed says otherwise
    x: aux_conf.pr.weight             # what the figure's axis shows; without it, the points' names
    grid:                             # every combination is a point
      aux_conf.pr.weight: [0.0, 0.001, 0.01, 0.1, 1.0]
    points:                           # more points, by name
      no_head: {aux_conf: {}}
    requires: aux_conf.pr             # what the system's YAML must have
    stated: {"0.1": {wa: 76, ua: 77}} # WA and UA that a publication states for points, percent
    published: {}                     # what else it says, for --paper (conf/sweeps/paper.yaml)

Keys are those of the system's YAML, with dots into its mappings; a point is that YAML
(``--config``) with the point's values in it, null removing a key, and with the key ``sweep``, which
says where it comes from. A point's experiments have the tags ``<sweep>_<point>_<protocol>_seed<N>``
and are ordinary ones: resumable, compared, in RESULTS.md.
"""

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.config import dump_config, load_config
from ser.errors import UserError
from ser.files import atomic_write

KINDS = {"x": str, "grid": dict, "points": dict, "stated": dict, "requires": str, "published": dict}
MADE_OF = "with letters, digits and . _ + -"
KEYS = ("about", "seeds", "x", "grid", "points", "stated", "requires", "published")
LARGEST_SEED = 2**32 - 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Point:
    """One configuration of a sweep."""

    name: str
    changes: dict[str, Any]  # dotted key -> value
    config: dict[str, Any]  # the whole YAML

    def experiment(self, sweep: str, protocol: str, seed: int | str) -> str:
        """Tag of the experiment with ``seed``."""
        return f"{sweep}_{self.name}_{protocol}_seed{seed}"


@dataclass(frozen=True)
class Sweep:
    """Contents of a sweep's file."""

    file: Path
    base: Path  # the configuration that it varies
    name: str
    about: str
    seeds: list[int]
    x: str | None
    points: list[Point]
    stated: dict[str, dict[str, float]]  # point -> scores stated in the publication
    published: dict[str, Any]  # its other results, for ser/reporting/paper.py


def load_sweep(path: Path | str, base: Path | str) -> Sweep:
    """Load the sweep in ``path`` over the configuration ``base``.

    Raises:
        UserError: unknown keys, no points, two points of one name, a key whose parent is not a
            mapping in ``base``, a name that cannot be part of a tag, or a ``base`` that lacks a
            key that the sweep requires.
    """
    path = Path(path)
    content, config = load_config(path), load_config(base)
    unknown = sorted(content.keys() - set(KEYS))
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]!r}; a sweep has {', '.join(KEYS)}")
    if not NAME.fullmatch(path.stem):
        raise UserError(f"{path}: tags begin with this file's name; rename it, {MADE_OF}")
    for key, kind in KINDS.items():
        value = content.get(key)
        if value is not None and not isinstance(value, kind):
            what = "a mapping" if kind is dict else "text"
            raise UserError(f"{path}: {key}: found {value!r}; expected {what}")
    _require(base, config, path, content.get("requires"))
    grid, named = content.get("grid") or {}, content.get("points") or {}
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: grid.{key}: found {values!r}; expected a list of values")
    points = [
        _point(path, _grid_name(changes), changes, config)
        for changes in (
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        )
        if changes
    ]
    points += [_point(path, str(name), changes or {}, config) for name, changes in named.items()]
    names = [point.name for point in points]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not points or repeated:
        what = f"two points are called {repeated[0]}" if repeated else "no points"
        raise UserError(f"{path}: {what}; give a grid or points with different names")
    x = content.get("x")
    if x is not None and any(x not in point.changes for point in points):
        raise UserError(f"{path}: x: {x!r} is not set by every point; leave it out or fix the grid")
    return Sweep(
        file=path,
        base=Path(base),
        name=path.stem,
        about=str(content.get("about", path.stem)),
        seeds=read_seeds(str(content.get("seeds", "1")), f"{path}: seeds:"),
        x=x,
        points=points,
        stated=_stated(path, content.get("stated") or {}, names),
        published=content.get("published") or {},
    )


def read_seeds(text: str, where: str) -> list[int]:
    """Read seeds such as ``1 2 3``; errors begin with ``where``."""
    seeds = text.replace(",", " ").split()
    if not seeds:
        raise UserError(f'{where} is empty; give a number, or several: "1 2 3"')
    for seed in seeds:
        if not seed.isdecimal() or int(seed) > LARGEST_SEED:
            raise UserError(f"{where} {seed}: expected a whole number from 0 to {LARGEST_SEED}")
    numbers = [int(seed) for seed in seeds]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise UserError(f"{where} {twice[0]} is given twice")
    return numbers


def write_points(sweep: Sweep, directory: Path) -> dict[str, Path]:
    """Write every point's YAML to ``directory``/<point>.yaml; return the files by point."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, point in enumerate(sweep.points, start=1):
        files[point.name] = directory / f"{point.name}.yaml"
        origin = {
            "name": sweep.name,
            "about": sweep.about,
            "file": str(sweep.file),
            "config": str(sweep.base),
            "point": point.name,
            "number": number,
            "points": len(sweep.points),
            "stated": sweep.stated.get(point.name),
        }
        content = {**point.config, "sweep": origin}
        text = f"# a point of {sweep.file}; correct it there\n{dump_config(content)}"
        if not files[point.name].is_file() or files[point.name].read_text("utf-8") != text:
            with atomic_write(files[point.name]) as stream:
                stream.write(text)
    return files


def list_experiments(
    sweep: Sweep, protocol: str, seeds: list[int], directory: Path
) -> list[tuple[str, ...]]:
    """Write the points' YAML to ``directory`` and list the experiments to run.

    Returns:
        For every point and seed: tag, seed, configuration file, token_type, bpe_size and
        feats_type.
    """
    files = write_points(sweep, directory)
    return [
        (
            point.experiment(sweep.name, protocol, seed),
            str(seed),
            str(files[point.name]),
            str(point.config.get("token_type", "tagged_class")),
            str(point.config.get("bpe_size", 500)),
            str(point.config.get("feats_type", "raw")),
        )
        for point in sweep.points
        for seed in seeds
    ]


def _require(base: Path | str, config: dict[str, Any], path: Path, key: str | None) -> None:
    """Reject a configuration without the dotted ``key``, which points would only half define."""
    place: Any = config
    for part in key.split(".") if key else ():
        place = place.get(part) if isinstance(place, dict) else None
    if key and not place:
        raise UserError(
            f"--config {base}: no {key}, which {path} varies; give a system that has it, such as "
            "conf/train_s1_mtl_phoneme.yaml"
        )


def _grid_name(changes: Mapping[str, Any]) -> str:
    """Name a point: ``lr1.0e-04_adam``, last part of each key and value; a lone value alone."""
    if len(changes) == 1:
        (value,) = changes.values()
        return _text(value)
    return "_".join(
        f"{str(key).rpartition('.')[2]}{_text(value)}" for key, value in changes.items()
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _stated(path: Path, stated: dict[Any, Any], names: list[str]) -> dict[str, dict[str, float]]:
    """The stated scores by point; UserError for an unknown point, or without numbers."""
    found = {_text(name): scores for name, scores in stated.items()}
    for name, scores in found.items():
        if name not in names:
            raise UserError(f"{path}: stated.{name}: no such point; there are {', '.join(names)}")
        told = [scores.get(key) for key in ("wa", "ua")] if isinstance(scores, dict) else [None]
        if not all(isinstance(number, int | float) for number in told):
            raise UserError(
                f"{path}: stated.{name}: found {scores!r}; expected WA and UA in percent, e.g. "
                "{wa: 76, ua: 77}"
            )
    return found


def _point(path: Path, name: str, changes: dict[str, Any], config: dict[str, Any]) -> Point:
    if not NAME.fullmatch(name):
        raise UserError(f"{path}: point {name!r}: name it under points, {MADE_OF}")
    if not isinstance(changes, dict):
        raise UserError(f"{path}: points.{name}: found {changes!r}; expected `key: value` lines")
    changed = copy.deepcopy(config)
    for key, value in changes.items():
        *parents, last = str(key).split(".")
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"{path}: {key}: {parent} is no mapping in the system's YAML")
        if value is None:  # as in a file with a base
            place.pop(last, None)
        else:
            place[last] = value
    return Point(name, changes, changed)
