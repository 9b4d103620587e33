"""Faces of utterances from videos, and the bytes that stage 3 keeps of them."""

from fractions import Fraction

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from ser.data.features import extract_features
from ser.data.tables import read_table, write_table
from ser.data.video import FRAME_BYTES, SOUND_BYTES, audio_video, parse, read_faces, whole_picture
from ser.errors import UserError
from ser.models.audio_visual import samples_of
from ser.predict.classifier import SpeechEmotion
from ser.predict.models import Output
from ser.predict.windows import Window

av = pytest.importorskip("av", reason="PyAV: not installed: requirements-apps.txt")
RATE = 10  # pictures a second


def write_video(path, colours, rate=RATE, codec="mpeg4"):
    """A video whose picture k is of the grey ``colours[k]`` left, and its negative right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 320, 160, "yuv420p"
        stream.time_base = Fraction(1, rate)
        stream.bit_rate = 8_000_000
        stream.codec_context.gop_size = 12  # key frames are rare, as in IEMOCAP's
        for colour in colours:
            picture = np.full((160, 320, 3), colour, np.uint8)
            picture[:, 160:] = 255 - colour
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("a folder") / "dialog.avi"
    return write_video(path, [8 * k for k in range(30)])  # 3 s, brighter with time


def test_picture_k_is_the_newest_of_the_video_at_start_and_k_40_ms(video):
    left = read_faces(f"1.05 10 20 100 120 {video}", 40)
    right = read_faces(f"1.05 200 20 300 120 {video}", 40)
    newest = [int((1.05 + 0.04 * k) * RATE + 1e-9) for k in range(40)]
    expected = np.array([8 * min(k, 29) for k in newest])
    assert left.shape == (40, 96, 96, 3)
    assert np.abs(left.mean(axis=(1, 2, 3)) - expected).max() < 3
    assert np.abs(right.mean(axis=(1, 2, 3)) - (255 - expected)).max() < 3
    after_its_end = read_faces(f"2.9 10 20 100 120 {video}", 50)
    assert np.abs(after_its_end.mean(axis=(1, 2, 3)) - 8 * 29).max() < 3


def test_samples_survive_as_bytes_beside_black_pictures():
    speech = np.array([0, 1, -1, 255, 256, -256, 32767, -32768] * 100, np.int16)
    frames = audio_video(speech, "")
    assert frames.shape == (2, FRAME_BYTES) and frames.min() >= 0 and frames.max() <= 255
    heard = samples_of(torch.from_numpy(frames)[None])[0] * 32768
    assert heard[:800].tolist() == speech.tolist() and not heard[800:].any()
    assert not frames[:, SOUND_BYTES:].any()


@pytest.mark.parametrize("line", ["", "1 2 3 4 5", "a 0 0 9 9 x", "1 9 0 9 9 x", "-1 0 0 9 9 x"])
def test_a_line_that_is_none_is_shown_with_what_it_should_be(line):
    with pytest.raises(UserError, match="expected '<utterance> <start in seconds>"):
        parse(line)


def test_videos_that_cannot_be_used_are_named(video, tmp_path):
    (tmp_path / "a.avi").write_bytes(b"no video")
    for line, said in (
        (f"0 0 0 9 9 {tmp_path}/a.avi", "a.avi: cannot be read as a video"),
        (f"0 0 0 9 9 {tmp_path}/none.avi", "none.avi: cannot be read as a video"),
        (f"9.0 0 0 9 9 {video}", "ends before 9.00 s"),
        (f"0 900 0 990 9 {video}", "a box at 900, 0 in pictures of 320 pixels"),
    ):
        with pytest.raises(UserError, match=said):
            read_faces(line, 3)


def test_stage_3_keeps_what_was_computed_and_counts_what_has_no_video(video, tmp_path, capsys):
    rng = np.random.default_rng(0)
    speech = {u: rng.integers(-(2**15), 2**15, 1000).astype(np.int16) for u in ("a", "b")}
    wavs = {u: f"{tmp_path}/{u}.wav" for u in speech}
    for utt, samples in speech.items():
        soundfile.write(wavs[utt], samples, 16000, subtype="PCM_16")
    write_table(tmp_path / "wav.scp", wavs)
    write_table(tmp_path / "utt2hash", dict.fromkeys(speech, "x"))
    write_table(tmp_path / "utt2num_samples", dict.fromkeys(speech, 1000))
    with pytest.raises(UserError, match="no video is known, which feats_type audio_video needs"):
        extract_features(tmp_path, "audio_video", 1)
    lines = {"a": f"0.5 10 20 100 120 {video}"}
    write_table(tmp_path / "utt2video", lines)
    assert extract_features(tmp_path, "audio_video", 1)
    assert "1 of 2 utterances have no video" in capsys.readouterr().out
    feats = read_table(tmp_path / "audio_video/feats.scp")
    for utt, samples in speech.items():
        kept = kaldiio.load_mat(feats[utt])
        np.testing.assert_array_equal(kept, audio_video(samples, lines.get(utt, "")))
    assert read_table(tmp_path / "audio_video/utt2num_frames") == {"a": "2", "b": "2"}
    assert not extract_features(tmp_path, "audio_video", 1)
    write_table(tmp_path / "utt2video", {"a": f"0.5 10 20 90 120 {video}"})
    assert extract_features(tmp_path, "audio_video", 1)


def test_a_packed_model_looks_at_the_video_whose_sound_it_hears(video, tmp_path):
    speech = np.random.default_rng(0).integers(-9000, 9000, 16000).astype(np.int16)
    heard = []

    class Model:
        emotions, units, values = ["angry", "sad"], [], []

        def __call__(self, batch):
            heard.append(batch)
            return Output(np.log(np.full((len(batch), 2), 0.5)), None, {})

    classifier = SpeechEmotion([Model()], "audio_video")
    with pytest.raises(UserError, match="this model reads faces too"):
        classifier(speech, 16000)
    soundfile.write(tmp_path / "a.wav", speech, 16000)
    with pytest.raises(UserError, match="a.wav: cannot be read as a video"):
        classifier(tmp_path / "a.wav")
    windows = [Window(8000, speech, (8000, 16000))]
    list(classifier._infer("a", windows, whole_picture(str(video))))
    np.testing.assert_array_equal(
        heard[0][0],
        audio_video(speech, f"0.5 80 0 240 160 {video}"),  # the middle square
    )
