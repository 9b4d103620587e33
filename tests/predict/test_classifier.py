"""ser predict and SpeechEmotion: from any recording to emotions, segments and units."""

import csv
import io
import json
import os
import re
import shutil
import sys
import threading
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import ser.predict.package
from ser.cli.app import make_app
from ser.cli.options import call
from ser.cli.predict import default_model
from ser.data.features import FEATS_TYPES, FUNCTIONALS
from ser.data.tables import read_table
from ser.errors import UserError
from ser.predict import classifier as predict
from ser.predict.classifier import SpeechEmotion
from ser.predict.models import TorchModel
from ser.predict.windows import UNSURE
from ser.scoring.infer import infer_folds
from ser.scoring.predictions import read_predictions
from ser.training.experiment import open_experiment
from tests.support.fake_experiment import HOP, LABELS, LEVELS, FakeModel
from tests.support.packable import make_model
from tests.support.training import make_corpus, train

RATE = 16000


def said_like(*emotions: str, seconds: float = 6.0, rate: int = RATE) -> np.ndarray:
    """Stretches at the levels that the fake model reads emotions from, in [-1, 1]."""
    size = int(seconds * rate)
    wiggle = 2 * (np.arange(size) % 2) - 1  # or it would be silence: all samples equal
    return np.concatenate([(LEVELS[e] + 50 * wiggle) / 32768 for e in emotions])


class Packed:
    """Stands for package.Packed: folds of the fake model, each surer than the one before."""

    emotions, feats_type, folds = LABELS, "raw", ["one", "two", "three"]
    card, graphs = {}, {}

    def load(self, fold, device="cpu"):
        model = FakeModel()
        model.sharpness.data = torch.tensor(1.0 + self.folds.index(fold))
        return model.eval()


@pytest.fixture
def packed(monkeypatch):
    monkeypatch.setattr(ser.predict.package, "open_model", lambda source: Packed())


def fake(fold="one", **changes) -> SpeechEmotion:
    return SpeechEmotion([TorchModel(Packed().load(fold))], **changes)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options) -> str:
    soundfile.write(path, samples, rate, **options)
    return str(path)


# --- from Python -------------------------------------------------------------------------------


def test_a_short_recording_is_one_utterance(packed):
    model = SpeechEmotion.from_pretrained("anything", folds=["two"])
    said = model(said_like("sad", seconds=2), RATE)
    assert said.emotion == "sad"
    assert list(said.probabilities) == LABELS
    assert sum(said.probabilities.values()) == pytest.approx(1)
    assert [(s.start, s.end, s.probabilities) for s in said.segments] == [
        (0, 2, said.probabilities)
    ]
    assert said.duration == 2


def test_the_timeline_of_a_long_recording_shows_when_the_emotion_changes():
    said = fake()(said_like("angry", "sad", "happy"), RATE)
    assert [(s.start, s.end) for s in said.segments] == [
        (0, 4.5),
        (4.5, 7.5),
        (7.5, 10.5),
        (10.5, 13.5),
        (13.5, 18),
    ]
    # the second and fourth window hear both neighbours, so only these three are certain
    assert [said.segments[i].emotion for i in (0, 2, 4)] == ["angry", "sad", "happy"]


def test_classes_restrict_the_probabilities_and_renormalise_them():
    samples = said_like("happy", seconds=2)
    free, chosen = fake()(samples, RATE), fake(classes=["sad", "angry"])
    said = chosen(samples, RATE)
    assert chosen.emotions == list(said.probabilities) == ["angry", "sad"]  # in class order
    ratio = free.probabilities["angry"] / free.probabilities["sad"]
    assert said.probabilities["angry"] / said.probabilities["sad"] == pytest.approx(ratio)
    assert sum(said.probabilities.values()) == pytest.approx(1)
    for wrong in (["angry", "calm"], ["angry"]):
        with pytest.raises(UserError, match=f"--classes {','.join(wrong)}: expected two or more"):
            fake(classes=wrong)


