"""Stage 5, first half: from trained folds to predictions.tsv."""

import json
import shutil

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml

from ser.data.tables import read_lines, read_table, write_table
from ser.errors import UserError
from ser.lang.units import greedy_ctc
from ser.models.inputs import load_input, make_batches, pad
from ser.scoring import decisions
from ser.scoring.decisions import read_evidence
from ser.scoring.infer import infer_folds, model_config
from ser.scoring.predictions import read_predictions
from ser.stage import mark_done
from ser.training.experiment import (
    NOT_FINISHED,
    NOT_INFERRED,
    OTHER_SETTINGS,
    SCORED,
    data_state,
    open_experiment,
)
from tests.support.fake_experiment import (
    FOLDS,
    HOP,
    LABELS,
    FakeModel,
    make_experiment,
    train_fold,
    write_run,
)


class Builder:
    """Stands for the recipe's model builder and counts its calls."""

    def __init__(self, change=None):
        self.calls = []
        self.change = change

    def __call__(self, config, device):
        self.calls.append(config)
        model = FakeModel()
        if self.change:
            self.change(model)
        return model


@pytest.fixture
def toy(tmp_path):
    return make_experiment(tmp_path)


def predictions(exp, dump, fold):
    experiment = open_experiment(exp, dump)
    return read_predictions(exp / fold / "predictions.tsv", LABELS, experiment.references(fold))


def test_every_test_utterance_gets_one_row_in_the_order_of_the_fold_list(toy):
    exp, dump, _ = toy
    assert infer_folds(exp, dump, build_model=Builder()) == FOLDS
    lines = (exp / "Ses01F/predictions.tsv").read_text().splitlines()
    assert lines[0] == "utt_id\tref\thyp\tp_angry\tp_happy\tp_sad\tp_neutral\tunits\torig_id"
    assert [line.split("\t")[0] for line in lines[1:]] == read_lines(
        dump / "folds/strict/Ses01F/test"
    )
    assert all(p.hyp == p.ref for p in predictions(exp, dump, "Ses01F"))


def test_probabilities_come_from_the_weights_of_the_fold_itself(toy):
    exp, dump, _ = toy
    infer_folds(exp, dump, build_model=Builder())
    for sharpness, fold in enumerate(FOLDS, start=1):
        row = predictions(exp, dump, fold)[0]
        model = FakeModel()
        model.sharpness.data = torch.tensor(float(sharpness))
        wave = load_input(read_table(dump / "wav.scp")[row.utt_id])
        logp = model.infer(torch.tensor(wave)[None], torch.tensor([len(wave)]))["emotion_logp"]
        assert row.probs == pytest.approx(logp.exp()[0].tolist(), abs=1e-6)


def test_predictions_do_not_depend_on_the_batch_size(toy):
    exp, dump, _ = toy
    found = []
    for batch_seconds in (0.01, 0.3, 1000.0):
        for fold in FOLDS:
            (exp / fold / "predictions.tsv").unlink(missing_ok=True)
        infer_folds(exp, dump, batch_seconds=batch_seconds, build_model=Builder())
        found.append([(exp / fold / "predictions.tsv").read_bytes() for fold in FOLDS])
    assert found[0] == found[1] == found[2]


def test_one_model_serves_all_folds_of_equal_configuration(toy):
    exp, dump, _ = toy
    builder = Builder()
    infer_folds(exp, dump, build_model=builder)
    assert len(builder.calls) == 1


def test_a_fold_of_another_configuration_gets_a_model_of_its_own(toy):
    exp, dump, _ = toy
    train_fold(exp / "Ses01M", sharpness=2.0, frontend_conf={"layers": 3})
    builder = Builder()
    infer_folds(exp, dump, build_model=builder)
    assert [path.parent.name for path in builder.calls] == ["Ses01F", "Ses01M", "Ses02F"]


def test_model_config_ignores_where_a_fold_was_written_but_no_hyper_parameter(toy):
    exp, _, _ = toy
    first, second = (model_config(exp / fold / "config.yaml") for fold in FOLDS[:2])
    assert first == second
    train_fold(exp / "Ses01M", sharpness=1.0, pooling="max")
    assert model_config(exp / "Ses01M/config.yaml") != first


