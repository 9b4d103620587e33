"""The estimate of --plan: by hand, from folders, and beside a fold of made-up step times."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ser.errors import UserError
from ser.stage import mark_done
from ser.training import estimate, timing
from ser.training.batches import JitteredSampler
from ser.training.estimate import (
    Cost,
    Plan,
    Work,
    costs_so_far,
    describe_plan,
    make_plan,
    read_work,
    time_left,
)
from tests.support.tiny import EMOTIONS
from tests.support.training import SYSTEM, write_system

STEP = 0.25  # made-up seconds of a batch, of whatever length
TIMING = {
    **{"rate": 0.001, "first": 0.003, "forward": 0.0005, "kept": 1e6},
    **{"model": 4e8, "checkpoint": 1.2e9, "memory": 6.1e9},
}


def kind(**changes):
    args = {
        **{"frontend_conf": {}, "model_conf": {}, "aux_conf": {}, "seed": 1, "max_epoch": 9},
        **changes,
    }
    return timing.Kind("s", SimpleNamespace(**args), "strict")


def a_plan(work, timings, costs, kinds=None, **changes):
    kinds = kinds or {key: kind(frontend_conf={"of": key}) for key in {w.kind for w in work}}
    done = {"data": 3e6, "dump": 8e8}
    return replace(Plan(2, work, kinds, costs, timings, 25200.0, 2, done, 5e11), **changes)


def row(text, stage):
    (line,) = [line for line in text.splitlines() if line.startswith(f"plan:   {stage} ")]
    return line.split(stage)[1]


# --- by hand -----------------------------------------------------------------------------------


def test_time_is_audio_times_epochs_left_times_rate_divided_by_those_at_once():
    work = [
        Work("none", audio=3600.0, epochs=10, trained=4, seconds=720.0),
        Work("none", audio=1800.0, epochs=10, trained=0, seconds=0.0),
        Work("all", audio=3600.0, epochs=2, trained=2, seconds=36.0),  # done
    ]
    costs = costs_so_far(work, at_once=2)
    # 720 s for 4 epochs of an hour of audio: 0.05; 36 s for two: 0.005
    assert costs["none"] == Cost(0.05, 2, "4 epochs trained so far")
    assert costs["all"].rate == pytest.approx(0.005)
    # (3600 x 6 + 1800 x 10) s x 0.05 / 2 = 990 s
    assert time_left(work, costs) == pytest.approx(990)
    # a measurement of one training alone, of which one runs at a time
    assert time_left(work, {"none": Cost(0.05, 1, "")}) == pytest.approx(2 * 990)


def test_every_stage_has_a_row_with_time_disk_and_memory():
    work = [Work("all", 3600.0, 10, 0, 0.0, test=900.0)] * 4
    text = describe_plan(a_plan(work, {"all": TIMING}, {"all": Cost(0.001, 1, "an estimate")}))
    assert "2 experiments, 4 folds; 0 are trained" in text
    assert "40 epochs are left, each of 1.00 hours of audio" in text
    assert "1000.0 seconds of audio a second (an estimate)" in text
    assert row(text, "3 dump").split()[:3] == ["done", "800", "MB"]
    # 4 folds x 10 epochs x 3600 s x 0.001, and once 25,200 s x (0.003 - 0.001): 144 + 50.4 s;
    # 4 x 0.4 GB + 25,200 s x 1 MB + 2 x (1.2 + 2 x 0.4) GB
    assert row(text, "4 train").split() == ["0:03:14", "31", "GB", "2", "x", "6.1", "GB"]
    assert row(text, "5 score").split()[0] == "0:00:02"  # 4 x 900 s x 0.0005
    assert row(text, "7 pack").split()[2:4] == ["3.2", "GB"]  # a folder and a zip of each
    assert "TOO LITTLE" not in text
    huge = {"all": TIMING | {"model": 1e18}}
    assert "WHICH IS TOO LITTLE" in describe_plan(a_plan(work, huge, {}))


def test_outputs_of_a_frozen_encoder_are_computed_and_kept_once_for_all_that_share_them():
    work = [Work(key, 100.0, 1, 0, 0.0) for key in ("untagged", "heads", "all")]
    frozen, other = {"freeze": "all"}, {"freeze": 2}
    kinds = {key: kind(frontend_conf=frozen) for key in ("untagged", "heads")}
    kinds["all"] = kind(frontend_conf=other)
    plan = a_plan(work, dict.fromkeys(kinds, TIMING), {}, kinds)
    assert estimate.once(plan, "bytes") == pytest.approx(2 * 25200 * 1e6)
    assert estimate.once(plan, "seconds") == pytest.approx(2 * 25200 * 0.002)
    nothing_kept = dict.fromkeys(kinds, TIMING | {"kept": 0.0})
    assert estimate.once(replace(plan, timings=nothing_kept), "seconds") == 0.0


def test_without_a_rate_no_hours_are_claimed():
    text = describe_plan(a_plan([Work("none", 1.0, 1, 0, 0.0, test=1.0)], {}, {}))
    assert "not known before the first epoch" in row(text, "4 train")
    assert row(text, "5 score").split()[:2] == ["not", "known"]


def test_what_is_done_is_said_to_be():
    text = describe_plan(a_plan([Work("none", 1.0, 3, 3, 9.0)], {}, {"none": Cost(1.0, 1, "")}))
    assert [row(text, s).split()[0] for s in ("3 dump", "4 train", "5 score")] == ["done"] * 3


def test_what_costs_nothing_makes_no_other_kind():
    of = {"type": "ctc", "weight": 0.1}
    plain = kind(aux_conf={"pr": of})
    assert plain.key == kind(aux_conf={"pr": of | {"weight": 1.0}}, seed=2, max_epoch=3).key
    assert plain.key == kind(aux_conf={"pr": of}, model_conf={"dropout": 0.1}).key
    changes = (
        {"aux_conf": {}},
        {"model_conf": {"amp_dtype": "bfloat16"}},
        {"frontend_conf": {"freeze": "all"}},
    )
    assert all(plain.key != kind(**{"aux_conf": {"pr": of}, **each}).key for each in changes)


# --- from folders ------------------------------------------------------------------------------


@pytest.fixture
def dump(tmp_path):
    """dump/<corpus> of one fold: 160 utterances of 1 to 5 s, 40 that validate, 40 of the test."""
    root = tmp_path / "dump/tones"
    fold = root / "folds/strict/Ses01F"
    fold.mkdir(parents=True)
    (fold.parent / "folds").write_text("Ses01F\n")
    mark_done(fold.parent, {})
    samples = {f"u{i:03d}": 16000 + 267 * i for i in range(240)}
    mixed = sorted(samples, key=lambda utt: utt[::-1])
    for part, utts in (("train", mixed[:160]), ("valid", mixed[160:200]), ("test", mixed[200:])):
        (fold / part).write_text("".join(f"{utt}\n" for utt in sorted(utts)))
        shapes = "".join(f"{utt} {samples[utt]}\n" for utt in sorted(utts))
        (fold / f"{part}.shape").write_text(shapes)
    tables = {
        "utt2num_samples": samples,
        "utt2emo": dict.fromkeys(samples, EMOTIONS[0]),
        "utt2spk": dict.fromkeys(samples, "Ses01F"),
    }
    for name, table in tables.items():
        (root / name).write_text("".join(f"{utt} {value}\n" for utt, value in table.items()))
    (root / "emotions").write_text("".join(f"{name}\n" for name in EMOTIONS))
    (tmp_path / "data").mkdir()
    return root


def a_training(tmp_path, **changes):
    system = write_system(tmp_path / "system.yaml", aux_conf={}, **changes)
    return SimpleNamespace(exp_dir=tmp_path / "exp/s", config=system, seed=1)


def seconds_of(dump, part):
    lines = (dump / "folds/strict/Ses01F" / f"{part}.shape").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines) / 16000


def test_the_work_is_read_from_folds_and_histories(tmp_path, dump):
    training = a_training(tmp_path, max_epoch=6)

    def work(**options):
        (found,), kinds = read_work({"strict": [training]}, dump, options)
        assert [each.label for each in kinds.values()] == ["system"]
        return found

    audio = seconds_of(dump, "train") + seconds_of(dump, "valid") / 3
    found = work()
    assert found.audio == pytest.approx(audio)
    assert found.test == pytest.approx(seconds_of(dump, "test"))
    assert (found.epochs, found.trained) == (6, 0)
    output = training.exp_dir / "Ses01F"
    output.mkdir(parents=True)
    epochs = [{"epoch": n, "train": {"seconds": 2.0}, "valid": {"seconds": 1.0}} for n in (1, 2)]
    (output / "history.json").write_text(json.dumps(epochs))
    assert (work().trained, work().seconds) == (2, 6.0)
    assert work(max_epoch=5).epochs == 5
    (output / ".done").write_text("{}")  # stopped early
    (output / ".predictions.done").write_text("{}")
    assert (work().epochs, work().test) == (2, 0.0)


def test_heads_first_are_work_of_their_own(tmp_path, dump):
    training = a_training(tmp_path, max_epoch=6, heads_first_conf={"max_epoch": 4})
    work, kinds = read_work({"strict": [training]}, dump, {})
    assert [(w.epochs, w.last, w.test > 0) for w in work] == [(4, False, False), (6, True, True)]
    assert [each.label for each in kinds.values()] == ["system heads", "system"]


def test_folds_that_are_missing_name_the_stage_that_makes_them(tmp_path, dump):
    with pytest.raises(UserError, match="./run.sh --stage 3 --stop-stage 3"):
        read_work({"paper": [a_training(tmp_path)]}, dump, {})


def made_up(args):
    """The history of a training in which each batch takes ``STEP``, in validation a third."""
    batches = {}
    for part in ("train", "valid"):
        (file,) = getattr(args, f"{part}_shape_file")
        lengths = dict(line.split() for line in Path(file).read_text().splitlines())
        lengths = {utt: int(length) for utt, length in lengths.items()}
        batches[part] = len(JitteredSampler(lengths, args.batch_size, 0.0))
    output = Path(args.output_dir)
    output.mkdir(parents=True)
    (output / "2epoch.pth").write_bytes(b"0" * 1000)
    (output / "checkpoint.pth").write_bytes(b"0" * 3000)
    cost = {"train": STEP, "valid": STEP / 3}
    return [
        {p: {"seconds": cost[p] * n} for p, n in batches.items()} for _ in range(args.max_epoch)
    ]


def test_a_fold_takes_as_long_as_the_plan_says(tmp_path, dump, monkeypatch):
    training = a_training(tmp_path, max_epoch=7, batch_size=4, accum_grad=2)
    asked = []

    def train(args):
        asked.append(args)
        return made_up(args)

    monkeypatch.setattr(timing, "train_twice", train)
    options = {"trainings": {"strict": [training]}, "data_dir": tmp_path / "data"}
    plan = make_plan(dump_dir=dump, **options)
    # 160 utterances that train and 40 that validate, four in a batch, seven epochs
    measured = 7 * (40 * STEP + 10 * STEP / 3)
    assert time_left(plan.work, plan.costs) == pytest.approx(measured, rel=0.1)
    assert len(Path(asked[0].train_shape_file[0]).parts) and asked[0].max_epoch == 2
    (found,) = plan.timings.values()
    assert (found["model"], found["checkpoint"]) == (1000, 3000)
    # nothing of it stays, and nothing is timed twice
    assert not (tmp_path / "exp").exists()
    names = {path.name for path in (dump / "plan").iterdir()}
    assert names == {"timing.json", "timing.log"}
    again = make_plan(dump_dir=dump, **options)
    assert len(asked) == 1 and again.timings == plan.timings


def test_twenty_batches_are_timed(tmp_path, dump, monkeypatch):
    counts = []

    def train(args):
        counts.append(len(Path(args.train_shape_file[0]).read_text().splitlines()))
        return made_up(args)

    monkeypatch.setattr(timing, "train_twice", train)
    for batch, accum in ((4, 1), (4, 8), (2, 3)):
        training = a_training(tmp_path, batch_size=batch, accum_grad=accum)
        make_plan({"strict": [training]}, tmp_path / "data", dump)
    assert counts == [4 * 20, 4 * 24, 2 * 21]  # whole updates
    args = SimpleNamespace(batch_size=4, accum_grad=1, batch_type="numel", batch_bins=32000)
    assert timing.sample_size(args, ["a 8000", "b 12000"]) == 20 * 3  # mean 10,000 samples


def test_where_jobs_are_submitted_nothing_is_timed(tmp_path, dump, monkeypatch):
    monkeypatch.setattr(timing, "train_twice", lambda args: pytest.fail("timed"))
    plan = make_plan({"strict": [a_training(tmp_path)]}, tmp_path / "data", dump, timed_here=False)
    assert plan.timings == {} and plan.costs == {}


# --- for real ----------------------------------------------------------------------------------


def test_systems_of_every_kind_are_timed_and_leave_nothing(corpus, tmp_path):
    frozen = {"frontend_conf": {**SYSTEM["frontend_conf"], "freeze": "all"}, "aux_conf": {}}
    features = {"input_size": 80, "norm_means": False, "norm_vars": False}
    systems = {
        "whole": {"heads_first_conf": {"untagged_epoch": 1, "max_epoch": 2}},
        "fit": {**frozen, "fit": "logistic_regression", "fit_conf": {"C": [0.1]}},
        "features": {"feats_type": "fbank", "frontend": "feats", "frontend_conf": features},
    }
    trainings = [
        SimpleNamespace(
            exp_dir=tmp_path / "exp" / name,
            config=write_system(tmp_path / f"{name}.yaml", **changes),
            seed=1,
        )
        for name, changes in systems.items()
    ]
    dump = corpus / "dump/tones"
    plan = make_plan({"strict": trainings}, corpus / "data/tones", dump)
    found = {plan.kinds[key].label: timed for key, timed in plan.timings.items()}
    assert set(found) == {"whole untagged", "whole heads", "whole", "fit", "features"}
    for timed in found.values():
        assert min(timed[name] for name in ("rate", "first", "forward", "model", "memory")) > 0
    kept = {label for label, timed in found.items() if timed["kept"]}
    assert kept == {"whole untagged", "whole heads", "fit"}
    assert "not known" not in describe_plan(plan)
    assert not (tmp_path / "exp").exists()
    assert {path.name for path in (dump / "plan").iterdir()} == {"timing.json", "timing.log"}