def test_below_the_probability_to_abstain_the_answer_is_unsure(capsys, monkeypatch, tmp_path):
    samples = said_like("sad", "happy", seconds=4)
    least = min(max(s.probabilities.values()) for s in fake()(samples, RATE, 2).segments)
    model = fake(abstain=least + 1e-6)
    said = model(samples, RATE, segments=2)
    decided = {s.emotion for s in said.segments}
    assert UNSURE in decided and len(decided) > 1
    for s in said.segments:
        assert (s.emotion == UNSURE) == (max(s.probabilities.values()) < model.abstain)
    with pytest.raises(UserError, match="--abstain 1.5: expected a probability from 0 to below 1"):
        fake(abstain=1.5)


def test_segments_of_so_many_seconds_do_not_overlap():
    said = fake()(said_like("angry", "sad", "happy", seconds=2), RATE, segments=2)
    assert [(s.start, s.end, s.emotion) for s in said.segments] == [
        (0, 2, "angry"),
        (2, 4, "sad"),
        (4, 6, "happy"),
    ]


def test_segments_none_hears_the_whole_recording_at_once():
    samples = said_like("angry", "sad", "happy", seconds=8)
    said = fake()(samples, RATE, segments="none")
    assert [(s.start, s.end) for s in said.segments] == [(0, 24)]
    # the fake model reads the mean level: 4333 of 32768 is nearest to happy's 4000
    assert said.emotion == "happy"


def test_a_recording_that_is_too_long_for_one_utterance_is_refused(monkeypatch):
    monkeypatch.setattr(predict, "LONGEST_SECONDS", 3.0)
    assert fake()(said_like("sad", seconds=3), RATE, segments="none").emotion == "sad"
    with pytest.raises(UserError, match=r"longer than 3 s.* use --segments auto"):
        fake()(said_like("sad", seconds=3.1), RATE, segments="none")


@pytest.mark.parametrize("segments", [0, 0.4, -1, 301, float("nan"), float("inf"), "some", None])
def test_segments_that_make_no_sense_are_refused(segments):
    with pytest.raises(UserError, match="expected auto, none, or seconds from 0.5 to 300"):
        fake()(said_like("sad"), RATE, segments=segments)


@pytest.mark.parametrize("seconds", [np.float32(2), np.int64(2)])
def test_numbers_of_numpy_are_numbers_of_seconds(packed, seconds):
    said = SpeechEmotion.from_pretrained("x", device=None)(said_like("sad"), RATE, seconds)
    assert [segment.start for segment in said.segments] == [0, 2, 4]


def test_folds_are_averaged_and_can_be_chosen(packed):
    samples = said_like("happy", seconds=1)
    alone = [
        SpeechEmotion.from_pretrained("x", folds=[f])(samples, RATE).probabilities["happy"]
        for f in Packed.folds
    ]
    assert alone[0] < alone[1] < alone[2]
    together = SpeechEmotion.from_pretrained("x")(samples, RATE)
    assert together.probabilities["happy"] == pytest.approx(np.mean(alone), abs=1e-6)
    pair = SpeechEmotion.from_pretrained("x", folds=["three", "one"])(samples, RATE)
    assert pair.probabilities["happy"] == pytest.approx((alone[0] + alone[2]) / 2, abs=1e-6)
    with pytest.raises(UserError, match="--folds four: not in x, which has one two three"):
        SpeechEmotion.from_pretrained("x", folds=["four"])


def test_units_have_the_times_of_the_frames_that_the_model_gives():
    # 20-ms frames, every other one a unit: 0.02-0.04, 0.06-0.08 ...
    said = fake()(said_like("sad", seconds=0.4), RATE)
    assert [u.unit for u in said.units] == ["V2"] * 10
    assert said.units[1].start == pytest.approx(0.06) and said.units[1].end == pytest.approx(0.08)


def test_the_unit_track_of_a_long_recording_is_that_of_its_parts_without_gap_or_repeat():
    said = fake()(said_like("sad", seconds=20), RATE)
    assert len(said.units) == 20 * RATE // HOP // 2
    np.testing.assert_allclose([u.start for u in said.units], 0.02 + 0.04 * np.arange(500))