def test_a_second_call_computes_nothing(toy):
    exp, dump, _ = toy
    infer_folds(exp, dump, build_model=Builder())
    builder = Builder()
    assert infer_folds(exp, dump, build_model=builder) == []
    assert builder.calls == []


def test_only_a_fold_that_was_trained_again_is_inferred_again(toy):
    exp, dump, _ = toy
    infer_folds(exp, dump, build_model=Builder())
    train_fold(exp / "Ses01M", sharpness=9.0)
    assert open_experiment(exp, dump).state("Ses01M") == NOT_INFERRED
    assert infer_folds(exp, dump, build_model=Builder()) == ["Ses01M"]


def test_folds_still_in_training_are_passed_over(toy):
    exp, dump, _ = toy
    (exp / "Ses01M/.done").unlink()
    assert infer_folds(exp, dump, build_model=Builder()) == ["Ses01F", "Ses02F"]
    assert open_experiment(exp, dump).state("Ses01M") == NOT_FINISHED


def test_folds_of_other_settings_are_passed_over(toy):
    exp, dump, _ = toy
    mark_done(exp / FOLDS[0], {"seed": 1, "lr": 0.2})
    assert FOLDS[0] not in infer_folds(exp, dump, build_model=Builder())
    assert open_experiment(exp, dump).state(FOLDS[0]) == OTHER_SETTINGS


def test_folds_restricts_the_work_to_those_named(toy):
    exp, dump, _ = toy
    assert infer_folds(exp, dump, folds=["Ses02F"], build_model=Builder()) == ["Ses02F"]
    with pytest.raises(UserError, match=r"--folds: Ses09X: .*Ses01F Ses01M Ses02F"):
        infer_folds(exp, dump, folds=["Ses02F", "Ses09X"], build_model=Builder())


def test_a_failure_in_one_fold_keeps_the_folds_before_it(toy):
    exp, dump, _ = toy
    (exp / "Ses01M/2epoch.pth").write_bytes(b"half a checkpoint")
    with pytest.raises(UserError, match=r"Ses01M/latest.pth: not a readable model file"):
        infer_folds(exp, dump, build_model=Builder())
    experiment = open_experiment(exp, dump)
    assert [experiment.state(fold) for fold in FOLDS] == [SCORED, NOT_INFERRED, NOT_INFERRED]
    assert not (exp / "Ses01M/predictions.tsv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; train this fold again: .*--stage 4"),
        ("\0\0", r"cannot be read \(ReaderError: .*; remove .*Ses01M and train the fold again"),
        ("seed: 1\nmult", r"cannot be read \(ScannerError: .*; remove .*Ses01M and train the fold"),
        ("seed: 1\n", "emotions, token_type, .* not found in it; remove .*Ses01M and train the"),
    ],
)
def test_a_lost_or_damaged_config_is_named_with_what_to_do(toy, content, message):
    exp, dump, _ = toy
    config = exp / "Ses01M/config.yaml"
    config.unlink() if content is None else config.write_text(content)
    with pytest.raises(UserError, match=f"{config}: {message}"):
        infer_folds(exp, dump, build_model=Builder())


def test_a_model_file_that_lacks_weights_is_refused(toy):
    exp, dump, _ = toy
    torch.save({}, exp / "Ses01F/2epoch.pth")
    with pytest.raises(UserError, match=r"latest.pth: does not fit .*sharpness"):
        infer_folds(exp, dump, build_model=Builder())


def test_a_model_of_other_emotions_is_refused(toy):
    exp, dump, _ = toy

    def swap(model):
        model.emotions = LABELS[::-1]

    with pytest.raises(UserError, match="the model knows neutral sad happy angry"):
        infer_folds(exp, dump, build_model=Builder(swap))


