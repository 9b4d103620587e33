"""Prediction needs torch and transformers, and little else."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from ser.release.pack import pack_experiment
from tests.support import ROOT
from tests.support.packable import make_experiment

pytestmark = pytest.mark.slow

# Of training, scoring and reporting; some take seconds to import, some are hard to install.
NEVER = {
    *("espnet", "espnet2", "g2p_en", "nltk", "inflect", "kaldiio", "typeguard", "humanfriendly"),
    *("scipy", "sklearn", "pandas", "matplotlib", "librosa", "numba", "h5py", "tensorboard"),
    *("gradio", "onnx", "onnxruntime", "lhotse", "opensmile", "phonemizer", "pypinyin"),
}
SPECTRAL = {
    "feats_type": "spectrogram",
    "frontend": "grey",
    "frontend_conf": {"input_size": 201},
    "encoder": "conv_recurrent",
    "encoder_conf": {"hidden_size": 4},
}


@pytest.mark.parametrize("changes", [{}, SPECTRAL], ids=["waveform", "spectrogram"])
def test_prediction_imports_nothing_of_training_and_reporting(changes, tmp_path):
    packed, _ = pack_experiment(make_experiment(tmp_path, **changes))
    wav = tmp_path / "a.wav"
    soundfile.write(wav, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    script = (
        "import json, sys\n"
        "from ser.cli.app import make_app\n"
        f"arguments = ['predict', {str(wav)!r}, '--model', {str(packed)!r}]\n"
        "make_app('predict')(arguments, standalone_mode=False)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"torch", "soundfile"} <= modules
    assert sorted(NEVER & modules) == []
