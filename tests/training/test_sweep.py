"""Sweeps: points, their configurations and their names."""

import re

import pytest
import yaml

from ser.config import check_config
from ser.errors import UserError
from ser.training.declared import check_system
from ser.training.settings import TrainingOptions, resolve
from ser.training.sweep import list_experiments, load_sweep, write_points
from tests.support import ROOT

SWEEPS = sorted((ROOT / "conf/sweeps").glob("*.yaml"))
BASE = """\
token_type: tagged_class
frontend_conf: {freeze: none}
aux_conf: {pr: {type: ctc, weight: 0.1}}
optim: adam
optim_conf: {lr: 5.0e-5}
"""


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def load(text: str):
        (tmp_path / "lambda.yaml").write_text(text)
        return load_sweep(tmp_path / "lambda.yaml", tmp_path / "base.yaml")

    return load


def test_a_grid_of_one_key_names_points_by_their_values(sweep):
    found = sweep(
        "seeds: 1 2\nx: aux_conf.pr.weight\ngrid: {aux_conf.pr.weight: [0.0, 0.001, 1.0]}"
    )
    assert [point.name for point in found.points] == ["0", "0.001", "1"]
    assert found.seeds == [1, 2]
    assert found.points[1].config["aux_conf"] == {"pr": {"type": "ctc", "weight": 0.001}}
    assert found.points[1].config["optim_conf"] == {"lr": 5.0e-5}
    assert found.points[1].experiment("lambda", "strict", 2) == "lambda_0.001_strict_seed2"


def test_a_grid_of_two_keys_has_every_combination(sweep):
    found = sweep("grid: {optim: [adam, sgd], optim_conf.lr: [1.0e-4, 1.0e-3]}")
    assert [point.name for point in found.points] == [
        "optimadam_lr0.0001",
        "optimadam_lr0.001",
        "optimsgd_lr0.0001",
        "optimsgd_lr0.001",
    ]
    assert found.points[2].config["optim"] == "sgd"
    assert found.points[2].config["optim_conf"]["lr"] == 1.0e-4


def test_named_points_may_change_several_keys_or_none(sweep):
    found = sweep("points:\n  plain:\n  slow: {optim_conf.lr: 1.0e-6, frontend_conf.freeze: cnn}")
    assert [point.name for point in found.points] == ["plain", "slow"]
    assert found.points[0].config == yaml.safe_load(BASE)
    assert found.points[1].config["frontend_conf"] == {"freeze": "cnn"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grids: {a: [1]}", "unknown key 'grids'; a sweep has about, seeds"),
        ("about: nothing", "no points; give a grid or points"),
        ("grid: {optim: adam}", "grid.optim: found 'adam'; expected a list"),
        ("grid: [1]", r"grid: found \[1\]; expected a mapping"),
        ("points: {a/b: {optim: sgd}}", "point 'a/b': name it under points, with letters"),
        ("grid: {betas: [[0, 1]]}", r"point '\[0, 1\]': name it under points, with letters"),
        ("x: [optim]\ngrid: {optim: [sgd]}", r"x: found \['optim'\]; expected text"),
        ("requires: [optim]\npoints: {a: }", r"requires: found \['optim'\]; expected text"),
        ("stated: [76]\npoints: {a: }", r"stated: found \[76\]; expected a mapping"),
        ("stated: {a: 76}\npoints: {a: }", "stated.a: found 76; expected WA and UA in percent"),
        ("stated: {b: {wa: 7, ua: 7}}\npoints: {a: }", "stated.b: no such point; there are a"),
        ("points: {a: 3}", "points.a: found 3; expected"),
        ("points: {a: {optim.lr: 3}}", "optim.lr: optim is no mapping in the system's YAML"),
        ("grid: {optim: [sgd]}\npoints: {sgd: {}}", "two points are called sgd"),
        ("x: optim\npoints: {a: {optim_conf.lr: 3}}", "x: 'optim' is not set by every point"),
        ("seeds: one\ngrid: {optim: [sgd]}", "seeds: one: expected a whole number"),
        ("seeds: 1 2 1\ngrid: {optim: [sgd]}", "seeds: 1 is given twice"),
    ],
)
def test_what_is_no_sweep_is_explained(sweep, text, message):
    with pytest.raises(UserError, match=f"lambda.yaml: .*{message}"):
        sweep(text)