def test_posteriors_of_units_are_averaged_over_folds():
    def model(*p):
        each = FakeModel()
        logp = torch.tensor([p]).log()
        each.aux_units = {"pr": ["<blank>", "V0", "S0"]}
        each.infer = lambda speech, *_: {
            "emotion_logp": torch.zeros(len(speech), 4).log_softmax(-1),
            "lengths": torch.ones(len(speech), dtype=torch.long),
            "aux": {"pr": logp.expand(len(speech), 1, 3)},
        }
        return TorchModel(each)

    models = [model(0.1, 0.5, 0.4), model(0.1, 0.3, 0.6), model(0.8, 0.15, 0.05)]
    samples = said_like("sad", seconds=1)
    assert [SpeechEmotion([m])(samples, RATE).units[0].unit for m in models[:2]] == ["V0", "S0"]
    # means over all three: 0.333, 0.317, 0.35, and over the first two 0.1, 0.4, 0.5
    assert [u.unit for u in SpeechEmotion(models)(samples, RATE).units] == ["S0"]
    assert SpeechEmotion(models[2:])(samples, RATE).units == []


def test_a_model_without_a_ctc_head_has_no_units():
    model = FakeModel()
    model.aux_units = {}
    assert SpeechEmotion([TorchModel(model)])(said_like("sad"), RATE).units == []


@pytest.mark.parametrize("feats_type", sorted(FEATS_TYPES))
def test_a_model_on_features_gets_those_of_training(feats_type):
    if feats_type in FUNCTIONALS:
        pytest.importorskip("opensmile", reason="opensmile (requirements-apps.txt) is missing")
    samples = np.random.default_rng(0).integers(-9000, 9000, RATE, dtype=np.int16)
    got = []
    model = FakeModel()

    def infer(speech, lengths, _):
        got.append((speech, lengths.tolist()))
        return FakeModel.infer(model, torch.ones(1, 960), torch.full((1,), 960))

    model.infer = infer
    SpeechEmotion([TorchModel(model)], feats_type)(samples, RATE)
    expected = FEATS_TYPES[feats_type](samples)
    torch.testing.assert_close(got[0][0][0], torch.from_numpy(expected))
    assert got[0][1] == [len(expected)]


def test_a_model_on_waveforms_gets_16_bit_samples_over_32768_as_in_training():
    samples = np.random.default_rng(0).integers(-9000, 9000, RATE, dtype=np.int16)
    got, model = [], FakeModel()
    model.infer = lambda *batch: got.append(batch) or FakeModel.infer(model, *batch)
    SpeechEmotion([TorchModel(model)])(samples, RATE)
    torch.testing.assert_close(got[0][0][0] * 32768, torch.from_numpy(samples).float())


def test_digital_silence_within_a_recording_is_not_asked_about():
    gap = np.zeros(4 * RATE)
    samples = np.concatenate([said_like("angry", seconds=2), gap, said_like("sad", seconds=2)])
    said = fake()(samples, RATE, segments=2)
    assert [(s.start, s.end, s.emotion) for s in said.segments] == [(0, 2, "angry"), (6, 8, "sad")]
    assert said.duration == 8
    assert not any(u.end > 2 and u.start < 6 for u in said.units)


def test_probabilities_that_are_not_numbers_are_not_a_prediction():
    model = Packed().load("one")
    model.sharpness.data = torch.tensor(float("nan"))
    with pytest.raises(UserError, match="not numbers; its training has diverged"):
        SpeechEmotion([TorchModel(model)])(said_like("sad"), RATE)


