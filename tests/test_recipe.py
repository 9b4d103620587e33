"""The recipe as a user runs it: ./run.sh on the mini corpus, all six stages, nothing replaced."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT

FOLDS = ["Ses01F", "Ses01M"]
EXP = "exp/mini/try"


def command(root: Path, *options: str, made: Path | None = None) -> list[str]:
    """run.sh into ``root``; data and dump are those of ``made``, if there are any."""
    directories = [f"--{kind}-dir={(made or root) / kind}" for kind in ("data", "dump")]
    directories.append(f"--exp-dir={root / 'exp'}")
    return [
        *(str(ROOT / "run.sh"), "--python", sys.executable, "--tag", "try", *directories),
        *("--folds", " ".join(FOLDS), "--max-epoch", "2", *options),
        *("--", "--num_iters_per_epoch", "12"),  # of 40
    ]


def run(root: Path, *options: str, made: Path | None = None) -> str:
    line = command(root, *options, made=made)
    done = subprocess.run(line, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def predictions(root: Path) -> dict[str, str]:
    return {fold: (root / EXP / fold / "predictions.tsv").read_text() for fold in FOLDS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("recipe")
    return root, run(root)


def test_all_six_stages_run_and_say_so(finished):
    root, output = finished
    for number, name in enumerate(("data", "lang", "dump", "train", "score", "report"), 1):
        assert f"stage {number} ({name}): done" in output
        log = (root / EXP / f"log/stage{number}.log").read_text()
        assert log.startswith("# command: ")
        assert log.endswith("# exit status: 0\n")


def test_scores_cover_the_folds_that_were_run_and_name_the_others(finished):
    root, output = finished
    scores = json.loads((root / EXP / "scores.json").read_text())
    assert list(scores["per_fold"]) == FOLDS
    assert scores["summary"]["n"] == 80
    assert 0.0 <= scores["summary"]["ua"] <= 1.0
    assert "PARTIAL: only 2 of 10 folds" in output
    assert "Ses05M" in output.partition("PARTIAL")[2].partition("\n")[0]


def test_predictions_hold_the_held_out_speaker_and_nobody_else(finished):
    root, _ = finished
    test_list = (root / "dump/mini/folds/strict/Ses01F/test").read_text().split()
    rows = predictions(root)["Ses01F"].splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == test_list
    assert all(utt.rpartition("_")[2].startswith("F") for utt in test_list)
    assert all(utt.startswith("Ses01") for utt in test_list)


def test_the_report_has_the_row_and_its_figures(finished):
    root, _ = finished
    report = (root / "exp/RESULTS.md").read_text()
    assert "PARTIAL" in report.upper()
    assert "--config conf/mini_s1.yaml" in report
    for name in ("confusion_matrix", "learning_curves", "layer_weights"):
        assert (root / EXP / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_running_it_again_repeats_no_work(finished):
    root, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (root / EXP).rglob("*epoch.pth")}
    output = run(root, "--stage", "3", "--stop_stage", "5", "--nj", "1")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(f"[fold] {fold}: already trained" in output for fold in FOLDS)


def test_a_run_killed_while_training_goes_on_to_the_same_predictions(finished, tmp_path):
    """kill -9 of everything the run started, at the first sign of training."""
    mark = f"STARTED_BY={tmp_path}"
    process = subprocess.Popen(
        command(tmp_path, made=finished[0]),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "STARTED_BY": str(tmp_path)},
    )
    log = tmp_path / EXP / "log/stage4.Ses01F.log"
    while not (log.exists() and "1/2 train" in log.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    while started := marked_processes(mark):
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
    assert not (tmp_path / EXP / "Ses01F/.done").exists()
    run(tmp_path, "--stage", "4", "--stop-stage", "5", "--nj", "1", made=finished[0])
    assert predictions(tmp_path) == predictions(finished[0])


def marked_processes(mark: str) -> list[int]:
    """The processes that have ``mark`` in their environment, wherever their parents have gone."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
