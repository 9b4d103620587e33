"""data/features.py: the three feature types against numpy, and arks that survive interruptions."""

import errno
import functools
import sys

import kaldiio
import numpy as np
import pytest

from ser.data.features import (
    FEATS_SIZES,
    FEATS_TYPES,
    FUNCTIONALS,
    extract_features,
    num_frames,
    require_extractor,
    write_arks,
)
from ser.data.tables import read_table, write_table
from ser.errors import UserError
from ser.stage import MARKER


def noisy_tone(num_samples=4000, seed=0):
    """A 1-kHz sine in a little noise, (num_samples,) int16."""
    noise = np.random.default_rng(seed).normal(0, 300, num_samples)
    return (8000 * np.sin(2 * np.pi * np.arange(num_samples) / 16) + noise).astype(np.int16)


def frames_of(speech):
    """(T, 400) float64, every whole frame of 400 samples at steps of 160."""
    windows = np.lib.stride_tricks.sliding_window_view(speech.astype(float), 400)
    return windows[::160]


def hann(size):
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))


def kaldi_log_mel(speech, num_bins, low, high):
    """Log-mel energies as the documentation of Kaldi's compute-fbank-feats defines them."""
    frames = frames_of(speech)
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames * hann(400) ** 0.85
    power = np.abs(np.fft.rfft(frames, 512)) ** 2  # (T, 257)

    def mel(hertz):
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(low), mel(high), num_bins + 2)
    bins = mel(np.arange(256) * 16000 / 512)
    up = (bins - edges[:-2, None]) / (edges[1] - edges[0])
    down = (edges[2:, None] - bins) / (edges[1] - edges[0])
    filters = np.maximum(0, np.minimum(up, down))  # (num_bins, 256)
    return np.log(np.maximum(power[:, :256] @ filters.T, np.finfo(np.float32).eps))


def test_the_spectrogram_is_the_log_of_the_squared_stft():
    speech = noisy_tone()
    expected = np.log(np.abs(np.fft.rfft(frames_of(speech) * hann(400))) ** 2)
    computed = FEATS_TYPES["spectrogram"](speech)
    assert computed.shape == (num_frames(4000), 201)
    np.testing.assert_allclose(computed, expected, atol=1e-2)
    assert (computed.argmax(axis=1) == 25).all()  # 1000 Hz at 40 Hz a column


def test_fbank_is_kaldis_log_mel():
    speech = noisy_tone()
    expected = kaldi_log_mel(speech, 80, 20, 8000)
    computed = FEATS_TYPES["fbank"](speech)
    assert computed.shape == (num_frames(4000), 80)
    np.testing.assert_allclose(computed, expected, atol=1e-2)


def test_mfcc_is_the_liftered_cosine_transform_of_kaldis_log_mel():
    speech = noisy_tone()
    log_mel = kaldi_log_mel(speech, 40, 20, 7600)
    n, k = np.arange(40), np.arange(40)[:, None]
    dct = np.sqrt(2 / 40) * np.cos(np.pi / 40 * (n + 0.5) * k)
    dct[0] = np.sqrt(1 / 40)
    lifter = 1 + 11 * np.sin(np.pi * np.arange(40) / 22)
    computed = FEATS_TYPES["mfcc"](speech)
    assert computed.shape == (num_frames(4000), 40)
    np.testing.assert_allclose(computed, log_mel @ dct.T * lifter, atol=5e-2)


FRAMES = [feats_type for feats_type in FEATS_TYPES if feats_type not in FUNCTIONALS]


@pytest.mark.parametrize("feats_type", FRAMES)
@pytest.mark.parametrize("num_samples, frames", [(400, 1), (559, 1), (560, 2), (16000, 98)])
def test_only_whole_frames_count(feats_type, num_samples, frames):
    assert num_frames(num_samples) == frames
    assert len(FEATS_TYPES[feats_type](noisy_tone(num_samples))) == frames


@pytest.mark.parametrize("feats_type", FRAMES)
def test_digital_silence_inside_an_utterance_stays_finite(feats_type):
    speech = noisy_tone()
    speech[1000:3000] = 0
    assert np.isfinite(FEATS_TYPES[feats_type](speech)).all()