def test_batches_do_not_change_what_is_said(monkeypatch):
    # the last window has 5 s, so that it is alone beside those of 6 s
    samples = said_like("angry", "sad", "happy", "neutral")[: 23 * RATE]
    at_once = fake()(samples, RATE)
    monkeypatch.setattr(predict, "BATCH_SECONDS", 0.1)
    one_by_one = fake()(samples, RATE)
    assert len(one_by_one.segments) == len(at_once.segments) == 7
    for one, other in zip(one_by_one.segments, at_once.segments, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert one_by_one.units == at_once.units


def test_progress_comes_in_seconds_and_reaches_the_end():
    heard = []
    fake()(said_like("sad", seconds=100), RATE, on_progress=lambda *each: heard.append(each))
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1] == (100, 100) and len(heard) > 5


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute(tmp_path):
    model = FakeModel()
    model.aux_units = {}  # the track of units is a result, and grows
    classifier = SpeechEmotion([TorchModel(model)])
    peaks = {}
    for minutes in (1, 60):
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 16000, 1) as sound:
            for _ in range(minutes):
                sound.write(said_like("angry", "sad", seconds=30))
        tracemalloc.start()
        said = classifier(path)
        peaks[minutes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert said.duration == 60 * minutes and len(said.segments) == 20 * minutes - 1
    # the hour's samples alone are 115 MB; its 1200 segments take one
    assert peaks[60] < peaks[1] + 2e6


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "toaster"])
def test_a_device_that_is_not_there_is_said(packed, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--device {device}: .*use cpu, or auto"):
        SpeechEmotion.from_pretrained("x", device=device)
    assert SpeechEmotion.from_pretrained("x", device="auto").models[0].device == "cpu"


def test_a_full_gpu_says_how_to_need_less():
    model = FakeModel()

    def infer(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee also")

    model.infer = infer
    with pytest.raises(UserError, match=r"memory. Tried .* GiB; choose fewer models with --folds"):
        SpeechEmotion([TorchModel(model)])(said_like("sad"), RATE)


@pytest.mark.parametrize(
    ("trained_in", "lacks", "expected"),
    [
        ("bfloat16", None, torch.bfloat16),
        ("bfloat16", "processor", torch.float32),
        ("float32", None, torch.float32),
    ],
)
def test_the_precision_is_that_of_training_where_the_processor_has_it(
    monkeypatch, trained_in, lacks, expected
):
    monkeypatch.setattr("ser.training.devices.lacks_bfloat16", lambda ngpu: lacks)
    model = make_model(model_conf={"amp_dtype": trained_in})
    assert TorchModel(model, precision="auto").dtype == expected


def test_other_precisions_say_nearly_the_same_and_not_the_same():
    batch = 0.1 * np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32)
    expected, units, _ = TorchModel(make_model())(batch)
    assert expected.shape == (2, 4) and units.shape[::2] == (2, 3)
    for precision in ("bfloat16", "int8"):
        logp = TorchModel(make_model(), precision=precision)(batch).logp
        assert 0 < np.abs(logp - expected).max() < 0.1
    with pytest.raises(UserError, match="--precision int8: not on cuda; set --device cpu"):
        TorchModel(make_model(), "cuda", "int8")


# --- the command -------------------------------------------------------------------------------


def ser_predict(capsys, *args, model="x") -> tuple[int, str, list[str]]:
    """Exit status, standard output, lines on standard error."""
    status = 0
    try:
        call(make_app("predict"), ["predict", *map(str, args), "--model", str(model)], "ser")
    except SystemExit as stop:
        status = stop.code
    except UserError as err:
        status = 1
        print(f"error: {err}", file=sys.stderr)
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


@pytest.fixture
def wavs(tmp_path, packed) -> list[str]:
    return [
        write(tmp_path / "one, two.wav", said_like("angry", "sad", "happy"), subtype="PCM_24"),
        write(tmp_path / 'ü "b".wav', said_like("neutral", seconds=2)),
    ]


def test_unsure_is_said_in_every_format(wavs, capsys):
    for form, expected in {
        "text": "): unsure: neutral 0.",
        "json": '"emotion": "unsure"',
        "csv": ",file,0.000,2.000,unsure,0.",
        "textgrid": 'text = "unsure"',
    }.items():
        options = ("--format", form, "--abstain", "0.999", "--classes", "sad,neutral")
        _, out, _ = ser_predict(capsys, wavs[1], *options)
        assert expected in out


def test_text_names_the_emotions_and_where_they_change(wavs, capsys):
    status, out, err = ser_predict(capsys, *wavs, "--segments", "6", "--folds", "three")
    lines = out.splitlines()
    assert (status, err) == (0, [])
    assert lines[0].startswith(f"{wavs[0]} (0:18.0): ")
    assert [re.sub(" [01][.].*", "", line) for line in lines[1:4]] == [
        "  0:00.0 - 0:06.0  angry",
        "  0:06.0 - 0:12.0  sad",
        "  0:12.0 - 0:18.0  happy",
    ]
    assert lines[4].startswith("  units: V0 V0 ") and lines[4].endswith(" and 430 more")
    assert lines[5].startswith(f"{wavs[1]} (0:02.0): neutral 1.00  sad 0.00  ")


def test_json_is_one_object_a_line(wavs, capsys):
    _, out, _ = ser_predict(capsys, *wavs, "--format", "json", "--segments", "6")
    first, second = map(json.loads, out.splitlines())
    assert (first["file"], first["duration"]) == (wavs[0], 18)
    assert [s["emotion"] for s in first["segments"]] == ["angry", "sad", "happy"]
    assert set(first["segments"][0]) == {"start", "end", "emotion", "probabilities"}
    assert first["units"][0] == {"start": 0.02, "end": 0.04, "unit": "V0"}
    assert second["file"] == wavs[1]
    assert second["emotion"] == max(second["probabilities"], key=second["probabilities"].get)
    assert sum(second["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_csv_has_a_header_a_row_for_each_file_and_one_for_each_segment(wavs, capsys):
    _, out, _ = ser_predict(capsys, *wavs, "--format", "csv", "--segments", "6")
    header, *rows = csv.reader(io.StringIO(out))
    probabilities = [f"p_{e}" for e in LABELS]
    assert header == ["file", "scope", "start", "end", "emotion", *probabilities, "warnings"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        (wavs[0], "file", rows[0][4]),
        (wavs[0], "segment", "angry"),
        (wavs[0], "segment", "sad"),
        (wavs[0], "segment", "happy"),
        (wavs[1], "file", "neutral"),
        (wavs[1], "segment", "neutral"),
    ]
    assert rows[2][2:4] == ["6.000", "12.000"]


def read_textgrid(text: str) -> dict[str, list[tuple[float, float, str]]]:
    """The interval tiers of a TextGrid in long format, checked as Praat would."""
    lines = iter(line.strip() for line in text.splitlines() if line.strip())

    def value(key):
        line = next(lines)
        assert line.startswith(f"{key} "), f"expected {key}, found {line}"
        return line.removeprefix(key).removeprefix(" =").strip().removesuffix(":")

    def quoted(key):
        found = value(key)
        assert found[0] == found[-1] == '"' and '"' not in found[1:-1].replace('""', "")
        return found[1:-1].replace('""', '"')

    assert (quoted("File type"), quoted("Object class")) == ("ooTextFile", "TextGrid")
    assert float(value("xmin")) == 0
    end = float(value("xmax"))
    assert next(lines) == "tiers? <exists>"
    count, tiers = int(value("size")), {}
    assert next(lines) == "item []:"
    for number in range(1, count + 1):
        assert next(lines) == f"item [{number}]:"
        assert quoted("class") == "IntervalTier"
        name = quoted("name")
        assert (float(value("xmin")), float(value("xmax"))) == (0, end)
        size, intervals = int(value("intervals: size")), []
        for index in range(1, size + 1):
            assert next(lines) == f"intervals [{index}]:"
            intervals.append((float(value("xmin")), float(value("xmax")), quoted("text")))
        edges = [0.0] + [stop for _, stop, _ in intervals]
        assert [start for start, _, _ in intervals] == edges[:-1] and edges[-1] == end
        assert all(start < stop for start, stop, _ in intervals)
        tiers[name] = intervals
    assert next(lines, None) is None
    return tiers


def test_a_textgrid_has_filled_tiers_of_emotions_and_units(wavs, capsys):
    status, out, _ = ser_predict(capsys, wavs[0], "--format", "textgrid", "--segments", "3")
    tiers = read_textgrid(out)
    assert status == 0 and list(tiers) == ["emotion", "units"]
    assert tiers["emotion"] == [(0, 6, "angry"), (6, 12, "sad"), (12, 18, "happy")]
    assert tiers["units"][:3] == [(0, 0.02, ""), (0.02, 0.04, "V0"), (0.04, 0.06, "")]


def test_silence_is_an_interval_without_text(packed, tmp_path, capsys):
    parts = [np.zeros(2 * RATE), said_like("sad", seconds=2), np.zeros(2 * RATE)]
    path = write(tmp_path / "a.wav", np.concatenate(parts))
    _, out, _ = ser_predict(capsys, path, "--format", "textgrid", "--segments", "2")
    assert read_textgrid(out)["emotion"] == [(0, 2, ""), (2, 4, "sad"), (4, 6, "")]


def test_textgrids_of_several_files_go_into_a_folder(wavs, tmp_path, capsys):
    folder = tmp_path / "grids"
    status, out, _ = ser_predict(capsys, *wavs, "--format", "textgrid", "--output", folder)
    assert (status, out) == (0, "")
    assert sorted(p.name for p in folder.iterdir()) == ["one, two.TextGrid", 'ü "b".TextGrid']
    for path in folder.iterdir():
        read_textgrid(path.read_text(encoding="utf-8"))


def test_output_takes_what_would_be_printed(wavs, tmp_path, capsys):
    _, printed, _ = ser_predict(capsys, *wavs, "--format", "csv")
    status, out, _ = ser_predict(capsys, *wavs, "--format", "csv", "--output", tmp_path / "o.csv")
    assert (status, out) == (0, "")
    assert (tmp_path / "o.csv").read_text(encoding="utf-8") == printed


def test_an_output_that_cannot_be_is_refused_before_anything_is_computed(wavs, tmp_path, capsys):
    (tmp_path / "twice").mkdir()
    double = write(tmp_path / "twice/one, two.flac", said_like("sad"))
    before = Path(wavs[0]).read_bytes()
    for args, message in {
        ("--output", tmp_path): "a folder; expected the name of a file",
        ("--output", tmp_path / "no/such/x.csv"): "there is no folder",
        ("--output", wavs[0]): "is one of the recordings",
        ("--format", "textgrid"): "say with --output into which folder",
        ("--format", "textgrid", "--output", wavs[0]): "a file; expected a folder",
        ("--format", "textgrid", "--output", "x", double): "would both be written to x/one, two",
    }.items():
        status, out, err = ser_predict(capsys, *wavs, *args)
        assert (status, out, len(err)) == (1, "", 1) and message in err[0]
    assert Path(wavs[0]).read_bytes() == before


def test_an_older_output_stays_until_there_is_something_to_write(packed, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    for name, before in {"kept.csv": "as it was", "new.csv": None}.items():
        output = tmp_path / name
        if before:
            output.write_text(before)
        status, _, err = ser_predict(capsys, bad, "--format", "csv", "--output", output)
        assert status == 1 and "not an audio file" in err[0]
        assert (output.read_text() if output.exists() else None) == before


def test_a_recording_is_never_overwritten(wavs, tmp_path, capsys):
    other = write(tmp_path / "other.wav", said_like("sad"))
    before = Path(other).read_bytes()
    status, _, err = ser_predict(capsys, *wavs, "--format", "csv", "--output", other)
    assert status == 1 and "other.wav: a recording, which would be lost" in err[0]
    assert Path(other).read_bytes() == before


def test_a_textgrid_that_cannot_be_written_costs_no_other(wavs, tmp_path, capsys):
    (tmp_path / "grids/one, two.TextGrid").mkdir(parents=True)
    args = ("--format", "textgrid", "--output", tmp_path / "grids")
    status, _, err = ser_predict(capsys, *wavs, *args)
    assert status == 1 and "one, two.TextGrid: cannot be written (Is a directory)" in err[0]
    assert err[1] == "error: 1 of 2 files failed, see above"
    assert (tmp_path / 'grids/ü "b".TextGrid').is_file()


def test_streams_that_are_closed_are_said(wavs, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdin", None)
        status, _, err = ser_predict(capsys, "-")
    assert status == 1 and "standard input: closed; give audio through a pipe" in err[0]
    output = tmp_path / "o.csv"
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        with pytest.raises(UserError, match="standard output is closed; name a file"):
            call(make_app("predict"), ["predict", wavs[0], "--model", "x"], "ser")
        assert ser_predict(capsys, wavs[0], "--output", output)[0] == 0
    assert output.read_text().startswith(wavs[0])


def test_standard_input_is_read(wavs, capsys, monkeypatch):
    data = io.BytesIO(Path(wavs[1]).read_bytes())
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=data))
    status, out, _ = ser_predict(capsys, "-", "--format", "json")
    assert (status, json.loads(out)["file"], json.loads(out)["emotion"]) == (0, "-", "neutral")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"no audio")))
    status, out, err = ser_predict(capsys, "-")
    assert (status, out) == (1, "") and err[0].startswith("error: standard input: not an audio")
    status, _, err = ser_predict(capsys, "-", "-")
    assert status == 1 and "can be read once only" in err[0]


