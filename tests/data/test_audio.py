"""ser/data/audio.py: what is converted, what is refused, and what the refusal says."""

import struct

import numpy as np
import pytest
import soundfile

from ser.data.audio import FRAME_SAMPLES, probe, read_16k_mono
from ser.errors import UserError


def tone(seconds=0.5, rate=16000, freq=440.0, amplitude=0.5):
    """A sine in [-amplitude, amplitude], shape (samples,)."""
    return amplitude * np.sin(2 * np.pi * freq * np.arange(int(seconds * rate)) / rate)


def write(path, samples, rate=16000, subtype="PCM_16"):
    soundfile.write(path, samples, rate, subtype=subtype, format="WAV")
    return path


def test_probe_reads_length_rate_and_channels_from_the_header(tmp_path):
    stereo = np.stack([tone(rate=48000), tone(rate=48000)], axis=1)
    info = probe(write(tmp_path / "a.wav", stereo, 48000, "PCM_24"))
    assert (info.num_samples, info.sample_rate, info.channels) == (24000, 48000, 2)
    assert info.subtype == "PCM_24"
    assert info.duration == 0.5
    assert not info.is_16k_mono_pcm16


def test_a_16k_mono_16bit_file_comes_back_bit_by_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 800).astype(np.int16)
    path = write(tmp_path / "a.wav", samples)
    assert probe(path).is_16k_mono_pcm16
    read = read_16k_mono(path)
    assert read.dtype == np.int16
    np.testing.assert_array_equal(read, samples)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_sample_format_gives_the_same_tone(tmp_path, subtype):
    expected = np.rint(tone() * 32768)
    read = read_16k_mono(write(tmp_path / "a.wav", tone(), subtype=subtype))
    assert read.dtype == np.int16
    tolerance = 256 if subtype == "PCM_U8" else 1  # one step of 8 bits is 256 steps of 16
    assert np.abs(read - expected).max() <= tolerance


def test_stereo_becomes_the_mean_of_its_channels_without_wrapping(tmp_path):
    # 32767 + 32767 would wrap to -2 in 16 bits; the mean of 100 and 50 is 75.
    left = np.array([32767, -32768, 100] * 200, dtype=np.int16)
    right = np.array([32767, -32768, 50] * 200, dtype=np.int16)
    read = read_16k_mono(write(tmp_path / "a.wav", np.stack([left, right], axis=1)))
    np.testing.assert_array_equal(read[:3], [32767, -32768, 75])


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_another_rate_is_resampled_to_the_same_tone_at_16_khz(tmp_path, rate):
    read = read_16k_mono(write(tmp_path / "a.wav", tone(1.0, rate), rate))
    assert abs(len(read) - 16000) <= 1
    middle = slice(2000, 14000)  # away from the filter's edges
    error = read[middle] / 32768 - tone(1.0)[: len(read)][middle]
    assert np.abs(error).max() < 1e-3


def test_a_full_scale_square_wave_is_clipped_not_wrapped_when_resampled(tmp_path):
    square = np.sign(tone(0.5, 48000, 100.0)) * 0.99
    read = read_16k_mono(write(tmp_path / "a.wav", square, 48000))
    source = np.sign(tone(0.5, 16000, 100.0))[: len(read)]
    inside = (np.arange(len(read)) % 80 > 20) & (np.arange(len(read)) % 80 < 60)
    assert read.max() == 32767  # the overshoot of the filter reaches full scale
    assert (np.sign(read[inside]) == source[inside]).all()


def test_float_overshoot_is_clipped(tmp_path):
    read = read_16k_mono(write(tmp_path / "a.wav", tone(amplitude=1.5), subtype="FLOAT"))
    assert (read.max(), read.min()) == (32767, -32768)


@pytest.mark.parametrize("chunks", [(b"INFOx\0",), (b"INFOx",), (b"INFOx", b"INFOabc")])
def test_a_list_chunk_before_the_data_is_no_obstacle_padded_or_not(tmp_path, chunks):
    path = write(tmp_path / "a.wav", tone())
    expected, raw = read_16k_mono(path), path.read_bytes()
    between = b"".join(b"LIST" + struct.pack("<I", len(c.rstrip(b"\0"))) + c for c in chunks)
    path.write_bytes(raw[:36] + between + raw[36:])
    np.testing.assert_array_equal(read_16k_mono(path), expected)
    assert probe(path).num_samples == 8000