@pytest.fixture
def dump(tmp_path):
    """A dump directory of five utterances in a wav ark; its name holds a blank and a comma."""
    directory = tmp_path / "a dump, really"
    directory.mkdir()
    speech = {f"utt{i}": noisy_tone(1000 + 160 * i, seed=i) for i in range(5)}
    kaldiio.save_ark(
        str(directory / "wav.ark"),
        {utt: (16000, samples) for utt, samples in speech.items()},
        scp=str(directory / "wav.scp"),
    )
    write_table(directory / "utt2num_samples", {u: len(s) for u, s in speech.items()})
    write_table(directory / "utt2hash", {u: f"hash-of-{u}" for u in speech})
    return directory


@pytest.fixture
def opensmile():
    return pytest.importorskip(
        "opensmile", reason="opensmile, which is in requirements-apps.txt, is not installed"
    )


@pytest.mark.parametrize("feats_type", FUNCTIONALS)
def test_functionals_are_those_of_opensmile(opensmile, feats_type):
    name = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016"}[feats_type]
    smile = opensmile.Smile(feature_set=name, feature_level="func")
    speech = noisy_tone(16000)
    computed = FEATS_TYPES[feats_type](speech)
    assert computed.shape == (1, FEATS_SIZES[feats_type]) == (1, smile.num_features)
    assert computed.dtype == np.float32
    np.testing.assert_array_equal(computed, smile.process_signal(speech / 32768, 16000))


@pytest.mark.parametrize("feats_type", FUNCTIONALS)
@pytest.mark.parametrize("samples", [400, 959, 960, 4000])
@pytest.mark.parametrize("make", [noisy_tone, np.zeros, np.ones], ids=["tone", "0", "1"])
def test_functionals_of_short_silent_or_constant_audio_are_finite(
    opensmile, feats_type, samples, make
):
    computed = FEATS_TYPES[feats_type](np.asarray(make(samples), np.int16))
    assert computed.shape == (1, FEATS_SIZES[feats_type]) and np.isfinite(computed).all()


def test_a_functional_that_is_no_number_becomes_0(monkeypatch):
    class Smile:
        def process_signal(self, signal, rate):
            return pandas.DataFrame([[np.nan, np.inf, -np.inf, 1e300, 2.5]])

    pandas = pytest.importorskip("pandas", reason="pandas, which opensmile brings, is missing")
    monkeypatch.setattr("ser.data.features._smile", lambda feature_set: Smile())
    assert FEATS_TYPES["egemaps"](noisy_tone()).tolist() == [[0, 0, 0, 0, 2.5]]


def test_functionals_are_stored_as_they_are_one_row_an_utterance(opensmile, dump):
    assert extract_features(dump, "egemaps", 2)
    wavs = kaldiio.load_scp(str(dump / "wav.scp"))
    for utt, feats in kaldiio.load_scp(str(dump / "egemaps/feats.scp")).items():
        np.testing.assert_array_equal(feats, FEATS_TYPES["egemaps"](wavs[utt][1]))
    assert set(read_table(dump / "egemaps/utt2num_frames").values()) == {"1"}


@pytest.mark.parametrize("feats_type", FUNCTIONALS)
def test_without_opensmile_it_is_said_how_to_install_it_and_what_its_licence_is_for(
    monkeypatch, feats_type
):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    require_extractor("fbank")
    with pytest.raises(UserError, match=r"not installed .* research .*requirements-apps.txt"):
        require_extractor(feats_type)


def test_features_of_an_unknown_type_are_refused_before_audio_is_read():
    with pytest.raises(UserError, match="--feats-type fbnk: no such type; choose one of raw, "):
        require_extractor("fbnk")


@pytest.fixture
def small_arks(monkeypatch):
    monkeypatch.setattr("ser.data.features.UTTERANCES_PER_ARK", 2)


@pytest.mark.parametrize("nj", [1, 2])
def test_kaldiio_reads_back_what_was_extracted(dump, small_arks, nj):
    assert extract_features(dump, "fbank", nj)
    feats = kaldiio.load_scp(str(dump / "fbank" / "feats.scp"))
    wavs = kaldiio.load_scp(str(dump / "wav.scp"))
    assert list(feats) == [f"utt{i}" for i in range(5)]
    assert len(list((dump / "fbank").glob("feats.*.ark"))) == 3
    for utt, num in read_table(dump / "fbank" / "utt2num_frames").items():
        expected = FEATS_TYPES["fbank"](wavs[utt][1])
        assert feats[utt].shape == expected.shape == (int(num), 80)
        # One byte a value: the steps are the range of a column divided by some 200.
        assert np.abs(feats[utt] - expected).max() < 0.01 * np.ptp(expected)