def test_a_named_pipe_is_read_like_standard_input(packed, tmp_path, capsys):
    wav = Path(write(tmp_path / "a.wav", said_like("happy")))
    os.mkfifo(tmp_path / "pipe")
    writer = (tmp_path / "pipe").write_bytes  # waits until somebody reads
    threading.Thread(target=writer, args=[wav.read_bytes()], daemon=True).start()
    status, out, err = ser_predict(capsys, tmp_path / "pipe")
    assert (status, err) == (0, [])
    assert out.startswith(f"{tmp_path / 'pipe'} (0:06.0): happy")


def test_bad_files_are_reported_each_in_a_sentence_and_the_others_are_done(tmp_path, wavs, capsys):
    good = said_like("sad", seconds=2)
    high = said_like("sad", seconds=2, rate=192000)
    nan = np.where(np.arange(len(good)) == 777, np.nan, good)
    fine = [
        write(tmp_path / "8bit.wav", good, subtype="PCM_U8"),
        write(tmp_path / "24bit.wav", good, subtype="PCM_24"),
        write(tmp_path / "192k.wav", high, 192000),
        write(tmp_path / "6channels.wav", np.stack([good] * 6, axis=1)),
        write(tmp_path / "mp3.mp3", good),
        str(shutil.copy(tmp_path / "mp3.mp3", tmp_path / "mp3 called.wav")),
        write(tmp_path / "raw.raw", good, format="WAV"),
    ]
    bad = {
        write(tmp_path / "none.wav", good[:0]): "0 samples .* shorter than one 25-ms frame; leave",
        write(tmp_path / "short.wav", good[:300]): "300 samples .* shorter than one 25-ms frame",
        write(tmp_path / "silent.wav", 0 * good): "silent .* nothing to hear; replace",
        write(tmp_path / "nan.wav", nan, subtype="FLOAT"): "1 samples are NaN .*; give finite",
        write(tmp_path / "loud.wav", 9999 * good, subtype="FLOAT"): "full scale is 1.0; if they",
        str(tmp_path / "cut.wav"): "truncated: its header promises .* copy it again",
        str(tmp_path / "cut.flac"): "cannot be decoded .* copy it again",
        str(tmp_path / "text.wav"): "not an audio file .* convert it .* or copy it again",
        str(tmp_path / "empty.wav"): "empty .* copy it again",
        str(tmp_path / "missing.wav"): "no such file; correct the path",
        str(tmp_path): "a folder, not a file; name the audio files in it",
        "/dev/null": "a device or a pipe, not a file; save the audio in a file",
    }
    (tmp_path / "cut.wav").write_bytes(Path(fine[1]).read_bytes()[:9999])
    write(tmp_path / "cut.flac", np.random.default_rng(0).uniform(-0.5, 0.5, RATE))
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("to be done\n" * 50)
    (tmp_path / "empty.wav").touch()

    status, out, err = ser_predict(capsys, *bad, *fine, wavs[0], "--format", "json")
    done = {row["file"]: row["emotion"] for row in map(json.loads, out.splitlines())}
    assert status == 1
    assert list(done) == [*fine, wavs[0]]
    assert {done[path] for path in fine} == {"sad"}
    assert len(err) == len(bad) + 1
    for line, (path, pattern) in zip(err, bad.items(), strict=False):
        assert line.startswith(f"error: {path}: "), line
        assert re.search(pattern, line), line
    assert err[-1] == f"error: {len(bad)} of {len(bad) + len(fine) + 1} files failed, see above"