@pytest.mark.parametrize("length", [400, 4095, 4096, 4097, 20000])
def test_flac_that_was_written_through_a_pipe_is_read_whole(tmp_path, length):
    samples = np.random.default_rng(0).integers(-3000, 3000, length).astype(np.int16)
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, 16000)
    raw = path.read_bytes()
    described = int.from_bytes(raw[18:26], "big") >> 36 << 36  # the last 36 bits: no length
    path.write_bytes(raw[:18] + described.to_bytes(8, "big") + raw[26:])
    assert probe(path).num_samples == length
    np.testing.assert_array_equal(read_16k_mono(path), samples)


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_length_that_the_writer_could_not_know_is_taken_from_the_file(tmp_path, size):
    path = write(tmp_path / "a.wav", tone())
    raw = bytearray(path.read_bytes())
    raw[40:44] = struct.pack("<I", size)
    path.write_bytes(raw)
    assert len(read_16k_mono(path)) == 8000


def test_an_au_file_of_unknown_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.au"
    soundfile.write(path, tone(), 16000, format="AU", subtype="PCM_16")
    raw = path.read_bytes()
    path.write_bytes(raw[:8] + b"\xff" * 4 + raw[12:])
    assert len(read_16k_mono(path)) == len(tone())


def test_a_path_with_blanks_quotes_and_umlauts_is_read(tmp_path):
    assert probe(write(tmp_path / 'Käse \'n "x" |.wav', tone())).num_samples == 8000


def refused(path, function=read_16k_mono):
    with pytest.raises(UserError) as caught:
        function(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


JOINABLE = [
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("FLAC", "PCM_16"),
    ("WAV", "PCM_16"),
    ("AIFF", "PCM_16"),
    *[(kind, "PCM_16") for kind in ("AU", "CAF", "W64", "RF64")],
]


@pytest.mark.parametrize(("kind", "subtype"), JOINABLE)
def test_one_recording_with_tags_around_it_is_read(tmp_path, kind, subtype):
    path = tmp_path / "a"
    soundfile.write(path, tone(2.0), 16000, format=kind, subtype=subtype)
    raw = path.read_bytes()
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10) if kind == "MP3" else b""
    path.write_bytes(tag + raw + b"TAG" + bytes(125))
    assert probe(path).duration == pytest.approx(2.0, abs=0.16)
    assert len(read_16k_mono(path)) == pytest.approx(32000, abs=2500)


