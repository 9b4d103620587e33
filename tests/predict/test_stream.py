"""A line for every second of speech that is still being spoken."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ser.errors import UserError
from ser.predict.stream import follow
from tests.predict.test_classifier import RATE, fake, packed, said_like, ser_predict

__all__ = ["packed"]


def pcm(samples: np.ndarray) -> bytes:
    return np.rint(samples * 32768).astype("<i2").tobytes()


class Pipe(io.RawIOBase):
    """Gives some bytes at a time, an odd number, and says how many were ever asked for at once."""

    def __init__(self, data: bytes):
        self.data, self.most = io.BytesIO(data), 0

    def read(self, count: int = -1) -> bytes:
        self.most = max(self.most, count)
        return self.data.read(min(count, 1001))


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
def test_each_second_is_about_the_six_before_it(rate):
    speech = said_like("angry", "sad", seconds=8, rate=rate)
    speech += 0.001 * np.random.default_rng(0).standard_normal(len(speech))
    speech = np.rint(speech * 32768) / 32768
    pipe = Pipe(pcm(speech) + b"\x01")
    said = list(follow(fake(), pipe, rate))
    assert [(s.start, s.end) for s in said] == [(max(0, k - 6), k) for k in range(1, 17)]
    assert {s.emotion for s in said[:8]} == {"angry"} and {s.emotion for s in said[13:]} == {"sad"}
    assert pipe.most == 2 * rate  # a second is held back, whatever comes after
    if rate == RATE:
        window = speech[4 * RATE : 10 * RATE]
        assert said[9].probabilities == fake()(window, RATE, segments="none").probabilities


def test_silence_is_said_and_the_command_prints_a_line_a_second(packed, capsys, monkeypatch):
    data = pcm(np.concatenate([said_like("sad", seconds=2), np.zeros(RATE)]))
    for form in ("text", "json"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        status, out, err = ser_predict(capsys, "-", "--stream", "--format", form)
        assert (status, err) == (0, [])
        lines = out.splitlines()
        if form == "text":
            assert [line.split()[:2] for line in lines] == [
                ["0:01.0", "sad"],
                ["0:02.0", "sad"],
                ["0:03.0", "silence"],
            ]
        else:
            assert [json.loads(line)["emotion"] for line in lines] == ["sad", "sad", "silence"]


def test_options_that_do_not_fit_are_refused(packed, capsys):
    for options in (["a.wav"], ["-", "--format", "csv"]):
        _, _, err = ser_predict(capsys, *options, "--stream")
        assert err == ["error: --stream: reads standard input, '-', and prints text or json lines"]
    with pytest.raises(UserError, match="--rate 800: expected the samples' rate"):
        next(follow(fake(), io.BytesIO(b""), 800))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"RIFF" + bytes(40000), r"an audio file \(it starts with b'RIFF'\), but --stream reads"),
        (b"caff" + bytes(40000), r"an audio file \(it starts with b'caff'\)"),
        (b"RIFF", "ended after 4 bytes, less than a second"),
        (b"", "ended after 0 bytes, less than a second of samples; check the program"),
    ],
)
def test_what_is_no_stream_of_samples_is_refused(data, said):
    with pytest.raises(UserError, match=f"^standard input: {said}"):
        list(follow(fake(), io.BytesIO(data), RATE))
