"""reporting/status.py: every state that a fold can be in, told from its files, locks and jobs."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from ser.cluster import locks
from ser.cluster.slurm import Submission
from ser.errors import UserError
from ser.reporting.status import experiment_status, format_status, show_status
from ser.stage import mark_done
from ser.training.experiment import open_experiment
from tests.support import ROOT, fake_experiment
from tests.support.fake_experiment import make_experiment, write_history

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


def test_a_fold_whose_heads_are_trained_first_shows_the_phase_and_its_epochs(places):
    exp, _ = places
    for phase, epochs, max_epoch in (("untagged", 4, 4), ("heads", 1, 6)):
        directory = exp / "Ses03F" / phase
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(f"max_epoch: {max_epoch}\n")
        history = [{"epoch": e, "train": {}} for e in range(1, epochs + 1)]
        (directory / "history.json").write_text(json.dumps(history))
    write_log(exp, "Ses03F", "")
    assert status_of(places, "Ses03F").cells[2] == "heads 1/6"
    (exp / "Ses03F/config.yaml").write_text("max_epoch: 2\n")
    assert status_of(places, "Ses03F").cells[2] == "0/2"


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
        since = locks.read(exp / ".Ses01F.lock").since.replace("T", " ")
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


def test_a_lost_table_does_not_hide_the_folds(places):
    exp, dump = places
    (exp / "Ses01F/predictions.tsv").write_text("")
    (dump / "wav.scp").unlink()
    assert status_of(places, "Ses01F").state == "trained"


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


def test_an_unknown_protocol_is_refused_even_where_stage_4_has_begun(places):
    with pytest.raises(UserError, match="--protocol nope: no such protocol; choose strict"):
        show_status(*places, "nope")


def test_the_status_is_shown_without_importing_torch_or_espnet(places):
    exp, dump = places
    program = (
        "import runpy, sys\n"
        f"sys.argv[1:] = ['status', '--dump-dir', {str(dump)!r}, '--exp-dir', {str(exp)!r}]\n"
        "try:\n    runpy.run_module('ser', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop\n"
        "print([name for name in ('torch', 'espnet2', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{exp}: 5 folds: 3 trained, 2 not started\n")
    assert done.stdout.endswith("[]\n")


# --- with Slurm: what was submitted, and a program named squeue that lists it ---------------------


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Call it with {job: lines of squeue} to say what is queued."""
    program = tmp_path / "bin/squeue"
    program.parent.mkdir()

    def set_queue(queue: dict[str, list[str]], answers: bool = True) -> None:
        lines = ["#!/bin/sh", f'echo x >>"{tmp_path}/squeue_calls"', 'case "$*" in']
        for job, listed in queue.items():
            echo = "; ".join(f"echo '{line}'" for line in listed) or ":"
            lines.append(f"  *--jobs={job}) {echo} ;;")
        lines += ["  *) echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1 ;;"]
        if not answers:
            lines[1:] = [lines[1], "echo 'Unable to contact slurm controller' >&2; exit 1"]
        else:
            lines.append("esac")
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    set_queue({})
    return set_queue


def submit(exp: Path, name: str, job: str, command: list[str], tasks: int = 0, time="12:00:00"):
    directory = exp / "log/slurm" / name
    directory.mkdir(parents=True, exist_ok=True)
    log = exp / "log" / (f"{name}.worker.JOB.log" if tasks else f"{name}.log")
    content = Submission(
        job, name, "JOB" if tasks else "", 1, tasks or 1, str(log), command, ["sbatch"],
        f"2026-01-31T{time}",
    )  # fmt: skip
    (directory / "submission.json").write_text(json.dumps(asdict(content)))


def trainer(*exps: Path, folds: str = "") -> list[str]:
    dirs = list(map(str, exps))
    return [
        "python",
        "-m",
        "ser",
        "train",
        *(f"--exp-dir={directory}" for directory in dirs),
        "--seed=1",
        f"--folds={folds}",
    ]