@pytest.mark.parametrize("function", [probe, read_16k_mono])
class TestRefusedByTheHeader:
    def test_missing(self, tmp_path, function):
        assert "no such file" in refused(tmp_path / "a.wav", function)

    def test_a_directory(self, tmp_path, function):
        assert "not a file" in refused(tmp_path, function)

    def test_empty(self, tmp_path, function):
        (tmp_path / "a.wav").touch()
        assert "empty (0 bytes)" in refused(tmp_path / "a.wav", function)

    @pytest.mark.parametrize("kept", [-1, 1000, 44, 30, 10, 3])
    def test_truncated(self, tmp_path, function, kept):
        path = write(tmp_path / "a.wav", tone())
        path.write_bytes(path.read_bytes()[:kept])
        assert "truncated" in refused(path, function)

    @pytest.mark.parametrize(
        ("container", "endian"),
        [(name, "FILE") for name in ("AIFF", "AU", "RF64", "W64", "CAF")]
        + [(name, endian) for name in ("AIFF", "AU", "CAF") for endian in ("BIG", "LITTLE")]
        + [("WAV", "BIG"), ("WAV", "LITTLE")],
    )
    def test_truncated_in_another_container(self, tmp_path, function, container, endian):
        path = tmp_path / "a.wav"
        soundfile.write(path, tone(), 16000, "PCM_16", endian, container)
        function(path)
        path.write_bytes(path.read_bytes()[:-1000])
        assert "truncated" in refused(path, function)

    @pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "ULAW"])
    def test_sphere_whose_header_counts_other_samples(self, tmp_path, function, subtype):
        path = tmp_path / "a.sph"
        soundfile.write(path, tone(), 16000, subtype, format="NIST")
        function(path)
        raw = path.read_bytes()
        path.write_bytes(raw[:-1000])
        assert "truncated" in refused(path, function)
        path.write_bytes(2 * raw)
        assert "more follow, which would be read as sound" in refused(path, function)

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.97, 0.9999])
    def test_truncated_ogg(self, tmp_path, function, subtype, share):
        path = tmp_path / "a.ogg"
        soundfile.write(path, tone(20), 16000, format="OGG", subtype=subtype)
        function(path)
        raw = path.read_bytes()
        path.write_bytes(raw[: int(share * len(raw))])
        assert "truncated" in refused(path, function)

    @pytest.mark.parametrize(("kind", "subtype"), JOINABLE)
    @pytest.mark.parametrize("parts", [2, 3])
    def test_several_recordings_in_one_file(self, tmp_path, function, kind, subtype, parts):
        path = tmp_path / "a"
        soundfile.write(path, tone(2.0), 16000, format=kind, subtype=subtype)
        whole = function(path)
        seconds = (len(whole) if function is read_16k_mono else whole.num_samples) / 16000
        if subtype == "OPUS" and function is probe:
            seconds = whole.duration
        one = path.read_bytes()
        path.write_bytes(
            (b"TAG" + bytes(125) if kind == "MP3" and parts == 3 else b"").join([one] * parts)
        )
        message = refused(path, function)
        assert f"{parts} recordings in one file" in message
        lost = float(message.split(" s lost")[0].split()[-1])
        assert lost == pytest.approx((parts - 1) * seconds, abs=0.1)

    def test_samples_behind_those_that_the_header_counts(self, tmp_path, function):
        path = write(tmp_path / "a.wav", tone(2.0))
        raw = path.read_bytes()
        path.write_bytes(raw[:40] + struct.pack("<I", 32000) + raw[44:])
        assert "1.00 s would be lost" in refused(path, function)

    @pytest.mark.parametrize("content", [b"version https://git-lfs", b"x", b"<html>" * 50])
    def test_text_called_wav(self, tmp_path, function, content):
        (tmp_path / "a.wav").write_bytes(content)
        message = refused(tmp_path / "a.wav", function)
        assert "not an audio file" in message
        assert ("run git lfs pull" in message) == content.startswith(b"version")

    @pytest.mark.parametrize("rate", [16000, 48000])
    def test_shorter_than_one_frame(self, tmp_path, function, rate):
        frame = FRAME_SAMPLES * rate // 16000
        path = write(tmp_path / "a.wav", tone(1, rate)[: frame - 1], rate)
        assert "shorter than one 25-ms frame" in refused(path, function)
        write(path, tone(1, rate)[:frame], rate)
        function(path)

    def test_a_length_of_zero_before_samples(self, tmp_path, function):
        path = write(tmp_path / "a.wav", tone())
        raw = path.read_bytes()
        path.write_bytes(raw[:40] + struct.pack("<I", 0) + raw[44:])
        assert "says 0 samples, but 16000 bytes follow" in refused(path, function)

    def test_a_rate_that_no_speech_has(self, tmp_path, function):
        path = write(tmp_path / "a.wav", tone())
        raw = path.read_bytes()
        path.write_bytes(raw[:24] + struct.pack("<I", 1) + raw[28:])
        assert "says 1 samples a second, too few for speech" in refused(path, function)
        function(write(path, tone(1, 4000), 4000))

    def test_no_samples_at_all(self, tmp_path, function):
        path = write(tmp_path / "a.wav", np.zeros(0))
        assert "shorter than one 25-ms frame" in refused(path, function)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "FLOAT"])
def test_silence_is_refused(tmp_path, subtype):
    assert "silent" in refused(write(tmp_path / "a.wav", np.zeros(800), subtype=subtype))


def test_channels_that_cancel_are_said_to_be_averaged(tmp_path):
    stereo = np.stack([tone(), -tone()], axis=1)
    assert "of the mean of its channels are equal" in refused(write(tmp_path / "a.wav", stereo))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused(tmp_path, value):
    samples = tone()
    samples[77] = value
    message = refused(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert "1 samples are NaN or infinite" in message


def test_float_samples_in_16bit_units_are_refused(tmp_path):
    message = refused(write(tmp_path / "a.wav", tone(amplitude=9000), subtype="FLOAT"))
    assert "full scale is 1.0" in message