def test_features_are_stored_in_one_byte_a_value(dump):
    extract_features(dump, "spectrogram", 1)
    values = sum(int(t) for t in read_table(dump / "spectrogram/utt2num_frames").values()) * 201
    assert (dump / "spectrogram/feats.1.ark").stat().st_size < 4 * values


def test_a_second_extraction_of_the_same_audio_does_nothing(dump):
    assert extract_features(dump, "mfcc", 1)
    before = (dump / "mfcc/feats.1.ark").stat().st_mtime_ns
    assert not extract_features(dump, "mfcc", 1)
    assert (dump / "mfcc/feats.1.ark").stat().st_mtime_ns == before


def test_other_audio_under_the_same_names_is_extracted_again(dump):
    extract_features(dump, "mfcc", 1)
    write_table(dump / "utt2hash", {f"utt{i}": "other" for i in range(5)})
    (dump / "mfcc/feats.9.ark").touch()
    assert extract_features(dump, "mfcc", 1)
    assert not (dump / "mfcc/feats.9.ark").exists()


def identity(loaded, source):
    """A loader for write_arks that notes what it was asked for; 'stop' stands for kill -9."""
    if source == "stop":
        raise KeyboardInterrupt
    loaded.append(source)
    return np.full((3, 2), float(source))


def test_a_killed_run_goes_on_at_the_first_unfinished_ark(tmp_path, small_arks):
    loaded = []
    write = functools.partial(
        write_arks, tmp_path / "d", "feats", load=functools.partial(identity, loaded), nj=1
    )
    with pytest.raises(KeyboardInterrupt):
        write({"a": "1", "b": "2", "c": "3", "d": "stop", "e": "5"}, settings={"x": 1})
    assert not (tmp_path / "d" / MARKER).exists()
    assert not (tmp_path / "d" / "feats.2.ark").exists()
    (tmp_path / "d" / ".feats.2.ark.tmp99").touch()  # what kill -9 leaves
    loaded.clear()

    scp = write({"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}, settings={"x": 1})
    assert loaded == ["3", "4", "5"]  # a and b were kept
    assert {u: kaldiio.load_mat(scp[u])[0, 0] for u in scp} == dict(
        zip("abcde", [1, 2, 3, 4, 5], strict=True)
    )
    assert not list((tmp_path / "d").glob(".*tmp*"))


def test_unfinished_work_with_other_settings_is_not_mixed_in(tmp_path, small_arks):
    loaded = []
    write = functools.partial(
        write_arks, tmp_path / "d", "feats", load=functools.partial(identity, loaded), nj=1
    )
    with pytest.raises(KeyboardInterrupt):
        write({"a": "1", "b": "2", "c": "stop"}, settings={"x": 1})
    loaded.clear()
    write({"a": "1", "b": "2", "c": "3"}, settings={"x": 2})
    assert loaded == ["1", "2", "3"]


@pytest.mark.parametrize("code, words", [(errno.ENOSPC, "No space left"), (errno.EDQUOT, "quota")])
def test_a_full_disk_names_the_ark_and_leaves_no_half_of_it(
    dump, small_arks, monkeypatch, code, words
):
    save_ark = kaldiio.save_ark

    def disk_full_after_three(stream, item, **options):
        if "utt3" in item:
            stream.write(b"half an utterance")
            raise OSError(code, words)
        save_ark(stream, item, **options)

    monkeypatch.setattr("kaldiio.save_ark", disk_full_after_three)
    with pytest.raises(UserError, match=rf"feats\.2\.ark: cannot be written: {words}.*make room"):
        extract_features(dump, "fbank", 1)
    left = sorted(path.name for path in (dump / "fbank").iterdir())
    assert left == [".started", "feats.1.ark", "feats.1.scp"]

    monkeypatch.setattr("kaldiio.save_ark", save_ark)
    first = (dump / "fbank/feats.1.ark").stat().st_mtime_ns
    assert extract_features(dump, "fbank", 1)
    assert (dump / "fbank/feats.1.ark").stat().st_mtime_ns == first
    assert len(kaldiio.load_scp(str(dump / "fbank/feats.scp"))) == 5


def test_a_directory_that_kaldis_tables_cannot_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="--dump-dir: .*bracket"):
        write_arks(tmp_path / "run [2]", "feats", {"a": "1"}, float, {}, 1)
    assert not (tmp_path / "run [2]").exists()
