"""Prediction needs torch and transformers, and little else; with ONNX graphs neither of them."""

import json
import subprocess
import sys
from pathlib import Path

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
# All that prediction with ONNX graphs may import beside Python's own.
WITH_GRAPHS = {
    *("ser", "numpy", "soundfile", "soxr", "onnxruntime", "tqdm", "cffi", "_cffi_backend"),
    *("typer", "click", "rich", "shellingham", "yaml", "pydantic", "pydantic_core"),
    *("annotated_types", "annotated_doc", "typing_extensions", "typing_inspection"),
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
    modules = imported(packed, tmp_path)
    assert {"torch", "soundfile"} <= modules
    assert sorted(NEVER & modules) == []


def test_prediction_with_graphs_imports_a_list_of_modules_without_torch(with_graphs, tmp_path):
    modules = imported(with_graphs / "packed", tmp_path) - set(sys.stdlib_module_names)
    assert "onnxruntime" in modules
    prefixes = ("__", "_soundfile", "_yaml", "_cython", "cython", "_distutils", "_sysconfig")
    extensions = {name for name in modules if name.startswith(prefixes)}
    assert sorted(modules - WITH_GRAPHS - extensions) == []


def imported(packed: Path, tmp_path: Path) -> set[str]:
    """The top-level modules of a process after ``ser predict``."""
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
    return set(json.loads(done.stdout.splitlines()[-1]))
