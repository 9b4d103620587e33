"""What stage 6 writes about a sweep."""

import json

import pytest
import yaml

from ser.reporting.sweeps import Found, _lines, report_sweep
from ser.training.sweep import load_sweep
from tests.support.fake_scores import make_scores

BASE = {"optim_conf": {"lr": 0.1}, "aux_conf": {"pr": {"weight": 0.1}}}
SWEEP = """\
about: The weight of the head
x: aux_conf.pr.weight
grid: {aux_conf.pr.weight: [0.0, 0.1, 1.0]}
stated: {"0.1": {wa: 76.0, ua: 76.9}}
"""


@pytest.fixture
def swept(tmp_path):
    """Two seeds of the first point, one of the second, none of the third."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "lambda.yaml").write_text(SWEEP)
    for point, seed, correct in (("0", 1, 2), ("0", 2, 4), ("0.1", 1, 3)):
        tag = f"lambda_{point}_strict_seed{seed}"
        directory = tmp_path / "exp/toy" / tag
        directory.mkdir(parents=True)
        scores = make_scores(correct=correct, seed=seed, tag=tag)
        scores["parameters"] = {"total": 1234, "trained": 1000}
        scores["train_seconds"] = 60.0 * seed
        for fold, ua in zip(scores["per_fold"].values(), (0.5, 0.7), strict=True):
            fold["valid_ua"] = ua
        (directory / "scores.json").write_text(json.dumps(scores))
    sweep = load_sweep(tmp_path / "lambda.yaml", tmp_path / "base.yaml")
    return report_sweep(sweep, tmp_path / "base.yaml", tmp_path / "exp", "toy", "strict", [1, 2])


def test_the_table_has_a_row_for_every_point_and_says_what_was_not_run(swept):
    rows = [
        line
        for line in swept.read_text().splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    cells = {row.split("|")[1].strip(): [c.strip() for c in row.split("|")[2:-1]] for row in rows}
    assert list(cells) == ["point", "0", "0.1", "1"]
    # folds of 4: seed 1 has 2 and 4 right, seed 2 all: 75 and 100
    assert cells["0"][:2] == ["1, 2", "87.5 ± 17.7"]
    assert cells["0.1"][:2] == ["1", "87.5"]
    assert cells["0.1"][-1] == "76.0 / 76.9"
    assert cells["1"][0] == "not run"
    # on validation speakers: the mean of the folds' 50 and 70
    assert cells["0.1"][5] == "60.0"
    # of seeds that took 60 and 120 seconds, the mean
    assert cells["point"][7:9] == ["parameters", "training"]
    assert cells["0"][7:9] == ["1,234 (1,000)", "0:01:30"]
    assert cells["1"][1:] == [""] * 9


def test_a_sweep_over_known_speakers_is_marked_and_claims_nothing_for_others(swept, tmp_path):
    assert "protocol strict. Percent" in swept.read_text()
    assert "for other speakers like these" in swept.read_text()
    sweep = load_sweep(tmp_path / "lambda.yaml", tmp_path / "base.yaml")
    base, exp_root = tmp_path / "base.yaml", tmp_path / "exp"
    text = report_sweep(sweep, base, exp_root, "toy", "kfold5", [1]).read_text()
    assert "protocol kfold5 (speaker-dependent). Percent" in text
    assert "for other utterances of these speakers" in text


@pytest.fixture
def grid(tmp_path):
    """A sweep of two keys, of which ``x`` is one or none; what ``_lines`` makes of its points."""

    def read(x):
        (tmp_path / "base.yaml").write_text(yaml.safe_dump({**BASE, "optim": "adam"}))
        (tmp_path / "grid.yaml").write_text(
            f"about: Both\n{x}grid: {{optim: [adam, sgd], optim_conf.lr: [0.1, 0.01]}}\n"
        )
        sweep = load_sweep(tmp_path / "grid.yaml", tmp_path / "base.yaml")
        lines, ticks = _lines(sweep, [Found(point, None) for point in sweep.points])
        places = {
            label: [(place, found.point.changes["optim_conf.lr"]) for place, found in entries]
            for label, entries in lines.items()
        }
        return places, ticks

    return read


def test_a_grid_over_two_keys_is_a_line_for_each_value_of_the_other_one(grid):
    places, ticks = grid("x: optim_conf.lr\n")
    assert ticks == ["0.1", "0.01"]
    assert places == {label: [(0, 0.1), (1, 0.01)] for label in ("optim adam", "optim sgd")}


def test_without_an_axis_every_point_has_its_own_place(grid):
    places, ticks = grid("")
    assert places == {"": [(0, 0.1), (1, 0.01), (2, 0.1), (3, 0.01)]}
    assert len(ticks) == 4 and "adam" in ticks[0] and "sgd" in ticks[3]


def test_the_figure_is_drawn_beside_it(swept):
    assert swept.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "(lambda_strict.png)" in swept.read_text()
