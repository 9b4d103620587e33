"""ser/status.py: every state that a fold can be in, told from its files, locks and jobs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ser import locks
from ser.errors import UserError
from ser.experiment import open_experiment
from ser.stage import mark_done
from ser.status import experiment_status, format_status, show_status
from tests import fake_experiment
from tests.fake_experiment import make_experiment, write_history

ROOT = Path(__file__).resolve().parent.parent
NEW = ["Ses03F", "Ses03M"]  # folds of which stage 4 knows nothing yet


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """(experiment, dump): three trained folds, and two more on the list."""
    exp, dump, _ = make_experiment(tmp_path)
    with open(dump / "folds/strict/folds", "a") as stream:
        stream.write("".join(f"{fold}\n" for fold in NEW))
    return exp, dump


def status_of(places, fold, **options):
    (found,) = [
        status for status in experiment_status(*places, "strict", **options) if status.fold == fold
    ]
    return found


def write_log(exp: Path, fold: str, last: str) -> Path:
    log = exp / f"log/stage4.{fold}.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"# command: x\n# start: now\n[progress] {fold} epoch 1/4\n{last}")
    return log


def test_a_fold_that_nobody_has_touched_is_not_started(places):
    status = status_of(places, "Ses03F")
    assert status.cells == ("Ses03F", "not started", "-", "-", "-", "-")


def test_a_finished_fold_is_trained_until_it_is_inferred_and_then_scored(places):
    exp, dump = places
    assert status_of(places, "Ses01F").state == "trained"
    (exp / "Ses01F/predictions.tsv").write_text("")
    experiment = open_experiment(exp, dump)
    experiment.mark_inferred("Ses01F", experiment.made_from("Ses01F"), None)
    os.utime(exp / "Ses01F/.predictions.done", (1000, 1000))
    assert status_of(places, "Ses01F").state == "scored"
    assert status_of(places, "Ses01F").since == 1000
    assert status_of(places, "Ses01M").state == "trained"


def test_a_fold_trained_with_other_settings_is_said_to_be(places):
    mark_done(places[0] / "Ses01M", {"seed": 2})
    assert status_of(places, "Ses01M").state == "trained with other settings"


def test_epochs_and_the_best_validation_ua_come_from_the_history(places):
    exp, _ = places
    write_history(exp / "Ses01M", epochs=4)
    history = json.loads((exp / "Ses01M/history.json").read_text())
    history[1]["valid"]["UA"] = 0.987
    (exp / "Ses01M/history.json").write_text(json.dumps(history))
    with open(exp / "Ses01M/config.yaml", "a") as stream:
        stream.write("max_epoch: 12\n")
    assert status_of(places, "Ses01M").cells[2:4] == ("4/12", "98.7")


def test_without_a_validation_speaker_there_is_no_best_ua(places):
    write_history(places[0] / "Ses01M", epochs=4, valid=False)
    assert status_of(places, "Ses01M").cells[3] == "-"


def test_a_fold_whose_lock_is_held_is_training_whatever_else_lies_there(places):
    exp, _ = places
    write_log(exp, "Ses01F", "# exit status: 1\n")
    with locks.held(exp / ".Ses01F.lock", "this"):
        status = status_of(places, "Ses01F")
        host = locks.this_process().host
        assert status.state == f"training (on {host}, pid {os.getpid()})"
        since = locks.this_process().since.replace("T", " ")
        assert status.cells[4][:16] == since[:16]
    assert status_of(places, "Ses01F").state == "trained"


def test_a_fold_that_trains_in_a_slurm_job_names_it(places, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with locks.held(places[0] / ".Ses03F.lock", "this"):
        assert f", job 12_3, pid {os.getpid()})" in status_of(places, "Ses03F").state


@pytest.mark.parametrize(
    ("last", "state"),
    [
        ("# end: now\n# exit status: 1\n", "failed"),
        ("# end: now\n# exit status: 75\n", "interrupted"),
        ("# end: now\n# exit status: 143\n", "interrupted"),
        ("loss 0.3", "interrupted (killed)"),
        ("# exit status: 1\n# command: again\nloss 0.3\n", "interrupted (killed)"),
    ],
)
def test_an_unfinished_fold_tells_from_its_log_how_it_ended(places, last, state):
    log = write_log(places[0], "Ses03F", last)
    os.utime(log, (5000, 5000))
    status = status_of(places, "Ses03F")
    assert (status.state, status.since, status.cells[5]) == (state, 5000, str(log))


def test_what_slurm_will_do_with_a_fold_stands_where_it_is_not_at_work(places):
    write_log(places[0], "Ses03F", "# exit status: 75\n")
    jobs = {"Ses03F": "pending (job 12_4)", "Ses01F": "pending (job 12_1)"}
    assert status_of(places, "Ses03F", jobs=jobs).state == "pending (job 12_4)"
    assert status_of(places, "Ses01F", jobs=jobs).state == "trained"


def test_before_training_the_folds_are_those_of_the_protocol(places, tmp_path):
    exp = tmp_path / "exp/toy/new"
    exp.mkdir()
    assert [status.fold for status in experiment_status(exp, places[1], "strict")] == [
        *fake_experiment.FOLDS,
        *NEW,
    ]
    assert experiment_status(exp, places[1], "session") == []
    assert "no folds yet, stage 3" in show_status(exp, places[1], "session")


def test_data_that_have_changed_since_do_not_hide_the_folds(places):
    exp, dump = places
    (dump / "utt2emo").unlink()
    assert status_of(places, "Ses01F").state == "trained"


def test_a_damaged_record_does_not_hide_the_other_folds(places):
    exp, _ = places
    (exp / "Ses01F/run.json").write_text("{")
    (exp / "Ses01F/predictions.tsv").write_text("")
    (exp / "Ses01M/history.json").write_text("[")
    assert [status.state for status in experiment_status(*places, "strict")][:2] == ["trained"] * 2


def test_the_table_counts_states_and_lines_up(places):
    exp, _ = places
    write_log(exp, "Ses03F", "# exit status: 1\n")
    lines = format_status("exp/toy/x", experiment_status(*places, "strict")).splitlines()
    assert lines[0] == "exp/toy/x: 5 folds: 3 trained, 1 failed, 1 not started"
    assert re.split(" {2,}", lines[1]) == ["fold", "state", "epoch", "best UA", "since", "log"]
    column = lines[1].index("state")
    assert [line[column:].split()[0] for line in lines[2:]] == [*["trained"] * 3, "failed", "not"]
    assert not any(line.endswith(" ") for line in lines)


def test_an_unknown_experiment_is_refused_with_those_that_exist(places):
    exp, dump = places
    with pytest.raises(UserError, match="no such experiment; found there: sys_strict_seed1; give"):
        show_status(exp.parent / "typo", dump, "strict")


def test_the_status_is_shown_without_importing_torch_or_espnet(places):
    exp, dump = places
    program = (
        "import runpy, sys\n"
        f"sys.argv[1:] = ['--dump-dir', {str(dump)!r}, '--exp-dir', {str(exp)!r}]\n"
        "runpy.run_module('ser.bin.status', run_name='__main__')\n"
        "print([name for name in ('torch', 'espnet2', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{exp}: 5 folds: 3 trained, 2 not started\n")
    assert done.stdout.endswith("[]\n")
