"""predict/recordings.py: whatever the recording is, the samples that training would have seen."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile
import torch

from ser.data.audio import BLOCK_SECONDS, read_16k_mono
from ser.errors import UserError
from ser.predict.recordings import open_recording
from tests.support import ROOT


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    waves = [0.3 * np.sin(2 * np.pi * (300 + 20 * c) * t) for c in range(channels)]
    return np.stack(waves, axis=1)


def whole(recording) -> np.ndarray:
    return np.concatenate(list(recording.blocks()))


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("a.wav", 16000, 1, "PCM_16"),
        ("a.wav", 16000, 1, "PCM_U8"),
        ("a.wav", 44100, 2, "PCM_24"),
        ("a.wav", 192000, 6, "FLOAT"),
        ("a.flac", 48000, 2, "PCM_16"),
        ("a.aiff", 8000, 1, "PCM_16"),
        ("a.ogg", 22050, 1, "VORBIS"),
        ("a.mp3", 44100, 2, "MPEG_LAYER_III"),
    ],
)
def test_blocks_put_together_are_what_training_reads(tmp_path, name, rate, channels, subtype):
    path = tmp_path / name
    soundfile.write(path, tone(2 * BLOCK_SECONDS + 1.3, rate, channels), rate, subtype=subtype)
    recording = open_recording(path)
    blocks = list(recording.blocks())
    assert len(blocks) > 2  # so that seams between blocks are among what is compared
    assert max(map(len, blocks)) <= (BLOCK_SECONDS + 1) * 16000
    joined = np.concatenate(blocks)
    np.testing.assert_array_equal(joined, read_16k_mono(path))
    assert recording.duration == pytest.approx(len(joined) / 16000, abs=0.01)


def test_resampling_in_blocks_leaves_no_seam(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2 * BLOCK_SECONDS, 48000), 48000, subtype="FLOAT")
    found = whole(open_recording(path)) / 32768
    middle = slice(2000, -2000)  # away from the filter's edges
    expected = tone(2 * BLOCK_SECONDS, 16000)[:, 0]
    assert np.abs(found - expected)[middle].max() < 1e-3


@pytest.mark.parametrize("name", ["mp3 called.wav", "mp3.raw", "mp3 without suffix", "mp3.txt"])
def test_the_content_decides_not_the_name(tmp_path, name):
    soundfile.write(tmp_path / "a.mp3", tone(0.5, 16000), 16000)
    (tmp_path / name).write_bytes((tmp_path / "a.mp3").read_bytes())
    np.testing.assert_array_equal(
        whole(open_recording(tmp_path / name)), read_16k_mono(tmp_path / "a.mp3")
    )


def test_an_array_is_what_its_file_would_be(tmp_path):
    samples = tone(7, 44100, 2)
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="DOUBLE")
    expected = read_16k_mono(tmp_path / "a.wav")
    for array in (samples, samples.T, torch.from_numpy(samples)):
        np.testing.assert_array_equal(whole(open_recording(array, 44100)), expected)
    in_32_bits = whole(open_recording(samples.astype(np.float32), 44100)).astype(int)
    assert np.abs(in_32_bits - expected).max() <= 1
    assert open_recording(samples, 44100).duration == pytest.approx(7)


def test_integers_are_of_full_scale_whatever_their_width():
    expected = np.array([0, 16384, -32768] * 200, dtype=np.int16)
    as_int32 = expected.astype(np.int32) * 65536
    as_uint8 = (expected // 256 + 128).astype(np.uint8)
    as_float = (expected / 32768).astype(np.float32)
    for array in (expected, as_int32, as_uint8, as_float):
        np.testing.assert_array_equal(whole(open_recording(array, 16000)), expected)


@pytest.mark.parametrize("bits", [16, 24])
def test_a_narrow_scale_in_wide_integers_is_refused_and_not_heard_as_silence(bits):
    samples = (tone(0.5, 16000) * 2 ** (bits - 1)).astype(np.int64)
    peak = np.abs(samples).max()
    for array in (samples, samples.astype(np.int32), samples.tolist(), torch.from_numpy(samples)):
        with pytest.raises(UserError, match=rf"samples reach {peak} of a full scale of 2\*\*"):
            open_recording(array, 16000)


def test_whatever_gives_samples_is_an_array():
    samples = tone(0.5, 16000).astype(np.float32)
    expected = whole(open_recording(samples, 16000))
    tensor = torch.from_numpy(samples)
    for array in (samples.tolist(), tensor.requires_grad_(), tensor.double()):
        np.testing.assert_array_equal(whole(open_recording(array, 16000)), expected)
    kept = {"array": samples, "sampling_rate": 16000, "path": None}  # as datasets has it
    np.testing.assert_array_equal(whole(open_recording(kept)), expected)
    rounded = whole(open_recording(tensor.bfloat16(), np.int16(16000)))
    np.testing.assert_allclose(rounded, expected, atol=2**15 / 2**8)
    ragged = [[1.0, 2.0], [3.0]]
    other = ["a.wav", "b.wav"], {"waveform": samples, "sample_rate": 16000}
    for odd in (ragged, (16000, samples), open, torch.eye(800).to_sparse(), *other):
        for rate in (16000, None):
            with pytest.raises(UserError, match=r"the array: .*; (give a NumPy|expected samples)"):
                open_recording(odd, rate)
    with pytest.raises(UserError, match="0 samples .* shorter than one"):
        open_recording(np.zeros((2, 0)), 16000)


@pytest.mark.parametrize("rate", ["16000", [16000], float("nan"), float("inf"), 0, -1])
def test_a_rate_that_is_no_number_of_hertz_is_refused(rate):
    with pytest.raises(UserError, match="sampling_rate is .*; give it in Hz"):
        open_recording(np.zeros(800), rate)


def test_an_array_needs_its_rate_and_a_shape():
    with pytest.raises(UserError, match="sampling_rate is None; give it in Hz"):
        open_recording(np.zeros(800))
    with pytest.raises(UserError, match="sampling_rate is 16; give it in Hz"):
        open_recording(np.zeros(800), 16)
    with pytest.raises(UserError, match=r"shape \(1, 2, 3\); expected samples"):
        open_recording(np.zeros((1, 2, 3)), 16000)
    with pytest.raises(UserError, match="expected samples as numbers"):
        open_recording(np.array(["a"] * 800), 16000)


@pytest.fixture
def m4a(tmp_path):
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100))
    return path


def test_what_libsndfile_does_not_read_asks_for_torchcodec(m4a, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(UserError, match=r"MP4 or M4A .*requirements-apps.txt, or convert it: ffm"):
        open_recording(m4a)


def test_text_called_wav_is_not_said_to_need_a_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    (tmp_path / "a.wav").write_text("no audio " * 20)
    with pytest.raises(UserError, match=r"not an audio file \(it starts with b'no audio no '\)"):
        open_recording(tmp_path / "a.wav")


def fake_torchcodec(monkeypatch, decoder):
    package = types.ModuleType("torchcodec")
    package.decoders = types.ModuleType("torchcodec.decoders")
    package.decoders.AudioDecoder = decoder
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", package.decoders)


def test_torchcodec_is_read_block_by_block(m4a, tmp_path, monkeypatch):
    samples = tone(2 * BLOCK_SECONDS + 1.3, 44100, 2)
    asked = []

    class Decoder:
        metadata = types.SimpleNamespace(duration_seconds=len(samples) / 44100, sample_rate=44100)

        def __init__(self, path):
            assert path == str(m4a)

        def get_samples_played_in_range(self, start, stop):
            asked.append((start, stop))
            part = samples[round(start * 44100) : round(stop * 44100)].T
            return types.SimpleNamespace(data=torch.from_numpy(part).float())

    fake_torchcodec(monkeypatch, Decoder)
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    found = whole(open_recording(m4a))
    np.testing.assert_array_equal(found, read_16k_mono(tmp_path / "a.wav"))
    assert [stop - start for start, stop in asked[:2]] == [BLOCK_SECONDS] * 2


def test_what_torchcodec_cannot_decode_either_is_refused(m4a, tmp_path, monkeypatch):
    def refuse(path):
        raise RuntimeError("Failed to open input buffer")

    fake_torchcodec(monkeypatch, refuse)
    with pytest.raises(UserError, match=r"M4A without .* \(Failed to open .*cut short"):
        open_recording(m4a)
    (tmp_path / "a.wav").write_text("no audio " * 20)
    with pytest.raises(UserError, match="not an audio file"):
        open_recording(tmp_path / "a.wav")


def test_a_torchcodec_that_does_not_load_is_said(m4a, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torchcodec":
                raise OSError("libavutil.so.59: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UserError, match=r"does not load here \(libavutil.*apt install ffmpeg"):
        open_recording(m4a)


@pytest.mark.parametrize("files", [["gone.wav"], ["empty.wav"], ["."], ["gone.wav", "empty.wav"]])
def test_files_of_which_none_is_audio_are_refused_before_a_model_is_looked_for(tmp_path, files):
    (tmp_path / "empty.wav").touch()
    command = [sys.executable, "-m", "ser", "predict", *files, "--model", "no/such/model"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 1 and not done.stdout
    lines = done.stderr.splitlines()
    assert all(f"error: {name}: " in line for name, line in zip(files, lines, strict=False))
    assert len(lines) == len(files) + (len(files) > 1)