def test_a_defect_met_in_one_file_is_named_and_the_others_are_done(wavs, capsys, monkeypatch):
    infer = FakeModel.infer

    def fail_for_long(self, speech, lengths, dtype):
        if speech.shape[1] > 3 * RATE:
            raise RuntimeError("sizes do not match")
        return infer(self, speech, lengths)

    monkeypatch.setattr(FakeModel, "infer", fail_for_long)
    status, out, err = ser_predict(capsys, *wavs, "--format", "json")
    assert status == 1 and json.loads(out)["file"] == wavs[1]
    assert err[0] == f"error: {wavs[0]}: RuntimeError: sizes do not match"


def test_segments_are_checked_before_the_model_is_loaded(wavs, capsys):
    status, _, err = ser_predict(capsys, wavs[0], "--segments", "1000")
    assert status == 1 and "seconds from 0.5 to 300" in err[0]
    status, _, err = ser_predict(capsys, wavs[0], "--segments", "often")
    assert status == 1 and "often: expected auto, none or a number of seconds" in err[-1]


@pytest.mark.parametrize("option", [("--classes", "angry,clam"), ("--abstain", "2")])
def test_decisions_that_cannot_be_are_refused_before_weights_are_loaded(
    wavs, capsys, monkeypatch, option
):
    monkeypatch.setattr(ser.predict.package, "load_models", lambda *_: pytest.fail("loaded"))
    status, _, err = ser_predict(capsys, wavs[0], *option)
    assert status == 1 and err[-1].startswith(f"error: {' '.join(option)}: expected")