def test_probabilities_that_are_not_numbers_name_fold_and_utterance(toy):
    exp, dump, _ = toy
    train_fold(exp / "Ses01F", sharpness=float("nan"))
    with pytest.raises(UserError, match=r"Ses01F: .*Ses01F_00\d.*diverged"):
        infer_folds(exp, dump, build_model=Builder())
    assert not (exp / "Ses01F/predictions.tsv").exists()


def test_an_experiment_trained_on_other_data_is_refused(toy):
    exp, dump, _ = toy
    run = yaml.safe_load((exp / "run.yaml").read_text())
    for name in ("units.txt", "utt2num_samples"):
        (dump / name).touch()
    mark_done(dump / "folds/strict", {})
    run["settings"]["data"] = data_state(dump, "strict", "tagged_class")
    (exp / "run.yaml").write_text(yaml.safe_dump(run))
    open_experiment(exp, dump)
    with open(dump / "utt2emo", "a") as stream:
        stream.write("zzz angry\n")
    with pytest.raises(UserError, match="trained on other data .* --overwrite true"):
        open_experiment(exp, dump)


def test_an_utterance_without_audio_is_named_before_a_model_is_built(toy):
    exp, dump, _ = toy
    table = read_table(dump / "wav.scp")
    del table["Ses02F_001"]
    write_table(dump / "wav.scp", table)
    builder = Builder()
    with pytest.raises(UserError, match=r"wav.scp: Ses02F_001 of fold Ses02F"):
        infer_folds(exp, dump, build_model=builder)
    assert builder.calls == []


@pytest.mark.parametrize(
    ("cuda", "message"),
    [("13.0", "no CUDA GPU .* new enough for CUDA 13.0"), (None, "for the CPU; make TORCH=cuda")],
)
def test_a_gpu_that_is_not_there_is_said(toy, monkeypatch, cuda, message):
    exp, dump, _ = toy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(UserError, match=rf"--ngpu 1: torch .* {message}"):
        infer_folds(exp, dump, ngpu=1, build_model=Builder())


def test_an_experiment_that_was_never_trained_sends_to_stage_4(tmp_path):
    with pytest.raises(UserError, match=r"run.yaml: no such file; train first: .*--stage 4"):
        infer_folds(tmp_path, tmp_path)


def test_a_run_json_that_names_no_model_file_sends_to_stage_4(toy):
    exp, dump, _ = toy
    (exp / "Ses01F/run.json").write_text(json.dumps({"inference_model": "gone.pth"}))
    with pytest.raises(UserError, match=r"run.json: inference_model 'gone.pth'.*--folds Ses01F"):
        infer_folds(exp, dump, build_model=Builder())


def test_a_model_without_ctc_head_leaves_the_units_empty(toy):
    exp, dump, _ = toy

    def remove(model):
        model.aux_units = {}

    infer_folds(exp, dump, build_model=Builder(remove))
    assert all(p.units == () for p in predictions(exp, dump, "Ses01F"))
    assert open_experiment(exp, dump).units_head("Ses01F") is None


