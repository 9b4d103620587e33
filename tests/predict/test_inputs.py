"""What prediction says of recordings unlike those of training, and refuses before it loads."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr

from ser.data.tables import write_table
from ser.errors import UserError
from ser.predict.classifier import SpeechEmotion
from ser.predict.formats import as_csv, as_json, as_text, as_textgrid, csv_header
from ser.predict.inputs import SYNTHETIC, Meter, describe, differences
from ser.predict.package import open_model
from ser.release.pack import pack_experiment
from tests.support import ROOT
from tests.support.packable import make_experiment

RATE = 16000


def noise(level: float, seconds: float = 2.0, silent: float = 0.0) -> np.ndarray:
    """White noise at ``level`` dB of full scale, then ``silent`` seconds 60 dB below."""
    draw = np.random.default_rng(0).standard_normal
    loud, soft = (draw(int(s * RATE)) * 10 ** (level / 20) for s in (seconds, silent))
    return np.concatenate([loud, soft / 1000]).astype(np.float32)


def telephone(samples: np.ndarray) -> np.ndarray:
    """What of ``samples`` passes through 8000 samples a second."""
    return soxr.resample(soxr.resample(samples, RATE, 8000), 8000, RATE)


def test_treble_is_the_share_of_the_power_above_four_kilohertz():
    time = np.arange(RATE) / RATE
    meter = Meter()
    meter.add(np.sin(2 * np.pi * 1000 * time) + 0.1 * np.sin(2 * np.pi * 6000 * time))
    assert meter.treble == pytest.approx(10 * np.log10(0.01 / 1.01), abs=0.01)
    meter.add(np.zeros(RATE))
    assert meter.treble == pytest.approx(10 * np.log10(0.01 / 1.01), abs=0.01)
    assert Meter().treble == -100


def test_level_and_silence_are_those_of_the_whole_recording_in_any_pieces():
    samples = noise(-30, seconds=3, silent=1)
    whole, pieces = Meter(), Meter()
    whole.add(samples)
    for part in np.split(samples, 10):
        pieces.add((part * 32768).astype(np.int16))
    for meter in (whole, pieces):
        assert meter.level == pytest.approx(-30 + 10 * np.log10(3 / 4), abs=0.1)
        assert meter.silence == pytest.approx(1 / 4, abs=0.01)


@pytest.mark.parametrize(
    ("samples", "rate", "expected"),
    [
        (noise(-25), RATE, ""),
        (noise(-45), RATE, "level is -45 dB, in training -30 to -20 dB"),
        (noise(-3), RATE, "level is -3 dB, in training -30 to -20 dB"),
        (noise(-25, 1, 4), RATE, "80% of it is silent, in training up to 0%"),
        (telephone(noise(-25)), RATE, "it has next to nothing above 4000 Hz, like a telephone"),
        (telephone(noise(-25)), 8000, "it has 8000 samples a second, training had 16000"),
    ],
)
def test_a_recording_far_outside_the_training_set_is_described(samples, rate, expected):
    trained = describe([noise(level) for level in (-30, -25, -20)])
    meter = Meter()
    meter.add(samples)
    found = "; ".join(differences(meter, rate, trained))
    assert expected in found and bool(expected) == bool(found)
    assert differences(meter, RATE, None) == []


def test_a_packed_model_knows_its_training_set_and_warns_in_every_format(tmp_path):
    exp_dir = make_experiment(tmp_path)
    wavs = {}
    for number, level in enumerate((-30, -25, -20)):
        wavs[f"u{number}"] = str(tmp_path / f"{number}.wav")
        soundfile.write(wavs[f"u{number}"], noise(level), RATE, subtype="PCM_16")
    write_table(tmp_path / "dump/toy/wav.scp", wavs)
    packed, _ = pack_experiment(exp_dir)
    assert open_model(packed).card["input"] == {
        "level": [-29.9, -20.1],
        "silence": 0.0,
        "treble": -3.0,
    }
    model = SpeechEmotion.from_pretrained(packed)
    assert model(noise(-25), RATE).warnings == ()
    quiet = model(noise(-60), RATE)
    assert len(quiet.warnings) == 1 and "its level is -60 dB" in quiet.warnings[0]
    lines = as_text("a.wav", quiet).splitlines()
    assert lines[-1] == f"  warning: {quiet.warnings[0]}"
    assert json.loads(as_json("a.wav", quiet))["warnings"] == list(quiet.warnings)
    table = io.StringIO(csv_header(model.emotions) + as_csv("a.wav", quiet))
    head, whole, *segments = (row[-1] for row in csv.reader(table))
    assert (head, whole, set(segments)) == ("warnings", quiet.warnings[0], {""})
    grid = as_textgrid("a.wav", quiet)
    assert 'name = "warnings"' in grid and f'text = "{quiet.warnings[0]}"' in grid
    assert "warnings" not in as_textgrid("a.wav", model(noise(-25), RATE))


def test_a_model_of_synthetic_voices_says_so_with_every_prediction(tmp_path):
    exp_dir = make_experiment(tmp_path, scores={"corpus": "mini"})
    packed, _ = pack_experiment(exp_dir)
    for source in (exp_dir, packed):
        said = SpeechEmotion.from_pretrained(source, folds="Ses01F")(noise(-25), RATE)
        assert said.warnings == (SYNTHETIC,)


def test_a_card_from_anywhere_is_checked(tmp_path):
    packed, _ = pack_experiment(make_experiment(tmp_path))
    config = json.loads((packed / "config.json").read_text())
    config["card"]["input"] = {"level": "loud", "silence": 0.1}
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="card.input.level is 'loud'; .*; copy or download"):
        open_model(packed)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.wav"], "missing.wav: no such file; correct the path"),
        (["empty.wav"], "empty.wav: empty (0 bytes); copy it again"),
        (["folder"], "folder: a folder, not a file; name the audio files in it"),
        (["good.wav", "--model", "folder"], "folder: not a model: it holds neither config.json"),
        (["good.wav", "--model", "gone"], "gone: no such file or folder; give a packed model"),
    ],
)
def test_what_cannot_be_predicted_is_refused_before_torch_is_imported(
    arguments, expected, tmp_path
):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder").mkdir()
    soundfile.write(tmp_path / "good.wav", noise(-25), RATE)
    script = (
        "import sys\nfrom ser.cli.app import main\n"
        f"sys.argv = ['ser', 'predict', *{arguments!r}]\n"
        f"if '--model' not in sys.argv: sys.argv += ['--model', 'any']\n"
        "try: main()\n"
        "finally: print({'torch', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {expected}") and done.stderr.count("\n") == 1
    assert done.stdout == "set()\n"