def test_a_queued_fold_names_its_task_and_what_it_waits_for(places, squeue):
    exp, dump = places
    submit(exp, "stage4", "12", trainer(exp), tasks=5)
    squeue({"12": ["12_4|PENDING|Resources", "12_5|RUNNING|None"]})
    lines = show_status(exp, dump, "strict").splitlines()
    assert re.split(" {2,}", lines[-3])[:2] == ["Ses03F", "pending (job 12_4, Resources)"]
    assert re.split(" {2,}", lines[-2])[:2] == ["Ses03M", "starting (job 12_5)"]
    assert "2026-01-31 12:00:00" in lines[-3]
    assert lines[-1] == "stage4: job 12: 1 pending (Resources), 1 running"


def test_a_requeued_fold_is_pending_and_not_interrupted(places, squeue):
    exp, dump = places
    submit(exp, "stage4", "12", trainer(exp), tasks=5)
    write_log(exp, "Ses03F", "# exit status: 75\n")
    squeue({"12": ["12_4|PENDING|BeginTime"]})
    assert "Ses03F  pending (job 12_4, BeginTime)" in show_status(exp, dump, "strict")
    squeue({"12": ["12_4|COMPLETING|None"]})
    assert "Ses03F  interrupted" in show_status(exp, dump, "strict")


def test_the_array_of_several_seeds_is_found_from_each_of_them(places, squeue):
    exp, dump = places
    second = exp.parent / "sys_strict_seed2"
    second.mkdir()
    submit(exp, "stage4", "12", trainer(exp, second, folds="Ses01F Ses03M"), tasks=4)
    squeue({"12": ["12_2|PENDING|Priority", "12_3|PENDING|Priority"]})
    first, other = show_status(exp, dump, "strict"), show_status(second, dump, "strict")
    assert "Ses03M  pending (job 12_2, Priority)" in first
    assert "Ses01F  pending (job 12_3, Priority)" in other
    assert "Ses01M  not started" in other
    assert "Ses03M  not started" in other


def test_of_two_submissions_the_later_one_counts(places, squeue):
    exp, dump = places
    second = exp.parent / "sys_strict_seed2"
    second.mkdir()
    submit(exp, "stage4", "12", trainer(exp), tasks=5)
    submit(second, "stage4", "13", trainer(second, exp), tasks=10, time="13:00:00")
    squeue({"12": ["12_4|PENDING|Priority"], "13": ["13_9|PENDING|Priority"]})
    assert "Ses03F  pending (job 13_9, Priority)" in show_status(exp, dump, "strict")
    submit(exp, "stage4", "12", trainer(exp), tasks=5, time="14:00:00")
    assert "Ses03F  pending (job 12_4, Priority)" in show_status(exp, dump, "strict")


def test_a_chain_shows_what_is_queued_and_what_went_wrong(places, squeue):
    exp, dump = places
    for number in (1, 2, 5, 6):
        submit(exp, f"stage{number}", f"1{number}", ["local/x.sh"])
    (exp / "log/stage1.log").write_text("# exit status: 0\n")
    (exp / "log/stage2.log").write_text("error: no such word\n# exit status: 3\n")
    squeue({"16": ["16|PENDING|Dependency"]})
    assert show_status(exp, dump, "strict").splitlines()[-3:] == [
        f"stage2: job 12: failed with exit status 3; log: {exp}/log/stage2.log",
        "stage5: job 15: was not run, since a job before it failed or it was cancelled",
        "stage6: job 16: 1 pending (Dependency)",
    ]


def test_a_silent_controller_is_asked_once_and_hides_nothing_else(places, squeue, tmp_path):
    exp, dump = places
    for number in (1, 2, 5, 6):
        submit(exp, f"stage{number}", f"1{number}", ["local/x.sh"])
    squeue({}, answers=False)
    shown = show_status(exp, dump, "strict")
    assert shown.splitlines()[0].endswith("5 folds: 3 trained, 2 not started")
    assert shown.splitlines()[-1] == "squeue does not answer; what it has in its queue is not known"
    assert (tmp_path / "squeue_calls").read_text() == "x\n"


def test_squeue_is_not_asked_about_what_was_never_submitted(places, squeue, tmp_path):
    show_status(*places, "strict")
    assert not (tmp_path / "squeue_calls").exists()