def test_units_are_decoded_from_real_frames_only(toy):
    exp, dump, _ = toy
    infer_folds(exp, dump, build_model=Builder())
    lengths = read_table(dump / "folds/strict/Ses01F/test.shape")
    for p in predictions(exp, dump, "Ses01F"):
        frames = int(lengths[p.utt_id]) // HOP
        assert p.units == (f"V{LABELS.index(p.hyp)}",) * (frames // 2)


def test_feature_matrices_are_read_where_the_frontend_wants_them(toy):
    exp, dump, _ = toy
    (dump / "fbank").mkdir()
    feats = {
        utt_id: np.full((6, 3), 0.5, dtype=np.float32) for utt_id in read_table(dump / "utt2emo")
    }
    scp = dump / "fbank/feats.scp"
    kaldiio.save_ark(str(dump / "fbank/feats.ark"), feats, scp=str(scp))
    write_run(exp, feats_type="fbank")
    shapes = []

    def spy(model):
        model.infer = lambda speech, lengths: (
            shapes.append((tuple(speech.shape[1:]), lengths.tolist()))
            or FakeModel.infer(model, torch.ones(len(speech), 960), torch.full((len(speech),), 960))
        )

    infer_folds(exp, dump, folds=["Ses01F"], build_model=Builder(spy))
    assert shapes == [((6, 3), [6] * 5)]


def test_greedy_ctc_merges_repeats_unless_a_blank_parts_them():
    units = ["<blank>", "V0", "S0"]
    assert greedy_ctc([0, 1, 1, 0, 1, 2, 2, 0], units) == ["V0", "V0", "S0"]
    assert greedy_ctc([1, 2, 1], units) == ["V0", "S0", "V0"]
    assert greedy_ctc([0, 0], units) == []
    assert greedy_ctc([], units) == []


def test_batches_hold_similar_lengths_within_the_bound_longest_first():
    lengths = {"a": 10, "b": 40, "c": 9, "d": 100, "e": 38, "f": 10}
    batches = make_batches(lengths, max_samples=80)
    assert batches == [["d"], ["b", "e"], ["a", "f", "c"]]
    assert sorted(sum(batches, [])) == sorted(lengths)


def test_waveforms_are_scaled_from_int16_wherever_they_lie(tmp_path):
    samples = np.array([0, 16384, -32768, 32767], dtype=np.int16)
    folder = tmp_path / "with blanks 'and quotes' ü"
    folder.mkdir()
    kaldiio.save_ark(str(folder / "a.ark"), {"u": (16000, samples)}, scp=str(folder / "a.scp"))
    wav = folder / "u.wav"
    soundfile.write(wav, samples, 16000, subtype="PCM_16")
    for entry in (read_table(folder / "a.scp")["u"], str(wav)):
        loaded = load_input(entry)
        assert loaded.dtype == np.float32
        assert loaded.tolist() == pytest.approx([0, 0.5, -1, 32767 / 32768])


def test_samples_that_are_not_16_bit_mono_are_refused(tmp_path):
    wrong = {"u": (16000, np.zeros((8, 2), np.int16)), "v": np.zeros(8, np.float32)}
    kaldiio.save_ark(str(tmp_path / "a.ark"), wrong, scp=str(tmp_path / "a.scp"))
    for entry in read_table(tmp_path / "a.scp").values():
        with pytest.raises(UserError, match=r"expected 16-bit samples of one channel.*--stage 3"):
            load_input(entry)


def test_padding_is_zero_and_lengths_are_kept():
    speech, lengths = pad([np.ones(3, np.float32), np.ones(5, np.float32)])
    assert speech.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert lengths.tolist() == [3, 5]


def test_evidence_for_other_decisions_covers_test_and_validation_utterances(toy):
    exp, dump, _ = toy
    for name in ("", ".shape"):  # the second fold's speaker validates the first
        source = (dump / f"folds/strict/{FOLDS[1]}/test{name}").read_text()
        (dump / f"folds/strict/{FOLDS[0]}/valid{name}").write_text(source)
    infer_folds(exp, dump, build_model=Builder())
    opened = open_experiment(exp, dump)
    path = exp / FOLDS[0] / decisions.FILE_NAME
    evidence = read_evidence(path, LABELS, opened.references(FOLDS[0]))
    for split, fold in (("test", FOLDS[0]), ("valid", FOLDS[1])):
        covered = [e.utt_id for e in evidence if e.split == split]
        assert covered == list(opened.references(fold))
    chosen, weights = decisions.decide(evidence)
    rows = predictions(exp, dump, FOLDS[0])
    assert {p.utt_id: LABELS.index(p.hyp) for p in rows} == chosen["head"]
    assert set(weights) == {"head+mass", "head+transcript"}


def test_untagged_units_give_no_evidence_and_take_an_older_one_away(toy):
    exp, dump, _ = toy
    infer_folds(exp, dump, build_model=Builder())
    assert (exp / FOLDS[0] / decisions.FILE_NAME).exists()
    write_run(exp, token_type="class")
    for fold in FOLDS:
        (exp / fold / "predictions.tsv").unlink()
    shutil.copy(dump / "text", dump / "text_class")
    infer_folds(exp, dump, build_model=Builder())
    assert not (exp / FOLDS[0] / decisions.FILE_NAME).exists()