def test_the_file_of_a_sweep_is_named_like_a_tag(tmp_path):
    (tmp_path / "my sweep.yaml").write_text("points: {a: }")
    with pytest.raises(UserError, match="my sweep.yaml: tags begin with this file's name; rename"):
        load_sweep(tmp_path / "my sweep.yaml", tmp_path / "my sweep.yaml")


def test_names_and_keys_that_look_like_numbers_are_read_back_as_text(sweep, tmp_path):
    sweep("grid: {optim_conf.lr: [1.0e-5, 0.1]}\nstated: {0.1: {wa: 7, ua: 8}}")
    found = load_sweep(tmp_path / "lambda.yaml", ROOT / "conf/mini_s1.yaml")
    options = TrainingOptions()
    read = [resolve(file, options).sweep for file in write_points(found, tmp_path).values()]
    assert [origin["point"] for origin in read] == ["1e-05", "0.1"]
    assert [origin["stated"] for origin in read] == [None, {"wa": 7, "ua": 8}]


def test_a_key_that_is_no_text_is_an_unknown_key(sweep):
    (point,) = sweep("points: {a: {7: 1}}").points
    assert point.config["7"] == 1


def test_points_are_written_once_and_left_alone_when_nothing_changes(sweep, tmp_path):
    found = sweep("grid: {optim: [sgd, adam]}")
    files = write_points(found, tmp_path / "points")
    content = yaml.safe_load(files["sgd"].read_text())
    assert content["optim"] == "sgd"
    origin = content["sweep"]
    assert (origin["name"], origin["point"]) == ("lambda", "sgd")
    assert (origin["number"], origin["points"]) == (1, 2)
    assert (origin["file"], origin["config"]) == (
        str(tmp_path / "lambda.yaml"),
        str(tmp_path / "base.yaml"),
    )
    before = files["sgd"].stat().st_mtime_ns
    write_points(found, tmp_path / "points")
    assert files["sgd"].stat().st_mtime_ns == before


def test_every_point_and_seed_is_an_experiment(sweep, tmp_path):
    found = sweep("points:\n  char: {token_type: char}\n  bpe: {token_type: bpe, bpe_size: 50}")
    rows = list_experiments(found, "paper", [1, 2], tmp_path)
    char, bpe = str(tmp_path / "char.yaml"), str(tmp_path / "bpe.yaml")
    assert rows == [
        ("lambda_char_paper_seed1", "1", char, "char", "500", "raw"),
        ("lambda_char_paper_seed2", "2", char, "char", "500", "raw"),
        ("lambda_bpe_paper_seed1", "1", bpe, "bpe", "50", "raw"),
        ("lambda_bpe_paper_seed2", "2", bpe, "bpe", "50", "raw"),
    ]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
@pytest.mark.parametrize("base", ["train_s1_mtl_phoneme", "mini_s1", "emodb_s1"])
def test_every_sweep_fits_every_s1(path, base):
    from ser.training.task import SERTask

    parser = SERTask.get_parser()
    for point in load_sweep(path, ROOT / f"conf/{base}.yaml").points:
        check_config(path, point.config, parser)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_point_of_a_sweep_can_be_trained_around_the_system_that_it_names(path, tmp_path):
    named = re.search(r"conf/\w+\.yaml", path.read_text(encoding="utf-8"))
    base = ROOT / (named[0] if named else "conf/train_s1_mtl_phoneme.yaml")
    for file in write_points(load_sweep(path, base), tmp_path).values():
        check_system(file, [])