def test_without_a_model_the_only_experiment_is_taken(tmp_path):
    with pytest.raises(UserError, match="holds no experiment; .* make demo"):
        default_model(tmp_path)
    for tag in ("s1", "s2"):
        (tmp_path / "mini" / tag).mkdir(parents=True)
    (tmp_path / "mini/s1/run.yaml").touch()
    assert default_model(tmp_path) == str(tmp_path / "mini/s1")
    (tmp_path / "mini/s2/run.yaml").touch()
    with pytest.raises(UserError, match="several; choose one:\n.*mini/s1\n.*mini/s2"):
        default_model(tmp_path)


# --- a model that was trained ------------------------------------------------------------------


def test_a_trained_fold_says_of_its_test_speaker_what_stage_5_says_at_its_temperature(
    tmp_path, capsys
):
    corpus = make_corpus(tmp_path)
    exp, dump = tmp_path / "exp/tones/system_strict_seed1", tmp_path / "dump/tones"
    train(corpus, exp)
    infer_folds(exp, dump, folds=["Ses01F"])
    experiment = open_experiment(exp, dump)
    expected = read_predictions(
        exp / "Ses01F/predictions.tsv", experiment.labels, experiment.references("Ses01F")
    )
    files = [read_table(dump / "wav.scp")[row.utt_id] for row in expected]
    capsys.readouterr()
    arguments = ["--folds", "Ses01F", "--segments", "none", "--format", "json", "--device", "cpu"]
    _, out, _ = ser_predict(capsys, *files, *arguments, model=exp)
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(expected) == 8
    for said, row in zip(found, expected, strict=True):
        powers = np.array(row.probs) ** (1 / experiment.temperature("Ses01F"))
        probs = powers / powers.sum()
        assert list(said["probabilities"].values()) == pytest.approx(probs.tolist(), abs=1e-4)
        assert said["emotion"] == row.hyp
        assert tuple(unit["unit"] for unit in said["units"]) == row.units
        assert all(0 <= u["start"] < u["end"] <= said["duration"] for u in said["units"])
