"""The wheel: what it declares is enough to predict, and what it holds is enough to report."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, PathDistribution, distribution
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement

from ser.release.pack import pack_experiment
from tests.support import ROOT
from tests.support.packable import make_experiment


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The contents of the wheel in an otherwise empty folder."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "pyproject.toml", source)
    shutil.copytree(ROOT / "ser", source / "ser", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    zipfile.ZipFile(source / done.stdout.splitlines()[-1]).extractall(site)
    return site


def metadata(site: Path) -> PathDistribution:
    (directory,) = site.glob("ser_mtl-*.dist-info")
    return PathDistribution(directory)


def needed(requirements: list[str], extra: str = "") -> set[str]:
    """The installed distributions that ``requirements`` lead to."""
    found, todo = set(), [(Requirement(text), extra) for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name in found:
            continue
        try:
            more = distribution(requirement.name).requires or []
        except PackageNotFoundError:  # not on this machine, such as CUDA's
            continue
        found.add(requirement.name)
        todo += [(Requirement(text), e) for text in more for e in requirement.extras or [""]]
    return found


def link_into(site: Path, names: set[str]) -> None:
    """Make the ``names`` alone importable from ``site``."""
    for name in names:
        for file in distribution(name).files:
            top = file.parts[0]
            if top not in ("..", "__pycache__", "bin") and not (site / top).exists():
                (site / top).symlink_to(distribution(name).locate_file(top))


def test_the_wheel_holds_every_module_and_the_data_of_the_report(unpacked):
    def files(root: Path) -> set[Path]:
        found = (file for file in (root / "ser").rglob("*") if file.is_file())
        return {f.relative_to(root) for f in found if "__pycache__" not in f.parts}

    assert files(unpacked) == files(ROOT)


def test_the_wheel_declares_the_installed_versions_and_the_command(unpacked):
    wheel = metadata(unpacked)
    assert [(e.name, e.value) for e in wheel.entry_points] == [("ser", "ser.cli.app:main")]
    for text in wheel.requires:
        requirement = Requirement(text)
        assert distribution(requirement.name).version in requirement.specifier
    assert {"torch", "transformers", "soundfile"} <= needed(wheel.requires, "predict")


def test_what_the_wheel_declares_is_enough_to_predict(unpacked, tmp_path):
    names = needed(metadata(unpacked).requires, "predict")
    assert not {"espnet", "kaldiio", "scipy", "matplotlib", "scikit-learn"} & names
    packed, _ = pack_experiment(make_experiment(tmp_path))
    assert "neutral 0." in predict_with(names, unpacked, packed, tmp_path)


def test_what_it_declares_for_onnx_is_enough_to_predict_without_pytorch(
    unpacked, with_graphs, tmp_path
):
    names = needed(metadata(unpacked).requires, "onnx")
    assert "onnxruntime" in names and not {"torch", "transformers"} & names
    for source in ("packed", "s1_strict_seed1.zip"):
        folder = tmp_path / source
        folder.mkdir()
        assert "neutral 0." in predict_with(names, unpacked, with_graphs / source, folder)


def predict_with(names: set[str], unpacked: Path, packed: Path, tmp_path: Path) -> str:
    """What ser predict prints where nothing but the wheel and ``names`` is installed."""
    site = Path(shutil.copytree(unpacked, tmp_path / "site"))
    link_into(site, names)
    wav = tmp_path / "a.wav"
    soundfile.write(wav, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    command = [sys.executable, "-S", "-m", "ser", "predict", str(wav), "--model", str(packed)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
